"""What an experiment remembers of the commands that were typed.

``<experiment>/run.sh`` goes on with the last one, and ``<experiment>/.stages/settings``
holds the options that need not be typed again. A mistake is remembered in neither:
otherwise it would come back with the next command, which does not have it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from speechbrain_ext.files import write_text
from speechbrain_ext.stages.plan import Plan, Stage
from speechbrain_ext.stages.record import Record


class Memory:
    """The memory of one call of ``run.sh``.

    Arguments
    ---------
    plan : Plan
        What was asked for.
    chosen : Sequence[Stage]
        The stages that it runs.
    """

    def __init__(self, plan: Plan, chosen: Sequence[Stage]):
        self.plan, self.chosen = plan, chosen
        self.folder = Path(plan.experiment)
        self.command = self.folder / "run.sh"
        self.settings = self.folder / ".stages" / "settings"
        self._is_new = not self.folder.exists()
        self._has_worked = False
        self._old_command = _text(self.command)
        self._old_settings = (_text(self.settings) or "").splitlines()

    def begin(self) -> None:
        """Write ``<experiment>/run.sh``.

        Earlier commands stay in it as comments: the experiment's history.
        """
        plan, text = self.plan, self._old_command or ""
        words = [plan.script, *plan.given, *plan.range]
        line = f"# {time.strftime('%Y-%m-%dT%H:%M:%S')} {shlex.join(words)}"
        history = [old for old in text.splitlines() if old.startswith("# 2")]
        command = shlex.join(["./" + os.path.basename(plan.script), *words[1:]])
        write_text(
            self.command,
            "#!/usr/bin/env bash\n"
            "# Written by run.sh: goes on with the last command; more options may "
            "follow.\n"
            + "\n".join([*history, line.replace("\n", " ")])
            + f"\ncd -- {shlex.quote(os.getcwd())} || exit 2\n"
            f'exec {command} "$@"\n',
        )
        self.command.chmod(self.command.stat().st_mode | 0o111)

    def remember(self, *, worked: bool = False) -> None:
        """Write the settings with which stages have succeeded so far.

        Of a group of settings either all are those of this command or none is. Called
        again when a stage was set back: then they are set back, too.

        Arguments
        ---------
        worked : bool
            A stage ended well just now.
        """
        self._has_worked |= worked
        old = {line.partition("=")[0]: line for line in self._old_settings}
        new = {line.partition("=")[0]: line for line in self.plan.settings}
        kept = []
        for group in self.plan.groups:
            names = group.split()
            mine = {name: new[name] for name in names if name in new}
            lines = mine if all(map(self._is_proven, mine.values())) else old
            kept += [lines[name] for name in names if name in lines]
        text = "".join(f"{line}\n" for line in kept)
        if text != (_text(self.settings) or ""):
            write_text(self.settings, text)

    def settle(self) -> None:
        """Write what the command chose for all later ones: a stage was content."""
        for path, text in zip(
            self.plan.settle[::2], self.plan.settle[1::2], strict=True
        ):
            if _text(Path(path)) != f"{text}\n":
                write_text(path, f"{text}\n")

    def forget(self) -> bool:
        """Undo `begin`: the command was wrong.

        Returns
        -------
        bool
            Whether the folder of the experiment is gone: no stage has worked for it.
        """
        if self._is_new and not self._has_worked and self._holds_nothing():
            shutil.rmtree(self.folder)
            return True
        if self._old_command is None:
            self.command.unlink(missing_ok=True)
        else:
            write_text(self.command, self._old_command)
            self.command.chmod(self.command.stat().st_mode | 0o111)
        return False

    def _is_proven(self, setting: str) -> bool:
        """Whether a stage that takes this setting has succeeded with it."""
        name, _, value = setting.partition("=")
        words = {f"--{setting}", *([f"--{name}"] if value == "true" else [])}
        users = [stage for stage in self.plan.stages if words & {*stage.command}]
        if name == "recipe":
            users = [stage for stage in self.chosen if stage.recipe]
            words = {stage.recipe[0] for stage in users}
        return not users or any(Record(stage).stands_on(words) for stage in users)

    def _holds_nothing(self) -> bool:
        """Whether there is no file but our own in the folder."""
        ours = (self.command, self.folder / "log", self.folder / ".stages")
        return all(entry in ours for entry in self.folder.iterdir())


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
