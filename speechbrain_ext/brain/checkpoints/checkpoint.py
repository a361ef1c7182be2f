"""`VerifiedCheckpointer`: a checkpoint is whole, finite and never the wrong one."""

from __future__ import annotations

import logging
from pathlib import Path

from speechbrain.utils.checkpoints import Checkpointer, ckpt_recency
from speechbrain.utils.distributed import ddp_barrier

from speechbrain_ext.brain.checkpoints.errors import (
    CheckpointWriteError,
    DamagedCheckpointError,
    NonFiniteStateError,
    none_good,
    writing,
)
from speechbrain_ext.brain.checkpoints.files import read_folder, verify_folder
from speechbrain_ext.brain.checkpoints.inspection import first_good
from speechbrain_ext.brain.checkpoints.order import ranked
from speechbrain_ext.brain.checkpoints.publishing import remove_folder
from speechbrain_ext.brain.checkpoints.ranks import gather_lines, on_main
from speechbrain_ext.brain.checkpoints.saving import SavingVerified
from speechbrain_ext.errors import WorkError

__all__ = [
    "CheckpointWriteError",
    "DamagedCheckpointError",
    "NonFiniteStateError",
    "VerifiedCheckpointer",
    "guard_checkpointer",
    "unguarded",
    "verify_folder",
]

logger = logging.getLogger(__name__)


