"""The command ``analyze-nan``: why these batches were rejected, and what to do now.

Reads dumps alone: neither the training's code nor the recipe nor the data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from speechbrain_ext.brain.forensics.dump import (
    Dump,
    DumpError,
    dumps_in,
    finite_or_text,
    read_dump,
)
from speechbrain_ext.brain.forensics.dump_reader import NAME
from speechbrain_ext.brain.forensics.evidence import examine_items
from speechbrain_ext.brain.forensics.issues import (
    culprits,
    find_issues,
    find_patterns,
    recommendations,
)
from speechbrain_ext.errors import UserError

#: Where the newest experiment is looked for, from the current folder.
_PLACES = (".", "*", "exp/*", "egs/*/exp/*")


def analyze_dump(
    dump: Dump,
    *,
    sample_rate: int | None = None,
    label_ranges: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Analyze one dump.

    Arguments
    ---------
    dump : Dump
        As `read_dump` returned it.
    sample_rate : int, optional
        In Hz; None: what the dump or the ``hyperparams.yaml`` of its experiment says.
    label_ranges : Mapping, optional
        Name of an item -> number of classes, beside those that the dump names.

    Returns
    -------
    dict
        The dump's facts (``name``, ``file``, ``batch``, ``epoch``, ``cause``, ``loss``,
        ... ``diagnosis``); ``items`` (`examine_items`), ``gradients``, ``issues``
        (`find_issues`), ``recommendations``, ``culprits`` (utterances), ``module``
        (first bad layer, or None), ``likely_cause``; ready for JSON but for NaN.
    """
    rate = sample_rate or dump.context.get("sample_rate") or _recipe_rate(dump.path)
    ranges = {**(dump.context.get("label_ranges") or {}), **(label_ranges or {})}
    items = examine_items(dump, sample_rate=rate, label_ranges=ranges)
    issues = find_issues(dump, items)
    causes = [dump.diagnosis.get("cause"), *(issue["cause"] for issue in issues)]
    if causes[0] == "not reproducible":  # then what is plain to see comes first
        causes.append(causes.pop(0))
    return {
        "name": dump.name,
        "file": str(dump.path),
        "schema": dump.schema,
        "batch": dump.batch,
        "epoch": dump.epoch,
        "cause": dump.cause,
        "loss": dump.loss,
        "grad_norm": dump.grad_norm,
        "precision": dump.precision,
        "utt_ids": dump.utt_ids,
        "paths": dump.paths,
        "incident": dump.incident,
        "weights": dump.weights_name,
        "context": dump.context,
        "versions": dump.versions,
        "left_out": dump.left_out,
        "notes": dump.notes,
        "sample_rate": rate,
        "diagnosis": dump.diagnosis,
        "module": dump.diagnosis.get("module") or dump.report.get("first_bad_module"),
        "likely_cause": next((cause for cause in causes if cause), None),
        "culprits": culprits(dump, issues),
        "items": items,
        "gradients": _gradients(dump),
        "buffers": dump.report.get("buffers") or [],
        "issues": issues,
        "recommendations": recommendations(dump, issues),
    }


def _recipe_rate(path: Path) -> int | None:
    """Sample rate in Hz that the experiment's recipe names."""
    recipe = path.resolve().parent.parent / "hyperparams.yaml"
    try:
        text = recipe.read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^sample_rate: *(\d+) *$", text, re.MULTILINE)
    return int(found.group(1)) if found else None


def _gradients(dump: Dump) -> dict[str, Any]:
    """Gradient statistics; older dumps have the names of the bad ones alone."""
    found = dump.report.get("gradient_statistics") or dump.report.get("gradients") or {}
    if isinstance(found, list):
        return {"bad": [{"name": name} for name in found]}
    return found


