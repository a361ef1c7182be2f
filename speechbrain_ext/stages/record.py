"""What a finished stage left behind, and why it would have to run again."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import glob
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_json
from speechbrain_ext.stages.fingerprint import Fingerprints
from speechbrain_ext.stages.plan import Stage
from speechbrain_ext.stages.settings import resolved_settings

#: Options that say where or how loudly a stage runs, not what it computes.
NOT_COMPARED = frozenset(
    "nj device noprogressbar tqdm_colored_bar log_config distributed_backend "
    "ckpt_interval_minutes ckpt_interval_steps force_resume".split()
)


@dataclass
class Verdict:
    """Whether a stage has to run.

    Arguments
    ---------
    reasons : list[str]
        Why it has to run; empty: it is up to date.
    fresh : bool
        Set its resumable outputs aside first (see `Stage.restarts`).
    """

    reasons: list[str] = field(default_factory=list)
    fresh: bool = False

    @property
    def up_to_date(self) -> bool:
        """Whether nothing has to be done."""
        return not self.reasons


class Record:
    """The memory of one stage: ``<home>/.stages/<name>.json``.

    It says "running" before the command starts and "done" only after it ended well
    and its outputs were seen, so a stage that was killed at any instant is never
    taken for finished.

    Arguments
    ---------
    stage : Stage
        The stage as it is declared now.
    """

    def __init__(self, stage: Stage):
        self.stage = stage
        self.folder = Path(stage.home, ".stages")
        self.path = self.folder / f"{stage.name}.json"
        self.aside = Path(stage.home, "previous", stage.name)
        self.failed = Path(stage.home, "failed", stage.name)
        self._before: dict = {}
        self._moved: list[Path] = []
        self.prints = Fingerprints(self.folder / "hashes.json")

    @functools.cached_property
    def settings(self) -> dict[str, str] | None:
        """Values of the stage's recipe; see `resolved_settings`."""
        return resolved_settings(self.stage.recipe) if self.stage.recipe else {}

    def read(self) -> dict:
        """Return what was remembered; empty if nothing, or nothing readable."""
        try:
            value = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def inputs(self) -> dict[str, str | None]:
        """Digest of every input as it is now."""
        stage = self.stage
        found = {p: self.prints.content(p) for p in stage.needs}
        if self.settings is None:
            found[stage.recipe[0]] = self.prints.content(stage.recipe[0])
        found |= {p: self.prints.listing(p) for p in stage.watches}
        return found

    def outputs(self) -> dict[str, str | None]:
        """Digest of every declared output as it is now."""
        return {path: self.prints.content(path) for path in self.stage.makes}

    def judge(self, *, force: bool = False, force_resume: bool = False) -> Verdict:
        """Compare what was remembered with what is, and say why to run.

        Arguments
        ---------
        force : bool
            Run in any case.
        force_resume : bool
            Go on from the finished state, whatever changed.

        Returns
        -------
        Verdict
            All reasons, in the order: options, inputs, outputs.
        """
        known = self.read()
        status = known.get("status")
        if status != "done":
            if force and known:
                return Verdict(["--force"], fresh=True)
            return Verdict([_UNFINISHED.get(status, "not run yet")])
        changed = list(self._changed_options(known))
        reasons = [text for _, text in changed]
        fresh = not all(self._goes_on(name, known) for name, _ in changed)
        for reason in [
            *_changed_files("input", known.get("inputs", {}), self.inputs()),
            *_changed_files("output", known.get("outputs", {}), self.outputs()),
        ]:
            reasons.append(reason)
            fresh = True
        self.prints.save()
        if force:
            return Verdict(["--force"], fresh=True)
        return Verdict(reasons, fresh and not force_resume)

    def stands_on(self, words: Collection[str]) -> bool:
        """Whether what is there now was made with one of these words of a command.

        Made means done, or so far begun that it will be gone on with, or brought here
        without a record.
        """
        known = self.read()
        if not known:
            made = self.stage.makes
            return bool(made) and all(Path(path).exists() for path in made)
        if not {*words} & {*known.get("command", [])}:
            return False
        return known.get("status") == "done" or self.can_resume()

    def can_resume(self) -> bool:
        """Whether the stage has a state that it would go on from.

        It is the first of what `Stage.restarts` names; the others are made beside it.
        """
        return any(map(_holds_files, map(Path, self.stage.restarts[:1])))

    def leftovers(self) -> list[str]:
        """Name what lies there that a fresh start would set aside."""
        return [path for path in self.stage.restarts if Path(path).exists()]

    def begin(self, *, fresh: bool) -> dict:
        """Remember that the stage is running; return its inputs as they are now."""
        self._before, self._moved = self.read(), []
        if fresh:
            self._set_aside()
        inputs = self.inputs()
        before = {k: v for k, v in self._before.items() if k not in ("before", "moved")}
        moved = [str(path) for path in self._moved]
        self._write("running", inputs, {}, before=before, moved=moved)
        return inputs

    def finish(self, inputs: dict, *, ok: bool, seconds: float) -> None:
        """Remember how the stage ended.

        Arguments
        ---------
        inputs : dict
            What `begin` returned: an input that changed meanwhile is seen next time.
        ok : bool
            Whether the command ended well and its outputs are there.
        seconds : float
            How long it took.
        """
        outputs = self.outputs() if ok else {}
        self._write("done" if ok else "failed", inputs, outputs, round(seconds, 1))
        self.prints.save()

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the folder for this run; yields a descriptor for the child to inherit.

        The lock lives as long as any process that holds the descriptor: if this one
        is killed while its command lives on, nobody else starts a second one.

        Raises
        ------
        UserError
            If another run is at work there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "a+", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                holder = stream.read().strip()
                pids = _holders(self.folder / "lock")
                hint = f"\n  To stop it: kill {' '.join(pids)}" if pids else ""
                raise UserError(
                    f"run.sh: another run is at work in {self.stage.home} "
                    f"({holder or 'unknown'}): wait for it or stop it"
                    "\n  It may be left over from a run that was killed: the command "
                    f"that it ran may live on{hint}"
                ) from None
            except OSError:
                pass  # a file system without locks: go on without
            stream.truncate(0)
            stream.write(f"process {os.getpid()}, stage {self.stage.name}\n")
            stream.flush()
            yield stream.fileno()

    def _changed_options(self, known: dict) -> Iterator[tuple[str, str]]:
        """Name and description of what differs in the command and in the recipe."""
        before, now = known.get("settings", {}), self.settings or {}
        yield from _differences("option ", before, now)
        # An override that the recipe took in is compared there, whoever set it.
        taken = {*now, "preset"} if now else ()
        old = parse_options(known.get("command", []))
        new = parse_options(self.stage.command)
        for name, text in _differences("option ", old, new):
            if name not in taken:
                yield name, text

    def _goes_on(self, name: str, known: dict) -> bool:
        """Whether a changed option leaves the finished state of use."""
        if name in self.stage.extends:
            return True
        before = str(known.get("settings", {}).get(name))
        now = str((self.settings or {}).get(name))
        if name not in self.stage.grows or not (before.isdigit() and now.isdigit()):
            return False
        return int(now) > int(before)

    def _write(
        self, status: str, inputs: dict, outputs: dict, seconds=None, **more
    ) -> None:
        write_json(
            self.path,
            {
                "stage": self.stage.name,
                "status": status,
                "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
                "seconds": seconds,
                "command": self.stage.command,
                "settings": self.settings or {},
                "inputs": inputs,
                "outputs": outputs,
                **more,
            },
        )

    def refuse(self) -> bool:
        """Undo `begin`: the command found its input wrong and did nothing.

        Returns
        -------
        bool
            False, with nothing changed, if there is nothing to go back to, or if the
            command has begun a state of its own after all.
        """
        if self._moved:
            return self.give_up()
        if not self._before:
            return False
        write_json(self.path, self._before)
        return True

    def give_up(self) -> bool:
        """Bring back what `begin` set aside, if nothing took its place.

        What the command wrote beside goes to ``<home>/failed/<stage>/``: it may tell
        why it failed.

        Returns
        -------
        bool
            False, with nothing changed, if nothing had been set aside, or if there is
            something to go on from.
        """
        if not self._moved or self.can_resume():
            return False
        shutil.rmtree(self.failed, ignore_errors=True)
        for path in map(Path, self.stage.restarts):
            if _holds_files(path):
                self.failed.mkdir(parents=True, exist_ok=True)
                os.replace(path, self.failed / path.name)
            elif path.is_dir():
                shutil.rmtree(path)
        for path in self._moved:
            if (self.aside / path.name).exists():
                os.replace(self.aside / path.name, path)
        for folder in (self.aside, self.aside.parent):
            with contextlib.suppress(OSError):  # something of earlier lies there
                folder.rmdir()
        write_json(self.path, self._before)
        return True

    def recover(self) -> bool:
        """Do what a run that was killed at its beginning could not: `give_up`."""
        known = self.read()
        if known.get("status") != "running" or not known.get("moved"):
            return False
        self._before = known["before"]
        self._moved = [Path(path) for path in known["moved"]]
        return self.give_up()

    def _set_aside(self) -> None:
        """Move resumable outputs to ``<home>/previous/<stage>/``, one by one.

        A kill between two of them loses nothing: the rest follows next time.
        """
        for path in map(Path, self.stage.restarts):
            if not path.exists():
                continue
            target = self.aside / path.name
            if target.is_dir():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            self._moved.append(path)