class VerifiedCheckpointer(SavingVerified):
    """Drop-in for SpeechBrain's ``Checkpointer`` that never keeps or loads a bad one.

    Writing: the state is verified to be finite, everything is written into a temporary
    folder, read back, hashed, flushed and renamed. A process that is killed leaves the
    old checkpoint, or the new one. A NaN metric ranks below every finite one, and the
    last verified checkpoint is never deleted, whatever ``num_to_keep`` says.

    Reading: size and SHA-256 of each file that will be loaded are compared, and a
    damaged checkpoint is passed over for the next one in the same order, with a warning
    that names the file. Damaged folders stay where they are.

    Same arguments, files and hooks as stock, which reads these folders as its own;
    beside them lies ``VERIFIED.json``. Checkpoints of stock are read too: their CRC-32
    and finiteness are checked, and it is said that they are not verified.

    Arguments
    ---------
    checkpoints_dir, recoverables, custom_load_hooks, custom_save_hooks
        As for ``speechbrain.utils.checkpoints.Checkpointer``.
    allow_partial_load : bool
        As for stock: recoverables without a file are passed over.

    Limits: one file system for all ranks; a saver that communicates between ranks and
    fails on one of them is ended by the process group's timeout only.

    Example
    -------
    >>> import tempfile
    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> checkpointer = VerifiedCheckpointer(tempfile.mkdtemp(), {"model": model})
    >>> checkpointer.save_and_keep_only({"loss": 0.5}, min_keys=["loss"])
    >>> with torch.no_grad():
    ...     _ = model.bias.fill_(torch.nan)
    >>> try:
    ...     checkpointer.save_checkpoint({"loss": float("nan")})
    ... except NonFiniteStateError as error:
    ...     print(error.names)
    ['model.bias: NaN']
    >>> checkpointer.recover_if_possible(min_key="loss").meta["loss"]
    0.5
    >>> bool(model.bias.isfinite())
    True
    """

    def __init__(
        self,
        checkpoints_dir,
        recoverables=None,
        custom_load_hooks=None,
        custom_save_hooks=None,
        allow_partial_load=False,
    ):
        with writing(Path(checkpoints_dir), lambda: "all there is"):
            super().__init__(
                checkpoints_dir,
                recoverables,
                custom_load_hooks,
                custom_save_hooks,
                allow_partial_load,
            )

    def add_recoverable(self, name, obj, *args, **kwargs):
        """Register a recoverable, as stock; its buffers are looked at now."""
        super().add_recoverable(name, obj, *args, **kwargs)
        self._inspection.see_recoverables()

    def add_recoverables(self, recoverables):
        """Register several recoverables, as stock."""
        super().add_recoverables(recoverables)
        self._inspection.see_recoverables()

    def save_and_keep_only(
        self,
        meta=None,
        end_of_epoch=True,
        name=None,
        num_to_keep=1,
        keep_recent=True,
        importance_keys=(),
        max_keys=(),
        min_keys=(),
        ckpt_predicate=None,
        verbosity=logging.INFO,
    ):
        """Save a checkpoint, then delete the least important ones, as stock.

        Nothing is deleted if the new one could not be written. The list given as
        ``importance_keys`` stays as it is (stock adds to it at each call).
        """
        self.save_checkpoint(
            meta=meta or {}, end_of_epoch=end_of_epoch, name=name, verbosity=verbosity
        )
        recency = [ckpt_recency] if keep_recent else []
        self.delete_checkpoints(
            num_to_keep=num_to_keep,
            max_keys=max_keys,
            min_keys=min_keys,
            importance_keys=[*importance_keys, *recency],
            ckpt_predicate=ckpt_predicate,
            verbosity=verbosity,
        )

    # -- deleting --------------------------------------------------------------------

    def delete_checkpoints(
        self,
        *,
        num_to_keep=1,
        min_keys=None,
        max_keys=None,
        importance_keys=(ckpt_recency,),
        ckpt_predicate=None,
        verbosity=logging.INFO,
    ):
        """Delete the least important checkpoints, as stock, but not the last good one.

        A damaged checkpoint takes nobody's place among the ``num_to_keep``, and is not
        deleted either.
        """
        if num_to_keep < 0:
            raise ValueError(
                f"VerifiedCheckpointer: num_to_keep must be >= 0, got {num_to_keep}"
            )
        orders = [{"min_key": key} for key in min_keys or ()]
        orders += [{"max_key": key} for key in max_keys or ()]
        orders += [{"importance_key": key} for key in importance_keys]
        for order in orders:
            order["ckpt_predicate"] = ckpt_predicate
        ddp_barrier()  # another rank may still read
        on_main(lambda: self._delete(orders, num_to_keep, verbosity))

    def _delete(self, orders: list[dict], num_to_keep: int, verbosity) -> None:
        inspection = self._inspection
        folders = {f.path: f for f in inspection.folders() if f.checkpoint is not None}

        def is_good(path: Path) -> bool:
            return not inspection.problems(folders[path], everything=True)

        checkpoints = [folder.checkpoint for folder in folders.values()]
        deletable, kept = set(), set()
        for order in orders:
            best_first = [c.path for c in ranked(checkpoints, **order)]
            deletable.update(best_first)
            kept.update(first_good(best_first, is_good, num_to_keep))
        doomed = deletable - kept - set(inspection.damaged)
        newest_first = [c.path for c in ranked(checkpoints)]
        sealed = [path for path in newest_first if folders[path].seal is not None]
        for some in (sealed, newest_first):  # the last verified one, or at least a good
            if first_good([p for p in some if p not in doomed], is_good, 1):
                break
            last = first_good([p for p in some if p in doomed], is_good, 1)
            if last:
                doomed -= set(last)
                logger.log(verbosity, "Kept %s, the last good checkpoint", last[0])
                break
        doomed -= set(inspection.damaged)  # seen just now; somebody should look at it
        for path in reversed(newest_first):
            if path not in doomed:
                continue
            try:
                remove_folder(path)
            except OSError as error:
                logger.warning("checkpoint %s could not be deleted: %s", path, error)
            else:
                logger.log(verbosity, "Deleted checkpoint in %s", path)

    # -- finding ---------------------------------------------------------------------

    def list_checkpoints(self):
        """List the checkpoints whose meta data can be trusted, as stock otherwise."""
        folders = self._inspection.folders()
        return [f.checkpoint for f in folders if f.checkpoint is not None]

    def find_checkpoint(
        self, importance_key=None, max_key=None, min_key=None, ckpt_predicate=None
    ):
        """Pick the best checkpoint that is fit to be loaded; arguments as for stock.

        Raises
        ------
        DamagedCheckpointError
            If there are checkpoints, but none of those asked for is whole.
        """
        found = self.find_checkpoints(
            importance_key=importance_key,
            max_key=max_key,
            min_key=min_key,
            ckpt_predicate=ckpt_predicate,
            max_num_checkpoints=1,
        )
        return found[0] if found else None

    def find_checkpoints(
        self,
        importance_key=None,
        max_key=None,
        min_key=None,
        ckpt_predicate=None,
        max_num_checkpoints=None,
    ):
        """Pick checkpoints that are fit to be loaded, best first; as stock otherwise.

        Raises
        ------
        DamagedCheckpointError
            If there are checkpoints, but none of those asked for is whole.
        """
        inspection = self._inspection
        folders = {f.path: f for f in inspection.folders()}
        order = ranked(
            [f.checkpoint for f in folders.values() if f.checkpoint is not None],
            importance_key,
            max_key,
            min_key,
            ckpt_predicate,
        )
        good = first_good(
            order,
            lambda c: not inspection.problems(folders[c.path]),
            max_num_checkpoints,
        )
        if good:
            inspection.tell_passed_over(good[0], order)
        elif max_num_checkpoints != 0:
            damaged = {f.path: f.problems for f in folders.values() if f.problems}
            damaged |= {c.path: inspection.damaged[c.path] for c in order}
            if damaged:
                raise none_good(self.checkpoints_dir, damaged)
        return good

    # -- loading ---------------------------------------------------------------------

    def recover_if_possible(
        self, importance_key=None, max_key=None, min_key=None, ckpt_predicate=None
    ):
        """Load the best checkpoint that is whole; arguments and return as for stock.

        Raises
        ------
        DamagedCheckpointError
            If there are checkpoints, but none of those asked for is whole.
        """
        while True:
            known = len(self._inspection.damaged)
            chosen = self.find_checkpoint(
                importance_key=importance_key,
                max_key=max_key,
                min_key=min_key,
                ckpt_predicate=ckpt_predicate,
            )
            if chosen is None:
                logger.info("Would load a checkpoint here, but none found yet.")
                return None
            try:
                self.load_checkpoint(chosen)
            except DamagedCheckpointError:
                if len(self._inspection.damaged) == known:
                    raise  # nothing learned: the next round would end the same way
            else:
                return chosen

    def load_checkpoint(self, checkpoint):
        """Load this very checkpoint, as stock, after its files were verified.

        Raises
        ------
        DamagedCheckpointError
            Before anything is loaded, if one of its files is damaged.
        """
        folder = read_folder(Path(checkpoint.path))
        problems = folder.problems or self._inspection.problems(folder, fresh=True)
        if problems:
            self._inspection.damaged[folder.path] = problems
            raise none_good(self.checkpoints_dir, {folder.path: problems})
        if folder.seal is None:
            self._inspection.tell_unverified(folder.path)
        super().load_checkpoint(checkpoint)
        self._inspection.recovered = folder.path

    def agree_on_recovery(self) -> None:
        """Raise on all ranks if they loaded different checkpoints.

        Finding one is no collective, so that one rank may evaluate alone; a training
        calls this once after it has resumed.

        Raises
        ------
        WorkError
            Naming what each rank loaded.
        """
        recovered = self._inspection.recovered
        lines = gather_lines([recovered.name if recovered else "nothing"])
        loaded = [line.rpartition(": ")[2] for line in lines]
        if len(set(loaded)) > 1:
            raise WorkError(
                f"the ranks resumed from different checkpoints of "
                f"{self.checkpoints_dir}: {', '.join(loaded)}\n  Next: see that all "
                "ranks read the same folder, then the same command again"
            )


