"""``speechbrain-ext chaos``: every fault into a model, and what is left of it."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_json, write_text

#: Enough for a fault with batches before and after it, and several snapshots.
REFERENCE_BATCHES = 60
RECIPE_BATCHES = 12
_DOCUMENT = "chaos"


@click.command(
    "chaos",
    context_settings={
        "ignore_unknown_options": True,
        "help_option_names": ["-h", "--help"],
    },
)
@click.option("--faults", default="all", help="Names with commas between; all: all.")
@click.option(
    "--positions",
    default="middle",
    show_default=True,
    help="middle, first, last, twice, window; or all.",
)
@click.option(
    "--variants",
    default="",
    help="Of the reference models: dropout, scheduler, dict, spike; or all.",
)
@click.option(
    "--batches",
    type=click.IntRange(min=6),
    help=f"In all, over two epochs.  [{REFERENCE_BATCHES}; {RECIPE_BATCHES} of a "
    "recipe]",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the figures go.",
)
@click.option(
    "--write",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for chaos.json and chaos.md.",
)
@click.argument(
    "words",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="RECIPE.yaml|speaker|codec ... [--key=v ...]",
)
def chaos(
    faults: str,
    positions: str,
    variants: str,
    batches: int | None,
    json_file: Path | None,
    folder: Path | None,
    words: tuple[str, ...],
) -> int:
    """Put every fault into a model, and tell what is left of it, beside stock.

    speaker and codec are small reference models on synthetic sound. A recipe is
    trained on its own data, given as for its training script (--train_manifest=...,
    --preset NAME, --key=value), in a temporary folder: nothing of it is kept.

    Exit code 0 if all that was flagged left no trace and every state ends finite, else
    1; 2 for a usage error.
    """
    from speechbrain_ext.chaos import faults as known
    from speechbrain_ext.chaos.plan import VARIANTS
    from speechbrain_ext.chaos.survival import POSITIONS

    chosen = {
        "faults": choose("faults", faults, known.FAULTS),
        "positions": choose("positions", positions, POSITIONS),
        "variants": choose("variants", variants, VARIANTS),
    }
    for option in ("faults", "positions"):
        if not chosen[option]:
            raise UserError(f"chaos: --{option} names nothing; leave it out for all")
    report = measure(list(words), batches, **chosen)
    text = report.pop("text")
    report["command"] = command_line(faults, positions, variants, batches, words)
    if json_file is not None:
        write_json(json_file, report)
    if folder is not None:
        write_json(folder / f"{_DOCUMENT}.json", report)
        write_text(folder / f"{_DOCUMENT}.md", heading(report) + text)
    click.echo(text)
    return 0 if report["survived"] else 1


def choose(option: str, text: str, known: Sequence[str]) -> list[str]:
    """Read a list of names.

    Raises
    ------
    UserError
        Naming those that are unknown.

    Example
    -------
    >>> choose("faults", "b,a", ["a", "b", "c"])
    ['b', 'a']
    """
    if text == "all":
        return list(known)
    names = [name.strip().replace("-", "_") for name in text.split(",")]
    names = [name for name in names if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"chaos: --{option}: unknown {', '.join(unknown)}; known: "
            f"{', '.join(known)}, or all"
        )
    return names


def measure(
    words: list[str],
    batches: int | None,
    *,
    faults: list[str],
    positions: list[str],
    variants: list[str],
) -> dict:
    """Make all runs and return the report, its tables under ``text``.

    Arguments
    ---------
    words : list of str
        Reference models, or one recipe and its overrides.
    batches : int or None
        In all; None: the default of the kind.
    faults, positions, variants : list of str
        What is tried.

    Raises
    ------
    UserError
        If the words make no sense together.
    """
    import torch

    from speechbrain_ext.chaos import plan
    from speechbrain_ext.chaos.reference import MODELS
    from speechbrain_ext.chaos.tables import LEGEND, as_markdown
    from speechbrain_ext.tasks.experiment import environment

    started = datetime.datetime.now(datetime.timezone.utc)
    models, recipe_words = split_words(words, MODELS)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        surveys: dict[str, list] = {}
        if recipe_words:
            if variants:
                raise UserError("chaos: --variants are of speaker and codec only")
            subject = recipe_subject(recipe_words, Path(folder), batches)
            surveys[subject.name] = plan.subject_settings(
                subject, subject.policy, positions
            )
        for name in models:
            surveys[name] = plan.reference_settings(
                name, batches or REFERENCE_BATCHES, positions, variants
            )
        rows = sum(len(s) for s in surveys.values()) * (len(faults) + 1)
        if models:
            torch.set_num_threads(1)  # bits do not depend on the machine's cores
        try:
            with telling(rows) as tell:
                found = {
                    name: plan.carry_out(settings, faults, tell)
                    for name, settings in surveys.items()
                }
        finally:
            torch.set_num_threads(threads)
    seconds = datetime.datetime.now(datetime.timezone.utc) - started
    tables = [as_markdown(name, results) for name, results in found.items()]
    return {
        "measured": started.isoformat(timespec="seconds"),
        "seconds": round(seconds.total_seconds()),
        "environment": environment(),
        "survived": all(map(plan.survived, found.values())),
        "subjects": [plan.as_json(name, results) for name, results in found.items()],
        "text": "\n".join([*tables, LEGEND]) + "\n",
    }


def split_words(words: list[str], models: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell reference models from a recipe and its overrides.

    Raises
    ------
    UserError
        If there is nothing, or both.

    Example
    -------
    >>> split_words(["codec"], ["speaker", "codec"])
    (['codec'], [])
    >>> split_words(["a.yaml", "--seed", "3"], ["speaker", "codec"])
    ([], ['a.yaml', '--seed', '3'])
    """
    if not words:
        raise UserError(
            f"chaos: name what to try: speechbrain-ext chaos {' '.join(models)}, or "
            "speechbrain-ext chaos RECIPE.yaml --train_manifest=... "
            "--valid_manifest=..."
        )
    if words[0] in models:
        strangers = [word for word in words if word not in models]
        if strangers:
            raise UserError(
                f"chaos: {words[0]} is a reference model and takes no further words, "
                f"got {' '.join(strangers)}; a recipe is tried by itself"
            )
        return list(dict.fromkeys(words)), []
    return [], words