def analyze_files(
    paths: Sequence[Path], **options: Any
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Analyze some dumps; a broken one does not keep the others from being shown.

    Arguments
    ---------
    paths : sequence of Path
        Dumps.
    **options
        As for `analyze_dump`.

    Returns
    -------
    tuple of two lists
        The analyses, and for each dump that can't be read ``file`` and ``error``.
    """
    analyses, broken = [], []
    for path in paths:
        try:
            analyses.append(analyze_dump(read_dump(path), **options))
        except DumpError as error:
            broken.append({"file": str(path), "error": str(error)})
    return analyses, broken


def find_dumps(target: str | Path | None) -> list[Path]:
    """Find the dumps that a person means.

    Arguments
    ---------
    target : str, Path or None
        A dump, a folder of dumps, an experiment, or a folder of experiments, of which
        the newest is taken. None: the newest experiment under the current folder.

    Returns
    -------
    list of Path
        At least one, in the order of training.

    Raises
    ------
    UserError
        If there is none; the message says where it was looked for.
    """
    if target is None:
        folders = [f for place in _PLACES for f in Path().glob(f"{place}/debug_nan")]
        newest = _newest(folders)
        if newest is None:
            raise UserError(
                "analyze-nan: no dump under the current folder "
                "(./debug_nan, */debug_nan, exp/*/debug_nan, egs/*/exp/*/debug_nan); "
                "name an experiment, its debug_nan, or a nan_batch_*.pt"
            )
        return dumps_in(newest)
    path = Path(target)
    if path.is_file() or path.suffix in (".pt", ".json"):
        return [path]
    if not path.is_dir():
        raise UserError(
            f"analyze-nan: there is no {path}; name an experiment, its debug_nan, or a "
            "nan_batch_*.pt"
        )
    for folder in (path, path / "debug_nan"):
        if dumps_in(folder):
            return dumps_in(folder)
    newest = _newest(path.glob("*/debug_nan"))
    if newest is not None:
        return dumps_in(newest)
    raise UserError(
        f"analyze-nan: no nan_batch_*.pt in {path}"
        + (": no batch was rejected there" if _is_experiment(path) else "")
    )


def _is_experiment(path: Path) -> bool:
    return (path / "hyperparams.yaml").exists() or path.name == "debug_nan"


def _newest(folders) -> Path | None:
    """Return the folder with the newest dump, or None if none has any."""
    ages = {}
    for folder in folders:
        files = [p for p in folder.glob("nan_batch_*") if NAME.fullmatch(p.stem)]
        if files:
            ages[folder] = max(p.stat().st_mtime for p in files)
    return max(ages, key=ages.__getitem__, default=None)


def _label_ranges(words: Sequence[str]) -> dict[str, int]:
    """Read ``NAME=NUMBER`` options."""
    ranges = {}
    for word in words:
        name, _, number = word.partition("=")
        if not name or not number.isdigit() or int(number) < 1:
            raise UserError(
                f"analyze-nan: --classes {word}: must be ITEM=NUMBER, such as "
                "--classes spk_id=140"
            )
        ranges[name] = int(number)
    return ranges


@click.command("analyze-nan", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("targets", nargs=-1, type=click.Path(), metavar="[EXP|DIR|FILE]...")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@click.option("--brief", is_flag=True, help="Only the overview of all dumps.")
@click.option("--plot", is_flag=True, help="Write a picture beside each dump.")
@click.option(
    "--sample-rate",
    "--sample_rate",
    type=click.IntRange(min=1),
    help="In Hz, where neither the dump nor its experiment names it.",
)
@click.option(
    "--classes",
    multiple=True,
    metavar="ITEM=NUMBER",
    help="Number of classes of a label item of the batch.",
)
def analyze_nan(
    targets: tuple[str, ...],
    as_json: bool,
    brief: bool,
    plot: bool,
    sample_rate: int | None,
    classes: tuple[str, ...],
) -> int:
    """Say why batches were rejected, what they hold and what to do now.

    Takes an experiment, a folder of dumps (debug_nan) or single dumps; with nothing
    the newest experiment here or under exp/. Needs the dumps alone. Exit code 0, or 2
    if a dump is missing or broken; the others are shown all the same.
    """
    from speechbrain_ext.brain.forensics.analysis_text import print_analyses

    ranges = _label_ranges(classes)
    found = [_dump_of(path) for t in targets or [None] for path in find_dumps(t)]
    paths = {path.resolve(): path for path in reversed(found)}  # each of them once
    analyses, broken = analyze_files(
        list(paths.values())[::-1], sample_rate=sample_rate, label_ranges=ranges
    )
    patterns = find_patterns(analyses)
    pictures = _plot_all(analyses) if plot else []
    if as_json:
        whole = {
            "schema": 1,
            "dumps": analyses,
            "patterns": patterns,
            "broken": broken,
            "plots": list(map(str, pictures)),
        }
        click.echo(json.dumps(finite_or_text(whole), indent=1, ensure_ascii=False))
    else:
        print_analyses(analyses, patterns, broken, brief=brief, pictures=pictures)
    for entry in broken:
        click.echo(f"analyze-nan: {entry['error']}", err=True)
    return 2 if broken else 0


def _dump_of(path: Path) -> Path:
    """Name the dump by its .pt file, also where its .json was given."""
    return path.with_suffix(".pt") if path.suffix == ".json" else path


def _plot_all(analyses: list[dict[str, Any]]) -> list[Path]:
    # matplotlib takes a second to import; the text shall not wait for it.
    from speechbrain_ext.brain.forensics.dump_plots import plot_dump

    pictures = []
    for analysis in analyses:
        path = Path(analysis["file"])
        if plot_dump(read_dump(path), analysis, path.with_suffix(".png")):
            pictures.append(path.with_suffix(".png"))
    return pictures