#: Methods of stock that an override must pass on for its checkpoints to be guarded.
_GUARDED = [
    name
    for name in vars(Checkpointer)
    if not name.startswith(("_", "add_")) and callable(getattr(Checkpointer, name))
]


def guard_checkpointer(checkpointer: Checkpointer) -> None:
    """Give a stock Checkpointer the guarantees of `VerifiedCheckpointer`, in place.

    Arguments
    ---------
    checkpointer : speechbrain.utils.checkpoints.Checkpointer
        Of stock, or of a class derived from it, whose overrides stay in front: what
        they pass on by ``super()`` arrives here. Guarding twice does nothing.

    Raises
    ------
    TypeError
        If it is no SpeechBrain Checkpointer.

    Example
    -------
    >>> import tempfile
    >>> stock = Checkpointer(tempfile.mkdtemp())
    >>> guard_checkpointer(stock)
    >>> isinstance(stock, VerifiedCheckpointer)
    True
    """
    if not isinstance(checkpointer, Checkpointer):
        raise TypeError(
            "guard_checkpointer: not a speechbrain.utils.checkpoints.Checkpointer but "
            f"a {type(checkpointer).__name__}; its checkpoints are not verified"
        )
    if isinstance(checkpointer, VerifiedCheckpointer):
        return
    kind = type(checkpointer)
    if kind is Checkpointer:
        checkpointer.__class__ = VerifiedCheckpointer
    else:
        checkpointer.__class__ = type(
            f"Verified{kind.__name__}",
            (kind, VerifiedCheckpointer),
            {"__module__": kind.__module__},
        )
    for line in unguarded(checkpointer):
        logger.warning("%s", line)
    checkpointer._inspection.see_recoverables()


def unguarded(checkpointer: Checkpointer) -> list[str]:
    """Say which overrides of a user's class keep the guarantees from being given.

    Returns
    -------
    list[str]
        One line for each method that replaces stock's without calling ``super()``.
    """
    lines = []
    for kind in type(checkpointer).__mro__:
        if kind is VerifiedCheckpointer:
            break
        for name in _GUARDED:
            code = getattr(kind.__dict__.get(name), "__code__", None)
            if code is not None and "super" not in code.co_names:
                lines.append(
                    f"{kind.__name__}.{name} does not call super().{name}, so what it "
                    "does is not verified"
                )
    return lines
