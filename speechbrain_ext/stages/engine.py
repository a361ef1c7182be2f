"""Run the stages that were asked for, or say what would be done and why."""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from speechbrain_ext.checkout import project_root
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.stages.memory import Memory
from speechbrain_ext.stages.plan import (
    Plan,
    Stage,
    choose_stages,
    makes,
    missing_inputs,
    ranges_to_run,
)
from speechbrain_ext.stages.process import InterruptedStageError, run_logged
from speechbrain_ext.stages.record import Record, Verdict
from speechbrain_ext.stages.settings import check_recipe

#: What a stage imports; if one is missing the environment was never finished.
PACKAGES = ("torch", "speechbrain", "hyperpyyaml", "soundfile", "click")

INTERRUPTED = 130

_AS_IT_WAS = "what it had made before is as it was"


def run(plan: Plan) -> int:
    """Carry out one call of ``run.sh``.

    Returns
    -------
    int
        0 done, or what a stage that failed stands for: 2 the input or configuration
        is wrong (the command said so by its own exit code 2), 130 interrupted, 1
        anything else.

    Raises
    ------
    UserError
        If nothing can be run: no such stage, an input that no chosen stage makes, an
        override that the recipe does not know.
    """
    started = time.monotonic()
    check_environment()
    if plan.force and plan.force_resume:
        raise UserError(
            "run.sh: --force begins again from nothing, --force_resume goes on from "
            "what is there: give one of them"
        )
    chosen = choose_stages(plan.stages, plan.first, plan.last)
    if plan.check:
        check_recipe(plan.check, options=plan.options, task=plan.task)
    if plan.dry_run:
        return dry_run(plan, chosen)
    complain_about_missing_inputs(plan, chosen)
    check_signatures(plan, chosen)
    memory = Memory(plan, chosen)
    memory.begin()
    for stage in plan.stages:
        if stage.number < chosen[0].number:
            _note_if_stale(stage)
    ran = 0
    for stage in chosen:
        verdict = _judge(plan, Record(stage))
        if verdict.up_to_date:
            log(stage.where, f"Stage {stage}: up to date, skipped (--force redoes it)")
            memory.remember()
            memory.settle()
            continue
        ran += 1
        code = run_stage(plan, stage, memory)
        if code:
            return code
        memory.remember(worked=True)
        memory.settle()
    log("run.sh:end", _ending(plan, chosen, ran, time.monotonic() - started))
    return 0


def run_stage(plan: Plan, stage: Stage, memory: Memory) -> int:
    """Run one stage under its lock and remember how it ended; returns an exit code."""
    record = Record(stage)
    with record.locked() as descriptor:
        if record.recover():
            log(stage.where, f"it was killed at its beginning: {_AS_IT_WAS}")
        verdict = _judge(plan, record)  # another run may just have made it
        if verdict.up_to_date:
            log(stage.where, f"Stage {stage}: up to date, skipped (--force redoes it)")
            return 0
        log(stage.where, f"Stage {stage}: {stage.title} [{'; '.join(verdict.reasons)}]")
        if verdict.fresh and record.leftovers():
            log(stage.where, f"its earlier state moves to {record.aside}")
        command = [*stage.launcher, *stage.command]
        shown = shlex.join(command)
        log(stage.where, shown)
        log_file = Path(plan.experiment, "log", f"{stage.name}.log")
        inputs = record.begin(fresh=verdict.fresh)
        memory.remember()
        begun = time.monotonic()
        try:
            code = run_logged(
                command,
                log_file,
                header=f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {shown}",
                keep_open=[descriptor],
            )
        except InterruptedStageError:
            undone = record.give_up()
            memory.remember()
            after = (
                f"before it had made anything; {_AS_IT_WAS}"
                if undone
                else ("the same command goes on")
            )
            log(stage.where, f"Stage {stage}: interrupted; {after}")
            return INTERRUPTED
        fault = _fault(stage, code)
        refused = code == UserError.exit_code
        if fault and (record.refuse() if refused else record.give_up()):
            fault += f"; {_AS_IT_WAS}"
            if record.failed.exists():
                fault += f", and what it wrote now is in {record.failed}"
        else:
            record.finish(inputs, ok=not fault, seconds=time.monotonic() - begun)
    if not fault:
        return 0
    memory.remember()
    gone = refused and memory.forget()
    lines = [
        f"run.sh: stage {stage} failed: {fault}",
        *([] if gone else [f"  log: {log_file}"]),
        f"  command: (cd {shlex.quote(os.getcwd())} && {shown})",
    ]
    if not refused:
        lines.append(f"  go on: {_command_line(plan, '--stage', stage.name)}")
    print("\n".join(lines), file=sys.stderr)
    return UserError.exit_code if refused else WorkError.exit_code


