"""The command line: one lazy entry per command, so that help never imports torch."""

from __future__ import annotations

import difflib
import importlib
import sys

import click

from speechbrain_ext import __version__
from speechbrain_ext.errors import exits_cleanly

#: command name -> ("module:attribute", one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "check": ("speechbrain_ext.config.lint:check", "everything wrong with a recipe"),
    "doctor": ("speechbrain_ext.report.doctor:doctor", "is this training healthy?"),
    "analyze-nan": (
        "speechbrain_ext.brain.forensics.analyze:analyze_nan",
        "why batches were rejected, and what to do now",
    ),
    "replay": (
        "speechbrain_ext.brain.forensics.replay:replay",
        "a rejected batch again, layer by layer",
    ),
    "chaos": (
        "speechbrain_ext.chaos.command:chaos",
        "does a recipe survive faults? beside stock SpeechBrain",
    ),
    "embed": (
        "speechbrain_ext.tasks.speaker.embed_audio:embed",
        "speaker embeddings of any audio",
    ),
    "compare": (
        "speechbrain_ext.tasks.speaker.compare:compare",
        "does the same person speak in two files?",
    ),
    "encode": (
        "speechbrain_ext.coding.commands:encode",
        "recordings to small files, by a trained codec",
    ),
    "decode": ("speechbrain_ext.coding.commands:decode", "and back to audio"),
    "info": (
        "speechbrain_ext.coding.info:info",
        "what coded files are, and whether they are whole",
    ),
    "report": (
        "speechbrain_ext.report.command:report",
        "RESULTS.md, plots and page of an experiment",
    ),
    "score": (
        "speechbrain_ext.report.speaker.score_file:score",
        "EER, minDCF, Cllr and thresholds of any score file",
    ),
    "export": (
        "speechbrain_ext.sharing.command:export",
        "a trained model as a folder for others, stock SpeechBrain, ONNX",
    ),
    "list": (
        "speechbrain_ext.report.listing.command:list_command",
        "recipes, experiments and results that are here",
    ),
    "diff": (
        "speechbrain_ext.report.diff.command:diff",
        "two experiments or recipes side by side",
    ),
    "pack": (
        "speechbrain_ext.sharing.bundle.commands:pack",
        "a recipe, and its result, as one file to share",
    ),
    "unpack": (
        "speechbrain_ext.sharing.bundle.commands:unpack",
        "what somebody packed, as a folder; runs nothing of it",
    ),
    "verify": (
        "speechbrain_ext.sharing.bundle.commands:verify",
        "do a bundle's hashes, tables and card agree?",
    ),
    "inspect": (
        "speechbrain_ext.sharing.bundle.commands:inspect",
        "what loading a recipe or a bundle would do",
    ),
    "new": ("speechbrain_ext.scaffold:new", "make a new egs folder that runs"),
    "bench": (
        "speechbrain_ext.bench.command:bench",
        "speed against the real packages, side by side",
    ),
}


class LazyGroup(click.Group):
    """A click group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None if there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(self, ctx: click.Context, args: list[str]):
        """Find a command, or name the nearest one."""
        if args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            known = ", ".join(COMMANDS)
            ctx.fail(f"no command '{args[0]}'{hint}\nknown: {known}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter):
        """Write the list of commands from `COMMANDS` without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="speechbrain-ext")
def cli() -> None:
    """Speech recipes that train through anything."""


@exits_cleanly
def run(command: click.Command, argv: list[str], name: str) -> int:
    """Run a click command and return its exit code (0, 1, 2 or 130).

    Arguments
    ---------
    command : click.Command
        One of our commands, or a script's.
    argv : list[str]
        Without the program's name.
    name : str
        The program's name in messages.
    """
    try:
        return command(args=argv, prog_name=name, standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as abort:  # how click tells of Ctrl-C
        stop = abort.__cause__
        if isinstance(stop, KeyboardInterrupt):
            raise stop from None
        raise KeyboardInterrupt from None


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(cli, sys.argv[1:], "speechbrain-ext"))
