"""Which checkpoints of a folder are fit to be loaded; what is said of the others."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from speechbrain.utils.checkpoints import (
    DEFAULT_LOAD_HOOKS,
    METAFNAME,
    PARAMFILE_EXT,
    Checkpoint,
    Checkpointer,
    get_default_hook,
    torch_recovery,
)
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.brain.checkpoints.files import (
    SEAL,
    Folder,
    finite_problem,
    read_folder,
    sealed_problem,
    stock_problem,
)
from speechbrain_ext.brain.checkpoints.state import AllowedKinds

logger = logging.getLogger(__name__)


class Inspection:
    """What one Checkpointer knows of its folder and its recoverables.

    Arguments
    ---------
    checkpointer : Checkpointer
        Its folder, recoverables and hooks are read each time; they may be exchanged.
    """

    def __init__(self, checkpointer: Checkpointer):
        self._checkpointer = checkpointer
        self.allowed = AllowedKinds()
        #: folder -> what was found when it should have been loaded
        self.damaged: dict[Path, list[str]] = {}
        #: the folder that was loaded last
        self.recovered: Path | None = None
        self._files: dict[Path, tuple] = {}
        self._told: set[tuple] = set()

    def see_recoverables(self) -> None:
        """Look at what is new; users may put it into the dict themselves."""
        for name, obj in self._checkpointer.recoverables.items():
            self._checkpointer.optional_recoverables.setdefault(name, False)
            self.allowed.see(name, obj)

    def remember_written(self, final: Path, names: Iterable[str]) -> None:
        """Note that the files of a folder were verified when they were written."""
        self.damaged.pop(final, None)
        for name in names:
            path = final / name
            self._files[path] = (_signature(path), True, None)

    def folders(self) -> list[Folder]:
        """All folders that are, or were meant to be, checkpoints."""
        found = []
        for path in sorted(Path(self._checkpointer.checkpoints_dir).iterdir()):
            if not path.name.startswith("CKPT") or not path.is_dir():
                continue
            has_files = any(path.glob(f"*{PARAMFILE_EXT}"))
            if not (path / METAFNAME).exists() and not has_files:
                continue  # somebody's own folder
            folder = read_folder(path)
            if folder.checkpoint is None:
                self._tell_unreadable(folder)
            found.append(folder)
        return found

    # -- what is wrong ---------------------------------------------------------------

    def problems(
        self, folder: Folder, *, everything: bool = False, fresh: bool = False
    ) -> list[str]:
        """Say what is wrong with the files of a folder; remembered if anything is.

        Arguments
        ---------
        folder : Folder
            With a ``checkpoint``, that is, with meta data that can be trusted.
        everything : bool
            Look at all files, not only at those of the registered recoverables.
        fresh : bool
            Read again also what this process has written itself.

        Returns
        -------
        list[str]
            One line for each file; empty if the folder is fit to be loaded.
        """
        if folder.path in self.damaged:
            return self.damaged[folder.path]
        self.see_recoverables()
        sealed = folder.seal.files if folder.seal is not None else {}
        if folder.seal is not None:
            for name, kinds in folder.seal.nonfinite.items():
                self.allowed.extend(name, kinds)
        problems = []
        for name in sorted(self._names_to_load(folder, sealed, everything)):
            problem = self._file_problem(folder.path / name, sealed.get(name), fresh)
            problems += [problem] if problem else []
        if problems:
            self.damaged[folder.path] = problems
        return problems

    def _names_to_load(self, folder: Folder, sealed, everything: bool) -> set[str]:
        present = {path.name for path in folder.checkpoint.paramfiles.values()}
        recoverables = self._checkpointer.recoverables
        wanted = {f"{name}{PARAMFILE_EXT}" for name in recoverables}
        if not wanted or everything:
            return present | (set(sealed) - {METAFNAME})
        # What savers wrote beside their own file has no name of a recoverable.
        beside = {n for n in sealed if not n.endswith(PARAMFILE_EXT)} - {METAFNAME}
        missing = wanted - present
        if folder.seal is not None:
            missing &= set(sealed)
        elif missing:
            # Never written, or deleted? Another checkpoint that has it tells.
            elsewhere = {
                path.name
                for other in self.folders()
                if other.checkpoint is not None
                for path in other.checkpoint.paramfiles.values()
            }
            missing = {n for n in missing & elsewhere if self._is_required(n)}
        return (wanted & present) | missing | beside

    def _is_required(self, filename: str) -> bool:
        name = filename[: -len(PARAMFILE_EXT)]
        return not (
            self._checkpointer.allow_partial_load
            or "dataloader" in name
            or self._checkpointer.optional_recoverables.get(name)
        )

    def _file_problem(self, path: Path, entry, fresh: bool) -> str | None:
        """Check one file; each process reads an unchanged one only once."""
        if not path.exists():
            return f"{path.name}: missing"
        if path.is_dir():  # a saver's own folder; its files are in the seal
            return None
        signature = _signature(path)
        known, written_here, problem = self._files.get(path, (None, False, None))
        if known == signature and not (written_here and fresh):
            return problem
        if entry is not None:
            problem = sealed_problem(path, entry)
        else:
            problem = stock_problem(path, is_torch=self._loaded_by_torch(path.stem))
        if problem is None and path.suffix == PARAMFILE_EXT:
            problem = finite_problem(path, self.allowed)
        self._files[path] = (signature, False, problem)
        return problem

    def _loaded_by_torch(self, name: str) -> bool:
        recoverables = self._checkpointer.recoverables
        if name not in recoverables or name in self._checkpointer.custom_load_hooks:
            return False
        return (
            get_default_hook(recoverables[name], DEFAULT_LOAD_HOOKS) is torch_recovery
        )

    # -- telling ---------------------------------------------------------------------

    def _tell(self, key: tuple, message: str) -> None:
        """Warn once of each thing, on the main process."""
        if key not in self._told and if_main_process():
            self._told.add(key)
            logger.warning("%s", message)

    def _tell_unreadable(self, folder: Folder) -> None:
        self._tell(
            (folder.path, *folder.problems),
            f"checkpoint {folder.path} is damaged and not looked at any further:\n"
            f"  {folder.problems[0]}\n  It stays where it is; to remove it: "
            f"rm -r '{folder.path}'",
        )

    def tell_unverified(self, path: Path) -> None:
        """Say once that a checkpoint has no seal."""
        self._tell(
            (path, "unverified"),
            f"checkpoint {path} has no {SEAL} (stock SpeechBrain wrote it), so it is "
            "not verified: its files can be read and are finite, no more is known",
        )

    def tell_passed_over(self, used: Checkpoint, order: list[Checkpoint]) -> None:
        """Say once of each damaged checkpoint what was used instead."""
        metrics = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in used.meta.items()
            if key not in ("unixtime", "end-of-epoch")
        )
        for path in (c.path for c in order if c.path in self.damaged):
            problems = "\n  ".join(self.damaged[path])
            self._tell(
                (path, problems),
                f"checkpoint {path} is damaged:\n  {problems}\n  Used instead: "
                f"{used.path.name}{f' ({metrics})' if metrics else ''}\n  The damaged "
                f"one stays where it is; to remove it: rm -r '{path}'",
            )


def first_good(items: Iterable, is_good: Callable, most: int | None) -> list:
    """Return the first ``most`` good items; those after them are not looked at."""
    found: list = []
    for item in items:
        if most is not None and len(found) >= most:
            break
        if is_good(item):
            found.append(item)
    return found


def _signature(path: Path) -> tuple[int, int, int]:
    """Tell a file that was written to since from one that was not."""
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