def dry_run(plan: Plan, chosen: Sequence[Stage]) -> int:
    """Say for each chosen stage whether it would run, why, and its command."""
    waiting: list[Stage] = []
    for stage in chosen:
        record = Record(stage)
        verdict = _judge(plan, record)
        reasons = list(verdict.reasons)
        if not reasons:
            # Their output may come out the same: then this stage will be skipped.
            made = (
                (earlier, [path for path in stage.inputs if makes(earlier, path)])
                for earlier in waiting
            )
            reasons += [
                f"unless stage {earlier} leaves {_together(paths)} as "
                f"{'it is' if len(paths) == 1 else 'they are'}"
                for earlier, paths in made
                if paths
            ]
        state = f"will run: {'; '.join(reasons)}" if reasons else "up to date"
        say(f"stage {stage.number} {stage.name:<10} {state}")
        say(f"    {shlex.join([*stage.launcher, *stage.command])}")
        if verdict.fresh and (moved := record.leftovers()):
            say(
                f"  begins anew; its earlier state will move to {record.aside}: "
                f"{_together(moved)}"
            )
            if record.aside.exists():
                say("  what lies there now will be lost")
        elif reasons and record.can_resume():
            say(f"  goes on from {stage.restarts[0]}")
        if reasons:
            waiting.append(stage)
    complain_about_missing_inputs(plan, chosen)
    return 0


def _together(paths: Sequence[str]) -> str:
    """List paths with their folder told once.

    Example
    -------
    >>> _together(["exp/a/save"]), _together(["exp/a/save", "exp/a/x.yaml"])
    ('exp/a/save', 'save, x.yaml in exp/a')
    """
    folders = {os.path.dirname(path) for path in paths}
    if len(paths) == 1 or len(folders) > 1:
        return ", ".join(paths)
    return f"{', '.join(map(os.path.basename, paths))} in {folders.pop() or '.'}"


def complain_about_missing_inputs(plan: Plan, chosen: Sequence[Stage]) -> None:
    """Raise `UserError` naming every input that cannot come into being, and how to."""
    faults = missing_inputs(chosen, plan.stages)
    if not faults:
        return
    lines = [
        f"  stage {stage} needs {path}: "
        + (f"made by stage {maker}" if maker else "no stage makes it")
        for stage, path, maker in faults
    ]
    commands = [
        "  type: "
        + _command_line(plan, "--stage", first.name, "--stop_stage", last.name)
        for first, last in ranges_to_run(faults, plan.stages)
    ]
    raise UserError(
        "\n".join([f"run.sh: missing inputs ({len(faults)})", *lines, *commands])
    )


def check_environment() -> None:
    """Raise `UserError` if the interpreter lacks what every stage imports."""
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(
            f"run.sh: {sys.executable} lacks {', '.join(lacking)}\n"
            f"  type: make -C {shlex.quote(str(project_root()))} setup"
        )


def check_signatures(plan: Plan, chosen: Sequence[Stage]) -> None:
    """Let ``check`` compare arguments with signatures before an earlier stage works.

    It imports torch: done only if a stage would run for nothing before the training
    script, which does the same at its start, could say so.
    """
    todo = [s for s in chosen if not _judge(plan, Record(s)).up_to_date]
    if not plan.check or not any(stage.recipe for stage in todo[1:]):
        return
    command = [sys.executable, "-m", "speechbrain_ext", "check", *plan.check]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    if result.returncode:
        raise UserError((result.stderr or result.stdout).rstrip())


def log(where: str, message: str) -> None:
    """Print one line in the form of ESPnet's and icefall's recipes."""
    say(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} ({where}) {message}")


def say(text: str) -> None:
    """Print; when nobody reads it any more (``| head``) the work goes on unseen."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _judge(plan: Plan, record: Record) -> Verdict:
    return record.judge(force=plan.force, force_resume=plan.force_resume)


def _fault(stage: Stage, code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", perhaps by the system for want of memory" if code == -9 else ""
        return f"killed by {name}{hint}"
    if code:
        return f"exit code {code}"
    absent = [path for path in stage.makes if not Path(path).exists()]
    return f"it ended well but did not make {', '.join(absent)}" if absent else ""


def _note_if_stale(stage: Stage) -> None:
    """Say that a stage before ``--stage`` is outdated: its results will be used."""
    record = Record(stage)
    if record.read().get("status") != "done":
        return  # made by hand or elsewhere: not ours to judge
    verdict = record.judge()
    if not verdict.up_to_date:
        log(
            stage.where,
            f"note: stage {stage} lies before --stage and is out of date "
            f"({'; '.join(verdict.reasons)}): its earlier outputs are used",
        )


def _ending(plan: Plan, chosen: Sequence[Stage], ran: int, seconds: float) -> str:
    """Print the results, if the last stage was chosen; return the last line."""
    if chosen[-1] is plan.stages[-1]:
        for path in filter(os.path.exists, plan.show):
            say(f"\n{Path(path).read_text(encoding='utf-8').rstrip()}\n")
        for label, path in zip(plan.look[::2], plan.look[1::2], strict=True):
            if os.path.exists(path):
                say(f"{label + ':':<18}{os.path.abspath(path)}")
    elapsed = f"[elapsed={round(seconds)}s]"
    if not ran:
        return f"Nothing to do: everything is up to date (--force redoes it). {elapsed}"
    return f"Successfully finished. {elapsed}"


def _command_line(plan: Plan, *more: str) -> str:
    return shlex.join([plan.script, *plan.given, *more])
