"""`VerifiedCheckpointer`: a checkpoint is whole, finite and never the wrong one."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from speechbrain.utils.checkpoints import (
    DEFAULT_LOAD_HOOKS,
    DEFAULT_SAVE_HOOKS,
    METAFNAME,
    PARAMFILE_EXT,
    Checkpoint,
    Checkpointer,
    ckpt_recency,
    get_default_hook,
    torch_recovery,
    torch_save,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process

from speechbrain_ext.brain.checkpoint_files import (
    SEAL,
    Folder,
    clear_leftovers,
    file_kinds,
    finite_problem,
    publish,
    read_folder,
    remove_folder,
    sealed_problem,
    staging_path,
    stock_problem,
    write_seal,
)
from speechbrain_ext.brain.checkpoint_order import plain_meta, ranked
from speechbrain_ext.brain.checkpoint_ranks import (
    agree,
    gather_lines,
    main_only_part,
    on_main,
)
from speechbrain_ext.brain.checkpoint_state import (
    AllowedKinds,
    file_lines,
    live_problems,
)
from speechbrain_ext.errors import UserError, WorkError

logger = logging.getLogger(__name__)


class NonFiniteStateError(WorkError):
    """The state to be saved holds a NaN or an Inf; nothing was written.

    Attributes
    ----------
    names : list[str]
        One line for each bad tensor.
    """

    def __init__(self, message: str = "", names: Iterable[str] = ()):
        super().__init__(message)
        self.names = list(names)


class CheckpointWriteError(WorkError):
    """A checkpoint could not be written; the earlier ones are as they were."""


class DamagedCheckpointError(UserError, RuntimeError):
    """No checkpoint that was asked for is fit to be loaded.

    A RuntimeError too, since that is what stock raises where it notices.
    """


class _Memory:
    """What one Checkpointer knows of its folder and its recoverables."""

    def __init__(self):
        self.allowed = AllowedKinds()
        #: file -> (signature of the file, whether it has a seal, what was wrong)
        self.files: dict[Path, tuple] = {}
        #: folder -> what was found when it should have been loaded
        self.damaged: dict[Path, list[str]] = {}
        self.told: set[tuple] = set()
        self.recovered: Path | None = None


class VerifiedCheckpointer(Checkpointer):
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
    >>> checkpointer.save_and_keep_only({"loss": float("nan")}, min_keys=["loss"])
    Traceback (most recent call last):
    ...
    speechbrain_ext.brain.checkpoint.NonFiniteStateError: ...
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
        with _writing(self, Path(checkpoints_dir)):
            super().__init__(
                checkpoints_dir,
                recoverables,
                custom_load_hooks,
                custom_save_hooks,
                allow_partial_load,
            )

    @property
    def _memory(self) -> _Memory:
        # Made when first needed: a guarded stock instance never ran our __init__.
        return self.__dict__.setdefault("_verified_memory", _Memory())

    def _see_recoverables(self) -> None:
        """Look at what is new; users may put it into the dict themselves."""
        for name, obj in self.recoverables.items():
            self.optional_recoverables.setdefault(name, False)
            self._memory.allowed.see(name, obj)

    def add_recoverable(self, name, obj, *args, **kwargs):
        """Register a recoverable, as stock; its buffers are looked at now."""
        super().add_recoverable(name, obj, *args, **kwargs)
        self._see_recoverables()

    def add_recoverables(self, recoverables):
        """Register several recoverables, as stock."""
        super().add_recoverables(recoverables)
        self._see_recoverables()

    # -- saving ----------------------------------------------------------------------

    def state_problems(self) -> list[str]:
        """Say what of the live state is not finite and must be; on this rank.

        Returns
        -------
        list[str]
            One line for each tensor; empty if a checkpoint may be written.
        """
        self._see_recoverables()
        lines = []
        for name, obj in self.recoverables.items():
            if self._saved_by_torch(name, obj):
                lines += live_problems(name, obj, self._memory.allowed)
        return lines

    def _saved_by_torch(self, name: str, obj: object) -> bool:
        """Whether what is written is known before it is written."""
        hook = self.custom_save_hooks.get(name)
        hook = hook or get_default_hook(obj, DEFAULT_SAVE_HOOKS)
        if getattr(hook, "__wrapped__", hook) is torch_save.__wrapped__:
            return True
        return hasattr(obj, "named_parameters") or hasattr(obj, "param_groups")

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
            raise self._nonfinite(problems)
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

    def _open(self, meta, end_of_epoch, name) -> tuple[Path, dict]:
        """Make the temporary folder with its meta data; on the main process."""
        with _writing(self, self.checkpoints_dir):
            self.checkpoints_dir.mkdir(parents=True, exist_ok=True)
            clear_leftovers(self.checkpoints_dir)
            if name is None:
                final = self._new_checkpoint_dirpath()
            else:
                final = self._custom_checkpoint_dirpath(name)
            staging = staging_path(final)
            staging.mkdir()
            meta = self._save_checkpoint_metafile(
                staging / METAFNAME, plain_meta(meta), end_of_epoch
            )
        return final, meta

    def _write_recoverables(self, staging: Path) -> None:
        """Call all savers; those that run on every rank only while all ranks do."""
        error = None
        for name, obj in self.recoverables.items():
            hook = self.custom_save_hooks.get(name)
            hook = hook or get_default_hook(obj, DEFAULT_SAVE_HOOKS)
            path = staging / f"{name}{PARAMFILE_EXT}"
            alone = main_only_part(hook)
            if alone is None:
                agree(error)
                error = self._call(hook, obj, path, name)
                agree(error)
            elif if_main_process() and error is None:
                error = self._call(alone, obj, path, name)
        agree(error)

    def _call(self, hook, obj, path: Path, name: str) -> Exception | None:
        try:
            if hook is None:
                raise RuntimeError(
                    f"VerifiedCheckpointer: can't save {name!r}, a {type(obj)}: give "
                    "add_recoverable a custom_save_hook, or decorate its class with "
                    "register_checkpoint_hooks"
                )
            with _writing(self, self.checkpoints_dir):
                hook(obj, path)
        except Exception as error:
            return error
        return None

    def _seal(self, staging: Path, final: Path) -> None:
        """Read back what was written, seal it, and give it its name; on main."""
        with _writing(self, self.checkpoints_dir):
            nonfinite, problems = {}, []
            for path in sorted(staging.glob(f"*{PARAMFILE_EXT}")):
                found = (file_kinds(path) if path.is_file() else None) or {}
                excess = self._memory.allowed.excess(path.stem, found)
                problems += [f"{path.stem}.{line}" for line in file_lines(excess)]
                nonfinite[path.stem] = found
            if problems:
                raise self._nonfinite(problems)
            seal = write_seal(staging, nonfinite)
            publish(staging, final)
            self._memory.damaged.pop(final, None)
            for name in seal.files:
                path = final / name
                self._memory.files[path] = (_signature(path), True, None)

    def _nonfinite(self, names: list[str]) -> NonFiniteStateError:
        shown = "\n  ".join(names[:10])
        more = f"\n  ... and {len(names) - 10} more" if len(names) > 10 else ""
        evidence = self.checkpoints_dir.parent / "debug_nan"
        cause = f"; the cause: speechbrain-ext analyze-nan {evidence}"
        return NonFiniteStateError(
            f"the state is not finite, so no checkpoint was written ({len(names)} "
            f"tensors):\n  {shown}{more}\n  Kept: {self._newest_name()}\n"
            "  Next: the same command goes on from there"
            + (cause if evidence.is_dir() else ""),
            names,
        )

    def _newest_name(self) -> str:
        with contextlib.suppress(OSError):
            newest = ranked(self.list_checkpoints())
            if newest:
                return str(newest[0].path)
        return "nothing; there is no earlier checkpoint"

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
        ``importance_keys`` is not changed, as stock does.
        """
        self.save_checkpoint(
            meta=meta or {}, end_of_epoch=end_of_epoch, name=name, verbosity=verbosity
        )
        self.delete_checkpoints(
            num_to_keep=num_to_keep,
            max_keys=max_keys,
            min_keys=min_keys,
            importance_keys=[
                *importance_keys,
                *([ckpt_recency] if keep_recent else ()),
            ],
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
        """Delete the least important checkpoints, as stock, but never the last good one.

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
        folders = {f.path: f for f in self._folders() if f.checkpoint is not None}

        def is_good(path: Path) -> bool:
            return not self._problems(folders[path], everything=True)

        everything = [f.checkpoint for f in folders.values()]
        deletable, kept = set(), set()
        for order in orders:
            best_first = [c.path for c in ranked(everything, **order)]
            deletable.update(best_first)
            kept.update(_first(best_first, is_good, num_to_keep))
        doomed = {p for p in deletable - kept if p not in self._memory.damaged}
        newest = [c.path for c in ranked(everything)]
        sealed = [p for p in newest if folders[p].seal is not None]
        for some in (sealed, newest):  # the last verified one, else the last good one
            if _first([p for p in some if p not in doomed], is_good, 1):
                break
            saved = _first([p for p in some if p in doomed], is_good, 1)
            if saved:
                doomed -= set(saved)
                logger.log(verbosity, "Kept %s, the last good checkpoint", saved[0])
                break
        for path in newest[::-1]:
            if path in doomed:
                self._remove(path, verbosity)

    def _remove(self, path: Path, verbosity) -> None:
        try:
            remove_folder(path)
        except OSError as error:
            logger.warning("checkpoint %s could not be deleted: %s", path, error)
            return
        logger.log(verbosity, "Deleted checkpoint in %s", path)

    # -- finding ---------------------------------------------------------------------

    def _folders(self) -> list[Folder]:
        """All folders that are, or were meant to be, checkpoints."""
        found = []
        for path in sorted(self.checkpoints_dir.iterdir()):
            if not path.name.startswith("CKPT") or not path.is_dir():
                continue
            if not (path / METAFNAME).exists() and not any(
                path.glob(f"*{PARAMFILE_EXT}")
            ):
                continue  # somebody's own folder
            folder = read_folder(path)
            if folder.checkpoint is None:
                self._tell_unreadable(folder)
            found.append(folder)
        return found

    def list_checkpoints(self):
        """List the checkpoints whose meta data can be trusted, as stock otherwise."""
        return [f.checkpoint for f in self._folders() if f.checkpoint is not None]

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
            importance_key, max_key, min_key, ckpt_predicate, max_num_checkpoints=1
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
        folders = self._folders()
        by_path = {f.path: f for f in folders}
        order = ranked(
            [f.checkpoint for f in folders if f.checkpoint is not None],
            importance_key,
            max_key,
            min_key,
            ckpt_predicate,
        )
        good = _first(
            order,
            lambda c: not self._problems(by_path[c.path]),
            max_num_checkpoints,
        )
        passed_over = {c.path: self._memory.damaged.get(c.path) for c in order}
        passed_over = {path: found for path, found in passed_over.items() if found}
        if good:
            self._tell_passed_over(passed_over, good[0])
        elif max_num_checkpoints != 0:
            unreadable = {f.path: f.problems for f in folders if f.problems}
            if passed_over or unreadable:
                raise self._none_good({**passed_over, **unreadable})
        return good

    def _problems(self, folder: Folder, *, everything=False, fresh=False) -> list[str]:
        """Say what is wrong with the files to be loaded; remembered if anything is."""
        known = self._memory.damaged.get(folder.path)
        if known:
            return known
        self._see_recoverables()
        allowed = self._memory.allowed
        sealed = folder.seal.files if folder.seal is not None else {}
        if folder.seal is not None:
            for name, kinds in folder.seal.nonfinite.items():
                allowed.extend(name, kinds)
        names = self._names_to_load(folder, sealed, everything)
        problems = []
        for name in sorted(names):
            path = folder.path / name
            problem = self._file_problem(path, sealed.get(name), fresh=fresh)
            problems += [problem] if problem else []
        if problems:
            self._memory.damaged[folder.path] = problems
        return problems

    def _names_to_load(self, folder: Folder, sealed, everything: bool) -> set[str]:
        """Files of a folder that matter to whoever asks."""
        present = {path.name for path in folder.checkpoint.paramfiles.values()}
        wanted = {f"{name}{PARAMFILE_EXT}" for name in self.recoverables}
        if not wanted or everything:
            return present | (set(sealed) - {METAFNAME})
        # What savers wrote beside their own file has no name of a recoverable.
        beside = {n for n in sealed if not n.endswith(PARAMFILE_EXT)} - {METAFNAME}
        missing = wanted - present
        if folder.seal is None and missing:
            # Never written, or deleted? Another checkpoint that has it tells.
            missing &= {
                path.name
                for other in self._folders()
                if other.checkpoint is not None
                for path in other.checkpoint.paramfiles.values()
            }
            missing = {n for n in missing if self._is_required(n)}
        else:
            missing &= set(sealed)
        return (wanted & present) | missing | beside

    def _is_required(self, filename: str) -> bool:
        name = filename[: -len(PARAMFILE_EXT)]
        return not (
            self.allow_partial_load
            or "dataloader" in name
            or self.optional_recoverables.get(name)
        )

    def _file_problem(self, path: Path, entry, *, fresh: bool) -> str | None:
        """Check one file; an unchanged one is read once by each process."""
        if not path.exists():
            return f"{path.name}: missing"
        if path.is_dir():  # a saver's own folder; its files are in the seal
            return None
        signature = _signature(path)
        known = self._memory.files.get(path)
        if known is not None and known[0] == signature and not (known[1] and fresh):
            return known[2]
        if entry is not None:
            problem = sealed_problem(path, entry)
        else:
            problem = stock_problem(path, is_torch=self._loaded_by_torch(path.stem))
        if problem is None and path.suffix == PARAMFILE_EXT:
            problem = finite_problem(path, self._memory.allowed)
        self._memory.files[path] = (signature, False, problem)
        return problem

    def _loaded_by_torch(self, name: str) -> bool:
        if name not in self.recoverables or name in self.custom_load_hooks:
            return False
        hook = get_default_hook(self.recoverables[name], DEFAULT_LOAD_HOOKS)
        return hook is torch_recovery

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
            chosen = self.find_checkpoint(
                importance_key, max_key, min_key, ckpt_predicate
            )
            if chosen is None:
                logger.info("Would load a checkpoint here, but none found yet.")
                return None
            try:
                self.load_checkpoint(chosen)
            except DamagedCheckpointError:
                if chosen.path not in self._memory.damaged:
                    raise  # not ours: an override's, and it would come for ever
                continue
            return chosen

    def load_checkpoint(self, checkpoint):
        """Load this very checkpoint, as stock, after its files were verified.

        Raises
        ------
        DamagedCheckpointError
            Before anything is loaded, if one of its files is damaged.
        """
        folder = read_folder(Path(checkpoint.path))
        problems = folder.problems or self._problems(folder, fresh=True)
        if problems:
            self._memory.damaged[folder.path] = problems
            raise self._none_good({folder.path: problems})
        if folder.seal is None:
            self._tell(
                (folder.path, "unverified"),
                f"checkpoint {folder.path} has no {SEAL} (stock SpeechBrain wrote it): "
                "it is not verified; its files can be read and are finite",
            )
        super().load_checkpoint(checkpoint)
        self._memory.recovered = folder.path

    def agree_on_recovery(self) -> None:
        """Raise on all ranks if they loaded different checkpoints.

        Finding one is no collective, so that one rank may evaluate alone; a training
        calls this once after it has resumed.

        Raises
        ------
        WorkError
            Naming what each rank loaded.
        """
        recovered = self._memory.recovered
        lines = gather_lines([recovered.name if recovered else "nothing"])
        loaded = [line.rpartition(": ")[2] for line in lines]
        if len(set(loaded)) > 1:
            raise WorkError(
                f"the ranks resumed from different checkpoints of "
                f"{self.checkpoints_dir}: {', '.join(loaded)}\n  Next: see that all "
                "ranks read the same folder, then the same command again"
            )

    # -- telling ---------------------------------------------------------------------

    def _tell(self, key: tuple, message: str) -> None:
        """Warn once of each thing, on the main process."""
        if key not in self._memory.told and if_main_process():
            self._memory.told.add(key)
            logger.warning(message)

    def _tell_unreadable(self, folder: Folder) -> None:
        self._tell(
            (folder.path, *folder.problems),
            f"checkpoint {folder.path} is damaged and not looked at any further:\n"
            f"  {folder.problems[0]}\n  It stays where it is; to remove it: "
            f"rm -r '{folder.path}'",
        )

    def _tell_passed_over(self, passed_over: dict, used: Checkpoint) -> None:
        for path, problems in passed_over.items():
            metrics = ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in used.meta.items()
                if key not in ("unixtime", "end-of-epoch")
            )
            lines = "\n  ".join(problems)
            self._tell(
                (path, *problems),
                f"checkpoint {path} is damaged:\n  {lines}\n  Used instead: "
                f"{used.path.name}{f' ({metrics})' if metrics else ''}\n  The damaged "
                f"one stays where it is; to remove it: rm -r '{path}'",
            )

    def _none_good(self, damaged: dict[Path, list[str]]) -> DamagedCheckpointError:
        lines = [
            f"  {path.name}\n    " + "\n    ".join(problems)
            for path, problems in damaged.items()
        ]
        doomed = " ".join(f"'{path}'" for path in damaged)
        return DamagedCheckpointError(
            f"no checkpoint of those asked for in {self.checkpoints_dir} can be "
            "loaded:\n" + "\n".join(lines) + "\n  Next: bring a good copy back; or "
            f"give {'this one' if len(damaged) == 1 else 'these'} up, after which the "
            f"same command goes on without: rm -r {doomed}"
        )


def _first(items: Iterable, is_good: Callable, most: int | None) -> list:
    """Return the first ``most`` good items; those after them are not looked at."""
    found: list = []
    for item in items:
        if most is not None and len(found) >= most:
            break
        if is_good(item):
            found.append(item)
    return found


def _signature(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _writing(checkpointer: Checkpointer, folder: Path) -> Iterator[None]:
    """Turn what a full disk or a read-only folder raises into a message."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        text = getattr(error, "strerror", None) or str(error).splitlines()[0]
        # torch's own writer has no errno: a full disk is an "unexpected pos".
        by_torch = "inline_container" in str(error) or "PytorchStreamWriter" in str(
            error
        )
        if not isinstance(error, OSError) and not by_torch:
            raise
        kept = "nothing"
        if hasattr(checkpointer, "recoverables"):
            kept = checkpointer._newest_name()
        raise CheckpointWriteError(
            f"{folder}: a checkpoint could not be written: {text}\n  Kept: {kept}; what "
            f"was begun is removed\n  Next: make room, or make it writable (df -h "
            f"'{folder}'), then the same command goes on from there"
        ) from error


#: Methods of stock that an override must pass on for its checkpoints to be guarded.
_GUARDED = (
    "save_checkpoint",
    "save_and_keep_only",
    "delete_checkpoints",
    "find_checkpoint",
    "find_checkpoints",
    "list_checkpoints",
    "load_checkpoint",
    "recover_if_possible",
)


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
            "guard_checkpointer: expected a speechbrain.utils.checkpoints.Checkpointer, "
            f"got {type(checkpointer).__name__}; its checkpoints are not verified"
        )
    kind = type(checkpointer)
    if not isinstance(checkpointer, VerifiedCheckpointer):
        bases = (kind, VerifiedCheckpointer)
        checkpointer.__class__ = (
            VerifiedCheckpointer
            if kind is Checkpointer
            else type(
                f"Verified{kind.__name__}", bases, {"__module__": kind.__module__}
            )
        )
    for line in unguarded(checkpointer):
        logger.warning(line)
    checkpointer._see_recoverables()


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
            method = inspect.unwrap(kind.__dict__.get(name, Checkpointer.__init__))
            code = getattr(method, "__code__", None)
            if name in kind.__dict__ and code and "super" not in code.co_names:
                lines.append(
                    f"{kind.__name__}.{name} does not call super().{name}: what it does "
                    "is not verified"
                )
    return lines
