"""How a checkpoint is written: all of it, or nothing, and on all ranks alike."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import (
    DEFAULT_SAVE_HOOKS,
    METAFNAME,
    PARAMFILE_EXT,
    Checkpoint,
    Checkpointer,
    get_default_hook,
    torch_save,
    torch_save_once_per_node,
)
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.brain.checkpoints.errors import (
    CheckpointWriteError,
    nonfinite_state,
    writing,
)
from speechbrain_ext.brain.checkpoints.files import file_kinds
from speechbrain_ext.brain.checkpoints.inspection import Inspection
from speechbrain_ext.brain.checkpoints.order import plain_meta, ranked
from speechbrain_ext.brain.checkpoints.publishing import (
    clear_leftovers,
    publish,
    staging_path,
    write_seal,
)
from speechbrain_ext.brain.checkpoints.ranks import (
    agree,
    gather_lines,
    main_only_part,
    on_main,
)
from speechbrain_ext.brain.checkpoints.state import file_lines, live_problems

logger = logging.getLogger(__name__)

#: Savers that write ``state_dict()`` and nothing else.
_STATE_DICT_SAVERS = (torch_save.__wrapped__, torch_save_once_per_node.__wrapped__)


class SavingVerified(Checkpointer):
    """The writing half of `VerifiedCheckpointer`."""

    @property
    def _inspection(self) -> Inspection:
        # Made when first needed: a guarded stock instance never ran our __init__.
        if "_verified_inspection" not in vars(self):
            self._verified_inspection = Inspection(self)
        return self._verified_inspection

    def state_problems(self) -> list[str]:
        """Say what of the live state is not finite and must be; on this rank.

        Returns
        -------
        list[str]
            One line for each tensor; empty if a checkpoint may be written.
        """
        self._inspection.see_recoverables()
        lines = []
        for name, obj in self.recoverables.items():
            hook = self._save_hook(name, obj)
            by_torch = getattr(hook, "__wrapped__", hook) in _STATE_DICT_SAVERS
            if by_torch or isinstance(obj, (torch.nn.Module, torch.optim.Optimizer)):
                lines += live_problems(name, obj, self._inspection.allowed)
        return lines

    def _save_hook(self, name: str, obj: object):
        hook = self.custom_save_hooks.get(name)
        return hook or get_default_hook(obj, DEFAULT_SAVE_HOOKS)

    def save_checkpoint(
        self, meta=None, end_of_epoch=True, name=None, verbosity=logging.INFO
    ):
        """Save a checkpoint, as stock; all of it, or nothing.

        Arguments
        ---------
        meta, end_of_epoch, name, verbosity
            As for stock. Tensors and NumPy numbers in ``meta`` become plain numbers.

        Returns
        -------
        Checkpoint or None
            None on all ranks but the main one.

        Raises
        ------
        NonFiniteStateError
            On all ranks, if a parameter, moment or buffer is not finite on one.
        CheckpointWriteError
            On all ranks, if the disk is full or the folder can't be written to.
        """
        problems = gather_lines(self.state_problems())
        if problems:
            raise nonfinite_state(problems, self._newest_name(), self.checkpoints_dir)
        final, meta = on_main(lambda: self._open(meta or {}, end_of_epoch, name))
        staging = staging_path(final)
        try:
            self._write_recoverables(staging)
            on_main(lambda: self._seal(staging, final))
        finally:
            if if_main_process():
                shutil.rmtree(staging, ignore_errors=True)
        if not if_main_process():
            return None
        kind = "end-of-epoch" if end_of_epoch else "intra-epoch"
        logger.log(verbosity, "Saved an %s checkpoint in %s", kind, final)
        paramfiles = {n: final / f"{n}{PARAMFILE_EXT}" for n in self.recoverables}
        return Checkpoint(final, meta, paramfiles)

    def _writing(self):
        return writing(self.checkpoints_dir, self._newest_name)

    def _open(self, meta, end_of_epoch, name) -> tuple[Path, dict]:
        """Make the temporary folder with its meta data; on the main process."""
        with self._writing():
            self.checkpoints_dir.mkdir(parents=True, exist_ok=True)
            clear_leftovers(self.checkpoints_dir)
            if name is None:
                final = self._new_checkpoint_dirpath()
            else:
                final = self._custom_checkpoint_dirpath(name)
            staging = staging_path(final)
            staging.mkdir()
            try:
                meta = self._save_checkpoint_metafile(
                    staging / METAFNAME, plain_meta(meta), end_of_epoch
                )
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        return final, meta

    def _write_recoverables(self, staging: Path) -> None:
        """Call all savers; those that run on every rank only while all ranks do."""
        error = None
        for name, obj in self.recoverables.items():
            hook = self._save_hook(name, obj)
            path = staging / f"{name}{PARAMFILE_EXT}"
            alone = main_only_part(hook)
            if alone is None:
                agree(error)
                error = self._call(hook, obj, path)
                agree(error)
            elif if_main_process() and error is None:
                error = self._call(alone, obj, path)
        agree(error)

    def _call(self, hook, obj, path: Path) -> Exception | None:
        """Call one saver; its failure is returned, since all ranks must hear of it."""
        try:
            if hook is None:
                raise RuntimeError(
                    f"VerifiedCheckpointer: can't save {path.stem!r}, a {type(obj)}: "
                    "give add_recoverable a custom_save_hook, or decorate its class "
                    "with register_checkpoint_hooks"
                )
            with self._writing():
                hook(obj, path)
        except Exception as error:
            return error
        return None

    def _seal(self, staging: Path, final: Path) -> None:
        """Read back what was written, seal it, and give it its name; on main."""
        nonfinite, problems = {}, []
        for path in sorted(staging.glob(f"*{PARAMFILE_EXT}")):
            try:
                found = file_kinds(path) if path.is_file() else {}
            except ValueError as error:
                raise CheckpointWriteError(
                    f"{self.checkpoints_dir}: what was written can't be read back: "
                    f"{error}\n  Kept: {self._newest_name()}\n  Next: check the disk "
                    f"(df -h '{self.checkpoints_dir}'), then the same command"
                ) from error
            excess = self._inspection.allowed.excess(path.stem, found)
            problems += [f"{path.stem}.{line}" for line in file_lines(excess)]
            nonfinite[path.stem] = found
        if problems:
            raise nonfinite_state(problems, self._newest_name(), self.checkpoints_dir)
        with self._writing():
            seal = write_seal(staging, nonfinite)
            publish(staging, final)
            self._inspection.remember_written(final, seal.files)

    def _newest_name(self) -> str:
        with contextlib.suppress(OSError):
            folders = self._inspection.folders()
            newest = ranked([f.checkpoint for f in folders if f.checkpoint is not None])
            if newest:
                return str(newest[0].path)
        return "nothing, there is no earlier checkpoint"
