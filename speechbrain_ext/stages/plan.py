"""What a ``run.sh`` declares: its stages, their files, and which of them to run."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_ext.errors import UserError


@dataclass
class Stage:
    """One stage as ``run.sh`` declares it; paths are relative to the egs folder.

    Arguments
    ---------
    number, name, title : int, str, str
        Its place in the order, its name, and one line of help.
    where : str
        Where it is declared, ``run.sh:87:stage_train``, for the log.
    home : str
        Folder whose ``.stages/`` remembers it: where its outputs belong.
    needs : list[str]
        Files and folders it reads, compared by content.
    recipe : list[str]
        What its training script takes, RECIPE.yaml, presets and overrides: compared
        by the values that they come to.
    watches : list[str]
        Large folders it reads, compared by name, size and time of their files only.
    makes : list[str]
        Files and folders that it promises to write.
    restarts : list[str]
        Outputs from which an interrupted stage resumes. They are set aside when a
        *finished* stage is redone: otherwise a training that shall be repeated with
        another option would find its last checkpoint and do nothing.
    extends : list[str]
        Options of which a change goes on from the finished state (loggers).
    grows : list[str]
        Options of which a larger number goes on from the finished state (epochs).
    launcher : list[str]
        First words of the command, not compared: the interpreter or ``torchrun``.
    command : list[str]
        The rest of the command, compared word by word.
    """

    number: int
    name: str
    title: str = ""
    where: str = "run.sh"
    home: str = "."
    needs: list[str] = field(default_factory=list)
    recipe: list[str] = field(default_factory=list)
    watches: list[str] = field(default_factory=list)
    makes: list[str] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)
    extends: list[str] = field(default_factory=list)
    grows: list[str] = field(default_factory=list)
    launcher: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    @property
    def inputs(self) -> list[str]:
        """Every path it reads."""
        return [*self.needs, *self.recipe[:1], *self.watches]

    def __str__(self) -> str:
        """Return its number and name, for messages."""
        return f"{self.number} ({self.name})"


@dataclass
class Plan:
    """Everything one call of ``run.sh`` asks for.

    Arguments
    ---------
    script : str
        The script as the user typed it.
    given : list[str]
        The options given, as ``--name=value`` with absolute paths, in order, without
        ``--stage``, ``--stop_stage``, ``--force`` and ``--dry_run``.
    range : list[str]
        Those four, as given.
    first, last : str
        Number or name of the first and last stage asked for; "" is the end.
    force, dry_run : bool
        Redo finished stages; only say what would be done.
    force_resume : bool
        Nothing is set aside where options or inputs changed: the stage goes on.
    experiment : str
        Folder for the logs and the command that goes on (``run.sh``).
    settings : list[str]
        ``name=value`` to be remembered with the experiment.
    groups : list[str]
        Names of such settings, as ``"name name"``: those of a group are remembered, and
        recalled, together.
    settle : list[str]
        A file and its text, written once a stage has succeeded; or empty.
    options : list[str]
        Names of all declared options, for suggestions.
    task : str
        What is trained here; a recipe of another task is refused. "": not said.
    check : list[str]
        RECIPE.yaml, presets and overrides, checked before the first stage; or empty.
    show : list[str]
        File printed at the end.
    look : list[str]
        Pairs of label and path listed at the end, where they exist.
    stages : list[Stage]
        All stages, in order.
    """

    script: str = "./run.sh"
    given: list[str] = field(default_factory=list)
    range: list[str] = field(default_factory=list)
    first: str = ""
    last: str = ""
    force: bool = False
    dry_run: bool = False
    force_resume: bool = False
    experiment: str = "."
    settings: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    settle: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    task: str = ""
    check: list[str] = field(default_factory=list)
    show: list[str] = field(default_factory=list)
    look: list[str] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)


def parse_plan(words: Sequence[str]) -> Plan:
    """Read the words that ``egs/common.sh`` hands over: ``key COUNT word ...``.

    Every list is preceded by its length, so no value can be taken for a key.

    Raises
    ------
    ValueError
        If the words do not follow that grammar: a mistake in a ``run.sh``.

    Example
    -------
    >>> plan = parse_plan("first 1 0 stage 3 0 data hello command 1 true".split())
    >>> plan.first, plan.stages[0].name, plan.stages[0].command
    ('0', 'data', ['true'])
    """
    plan = Plan()
    target: Plan | Stage = plan
    position = 0
    while position < len(words):
        key, count = words[position], int(words[position + 1])
        values = list(words[position + 2 : position + 2 + count])
        position += 2 + count
        if len(values) != count:
            raise ValueError(f"run.sh: '{key}' announces {count} words")
        if key == "stage":
            target = Stage(int(values[0]), values[1], values[2])
            plan.stages.append(target)
            continue
        owner = target if hasattr(target, key) else plan
        present = getattr(owner, key)  # an unknown key is a mistake in a run.sh
        if isinstance(present, bool):
            setattr(owner, key, values == ["true"])
        elif isinstance(present, str):
            setattr(owner, key, values[0])
        else:
            present.extend(values)
    plan.stages.sort(key=lambda stage: stage.number)
    return plan


def choose_stages(stages: Sequence[Stage], first: str, last: str) -> list[Stage]:
    """Return the stages from ``first`` to ``last``, each a number, a name or "".

    A number without a stage of its own stands for the next one (first) or the one
    before (last), so that a range keeps its meaning when stages are added.

    Raises
    ------
    UserError
        If a name is unknown or nothing is left to run.
    """
    start = _stage_number(stages, first, "--stage") if first else 0
    stop = _stage_number(stages, last, "--stop_stage") if last else stages[-1].number
    chosen = [stage for stage in stages if start <= stage.number <= stop]
    if not chosen:
        raise UserError(
            f"run.sh: nothing to run: --stage {first or start} --stop_stage "
            f"{last or stop} leaves no stage\n{list_stages(stages)}"
        )
    return chosen


def _stage_number(stages: Sequence[Stage], value: str, option: str) -> int:
    if re.fullmatch(r"[0-9]{1,6}", value):
        return int(value)
    names = [stage.name for stage in stages]
    if value in names:
        return stages[names.index(value)].number
    raise UserError(
        f"run.sh: {option} {value}: no such stage{suggest(value, names)}\n"
        + list_stages(stages)
    )


def list_stages(stages: Sequence[Stage]) -> str:
    """Return the stages as one line for an error message."""
    return "  stages: " + ", ".join(f"{s.number} {s.name}" for s in stages)


def suggest(word: str, names: Iterable[str], *, prefix: str = "") -> str:
    """Return ``; did you mean 'x'?`` for the nearest name, or nothing.

    Example
    -------
    >>> suggest("stge", ["stage", "tag"], prefix="--")
    "; did you mean '--stage'?"
    """
    found = difflib.get_close_matches(word.lower(), list(names), n=1, cutoff=0.6)
    return f"; did you mean '{prefix}{found[0]}'?" if found else ""


def missing_inputs(chosen: Sequence[Stage], stages: Sequence[Stage]) -> list[tuple]:
    """Find inputs that neither exist nor are made by an earlier chosen stage.

    Returns
    -------
    list[tuple[Stage, str, Stage or None]]
        The stage in need, the path, and the stage that makes it (None: no stage).
    """
    faults = []
    for stage in chosen:
        for path in stage.inputs:
            if Path(path).exists():
                continue
            maker = next((s for s in stages if s is not stage and makes(s, path)), None)
            if maker is None or maker not in chosen or maker.number > stage.number:
                faults.append((stage, path, maker))
    return faults


def ranges_to_run(
    faults: Iterable[tuple], stages: Sequence[Stage]
) -> list[tuple[Stage, Stage]]:
    """Find the stages that make what is missing, and what they themselves miss.

    Arguments
    ---------
    faults : Iterable[tuple]
        As `missing_inputs` returns them.
    stages : Sequence[Stage]
        All, in order.

    Returns
    -------
    list[tuple[Stage, Stage]]
        First and last of each range of neighbours, in the order to run them.
    """
    wanted: list[Stage] = []
    waiting = [maker for *_, maker in faults if maker]
    while waiting:
        stage = waiting.pop()
        if stage not in wanted:
            wanted.append(stage)
            waiting += [m for *_, m in missing_inputs([stage], stages) if m]
    found: list[tuple[Stage, Stage]] = []
    for position, stage in enumerate(stages):
        if stage not in wanted:
            continue
        if found and found[-1][1] is stages[position - 1]:
            found[-1] = found[-1][0], stage
        else:
            found.append((stage, stage))
    return found


def makes(stage: Stage, path: str) -> bool:
    """Whether the stage declares the path, or a folder that holds it, as output."""
    wanted = Path(path)
    return any(wanted == Path(p) or Path(p) in wanted.parents for p in stage.makes)