def recipe_subject(words: list[str], folder: Path, batches: int | None):
    """Load a recipe as its training script does, and record its batches."""
    from speechbrain_ext.chaos.recipe import RecipeSubject
    from speechbrain_ext.config.command_line import split_command_line
    from speechbrain_ext.config.faults import ConfigError, Faults

    faults = Faults()
    given = split_command_line(words, "chaos", faults)
    if faults:
        raise ConfigError(given.recipe, faults)
    return RecipeSubject(
        given.recipe,
        given.overrides,
        given.presets,
        folder,
        batches=batches or RECIPE_BATCHES,
        allow=given.allow,
    )


class telling:  # noqa: N801  (used as a function)
    """A progress bar as a context: call what it gives with each next title."""

    def __init__(self, total: int):
        from speechbrain_ext.data.progress import progress_bar

        self._bar = progress_bar()
        self._total = total

    def __enter__(self) -> Callable[[str], None]:
        bar = self._bar.__enter__()
        task = bar.add_task("chaos", total=self._total)
        done = -1

        def tell(what: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, completed=done, description=what)

        return tell

    def __exit__(self, *error) -> None:
        self._bar.__exit__(*error)


def command_line(faults, positions, variants, batches, words) -> str:
    """Return the command that makes the same report."""
    options = {
        "faults": "" if faults == "all" else faults,
        "positions": "" if positions == "middle" else positions,
        "variants": variants,
        "batches": batches or "",
    }
    given = [f"--{name}={value}" for name, value in options.items() if value]
    return " ".join(["speechbrain-ext", "chaos", *words, *given])


def heading(report: dict) -> str:
    """Return the first lines of the document."""
    environment = report["environment"]
    versions = environment["versions"]
    return (
        "# What survives a fault\n\n"
        f"Generated by `{report['command']} --write docs` on {report['measured']}; "
        "figures in the .json beside this file. Do not edit.\n\n"
        f"{environment['processor']}, {environment['platform']}, 1 thread, "
        f"{report['seconds']} s. "
        + ", ".join(
            f"{name} {versions[name]}"
            for name in ("python", "torch", "speechbrain")
            if name in versions
        )
        + ".\n\n"
    )