_UNFINISHED = {"running": "it was interrupted", "failed": "it failed last time"}


def parse_options(command: list[str]) -> dict[str, str]:
    """Return a command's words as options; the words before them under "command".

    Example
    -------
    >>> parse_options(["train.py", "a.yaml", "--preset=x", "--preset=y", "--lr=1=2"])
    {'command': 'train.py a.yaml', 'preset': 'x, y', 'lr': '1=2'}
    """
    options: dict[str, str] = {}
    for word in command:
        name, equals, value = word.partition("=")
        if not word.startswith("--"):
            name, value = "command", word
        elif not equals:
            value = "true"
        key = name.lstrip("-")
        joint = " " if key == "command" else ", "
        options[key] = f"{options[key]}{joint}{value}" if key in options else value
    return options


def _holders(lock: Path) -> list[str]:
    """Process ids that have a file open, as far as this system lets us see them."""
    found = set()
    for link in glob.iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.path.samefile(link, lock):
                found.add(int(link.split("/")[2]))
    return [str(pid) for pid in sorted(found - {os.getpid()})]


def _holds_files(path: Path) -> bool:
    return path.is_file() or any(entry.is_file() for entry in path.rglob("*"))


def _differences(kind: str, old: dict, new: dict) -> Iterator[tuple[str, str]]:
    for name in [*new, *(name for name in old if name not in new)]:
        if name not in NOT_COMPARED and old.get(name) != new.get(name):
            was, now = old.get(name, "(not given)"), new.get(name, "(not given)")
            yield name, f"{'' if name == 'command' else kind}{name}: {was} -> {now}"


def _changed_files(kind: str, before: dict, now: dict) -> Iterator[str]:
    for path, digest in now.items():
        if path not in before:
            yield f"{kind} {path} is new"
        elif digest is None:
            yield f"{kind} {path} is missing"
        elif digest != before[path]:
            yield f"{kind} {path} changed"
    for path in before:
        if path not in now:
            yield f"{kind} {path} is not used any more"
