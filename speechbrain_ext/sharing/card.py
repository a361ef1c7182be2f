"""The model card: what was trained, on what, how well, and how to get there.

Every figure is taken from ``results.json``; what is not there is said to be missing. A
card is read by strangers, so folders of the machine that trained are not in it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from speechbrain_ext.report.codec.results import METRICS
from speechbrain_ext.report.facts import (
    CHECKPOINT_LABEL,
    NOT_RECORDED,
    Rows,
    bundle_of,
    data_of,
    fact_groups,
    licence_is_known,
)
from speechbrain_ext.report.page import describe, left_out_table
from speechbrain_ext.report.speaker.results import chosen_system
from speechbrain_ext.report.tables import Table, escaped, markdown_table
from speechbrain_ext.sharing.front_matter import front_matter as write_front_matter

#: Heading of each group of facts, in the order of the card.
_HEADINGS = {
    "Model": "Model",
    "Data": "Data",
    "Cost": "Cost",
    "Health": "Health",
    "Environment": "Environment",
    "Conditions": "More",
}
#: Absolute paths; the path of an address (https://...) is none.
_ABSOLUTE = re.compile(
    r"(?<![\w.:/<~-])~?/(?:[^\s/'\"`|,;:<>()]+/)*[^\s/'\"`|,;:<>()]+"
)

#: Of a codec's figures those that the front matter lists, at each rate.
_CODEC_METRICS = ("snr_db", "pesq_wb", "estoi")

_COMMAND = "The command, in the recipe's folder below `egs/`:"
_PRIVATE = "checkpoint that it was made from (not shared), SHA-256 begins"
_AUTHORS_COMMAND = (
    "The weights came with the bundle `{}`. Its author trained them by this command:"
)
_NO_AUTHORS_COMMAND = (
    "The weights came with the bundle `{}`; how they were trained was not recorded."
)
_SCORING_COMMAND = "The figures on this page were measured by:"
_LICENCE_NOTE = (
    "The front matter names the licence of the data; whoever shares the model answers "
    "for it."
)
#: The licence in it is read again by `speechbrain_ext.sharing.export.readme`.
WEIGHTS_LICENCE = (
    "The weights are shared under `{}`, as whoever shares them says; the data has its "
    "own licence, above."
)
_SYNTHETIC = (
    "The speech is synthetic. How well the model does on human voices is not measured "
    "here."
)


def render_card(
    results: Mapping[str, Any],
    *,
    name: str,
    files: Sequence[str] = (),
    usage: str = "",
    front_matter: bool = True,
    weights_licence: str | None = None,
    weights_sha256: str | None = None,
) -> str:
    """Write the model card of a result.

    Arguments
    ---------
    results : Mapping
        As `speechbrain_ext.report.results.read_results` returns them.
    name : str
        Of the model, as a title.
    files : sequence of str
        What lies beside the card, each ``"name"`` or ``"name: what it is"``.
    usage : str
        Markdown that says how to use them.
    front_matter : bool
        Begin with the block that the Hugging Face Hub reads.
    weights_licence : str or None
        Under which the weights are shared, as the Hub names it; None: not said, and the
        block has the licence of the data.
    weights_sha256 : str or None
        Of the ``model.safetensors`` that lies beside the card; None: none does.

    Returns
    -------
    str
        Markdown, a function of the arguments alone; no absolute path is in it.
    """
    results = dict(results)
    page = describe(results)
    limits = list(_limits(results))
    title = _inline(name)
    parts = [f"# {title}", _inline(page.summary)]
    if usage:
        parts += ["## Usage", usage.strip()]
    parts += ["## Results"]
    caveat = results["conditions"].get("caveat")
    for block in page.blocks:
        if isinstance(block, Table):
            parts += _table(block)
        elif not (caveat and str(caveat) in block):  # it stands among the limits
            parts.append(block)
    groups = fact_groups(results)
    if weights_sha256:
        groups["Model"] = _shared_weights(groups["Model"], weights_sha256)
    for group in ("Model", "Data", "Cost", "Health"):
        parts += _facts(group, groups.get(group, []))
        if group == "Data" and weights_licence:
            parts.append(WEIGHTS_LICENCE.format(weights_licence))
        elif group == "Data" and front_matter:
            parts.append(_LICENCE_NOTE)
    left_out = left_out_table(results)
    if left_out:
        parts += _table(left_out)
    parts += ["## Limits", "\n".join(f"- {_inline(limit)}" for limit in limits)]
    parts += ["## How it was made", *_commands(results)]
    for group in ("Environment", "Conditions"):
        parts += _facts(group, groups.get(group, []))
    if files:
        parts += ["## Files", "\n".join(f"- {_file(entry)}" for entry in files)]
    parts.append(
        "Generated from `results.json` by speechbrain-ext; no figure is typed."
    )
    text = _ABSOLUTE.sub(lambda found: _basename(found[0]), "\n\n".join(parts)) + "\n"
    if not front_matter:
        return text
    block = write_front_matter(
        results, name, card_metrics(results), licence=weights_licence
    )
    return block + "\n" + text


def _shared_weights(rows: Rows, sha256: str) -> Rows:
    """Tell the file that is shared apart from the checkpoint that stays at home."""
    private = [
        (_PRIVATE if label == CHECKPOINT_LABEL else label, text)
        for label, text in rows
        if label != CHECKPOINT_LABEL or not sha256.startswith(text)
    ]
    return [*private, ("model.safetensors, SHA-256", sha256)]


def _commands(results: Mapping[str, Any]) -> Iterator[str]:
    """Tell what was typed; for weights from a bundle that is its author's training."""
    bundle = bundle_of(results)
    if bundle.get("command"):
        yield _AUTHORS_COMMAND.format(bundle.get("digest"))
        yield fenced(without_places(str(bundle["command"])))
    elif bundle:
        yield _NO_AUTHORS_COMMAND.format(bundle.get("digest"))
    yield _SCORING_COMMAND if bundle else _COMMAND
    yield fenced(without_places(results["command"]))


def card_metrics(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the measured figures of ours, for the front matter.

    Returns
    -------
    list of dict
        ``type``, ``name``, ``value``; rates in per cent, rounded as tables show them.
    """
    if results["task"] == "speaker":
        return list(_speaker_metrics(dict(results)))
    return list(_codec_metrics(results))


def _speaker_metrics(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    chosen = chosen_system(results)
    for trials, figures in chosen["lists"].items():
        where = f"{trials} list, {chosen['label']}"
        if figures["eer"] is not None:
            name = f"EER %, {where}"
            pair = figures.get("eer_interval")
            if pair:
                name += f", 95 % interval {100 * pair[0]:.2f} to {100 * pair[1]:.2f}"
            yield {"type": "eer", "name": name, "value": round(100 * figures["eer"], 2)}
        for prior in ("0.01", "0.05"):
            value = figures.get(f"min_dcf_{prior}")
            if value is not None:
                name = f"minDCF at prior {prior}, {where}"
                yield {"type": "min_dcf", "name": name, "value": round(value, 3)}


def _codec_metrics(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for system in sorted(results["systems"], key=lambda system: system["kbps"]):
        if system["name"] != "ours":
            continue
        for key in _CODEC_METRICS:
            heading, digits, _ = METRICS[key]
            value = system["mean"].get(key)
            if value is not None:
                name = f"{heading} at {system['kbps']:.1f} kbps, mean over files"
                yield {"type": key, "name": name, "value": round(value, digits)}


def _limits(results: dict[str, Any]) -> Iterator[str]:
    """Say what the figures do not tell."""
    conditions, data = results["conditions"], data_of(results)
    if conditions.get("caveat"):
        text = str(conditions["caveat"])
        yield text[:1].upper() + text[1:]
    if data.get("synthetic"):
        yield _SYNTHETIC
    if data.get("note"):
        yield str(data["note"])
    if not data:
        yield "Corpus, licence and language of the data were not recorded."
    elif not licence_is_known(data):
        yield "The licence of the data is not known; ask before you share the model."
    if results["task"] == "codec":
        yield (
            "No interval: the figures are means over the test files of one split and "
            "one seed."
        )
    else:
        yield (
            "The interval is over the test speakers of one split and one seed; another "
            "split moves the figures too."
        )
    git = conditions.get("git")
    if isinstance(git, dict) and git.get("dirty"):
        yield "The code had changes that its commit does not have."
    if any(entry.get("forced") for entry in conditions.get("resumed") or []):
        yield (
            "Training went on with other settings in between (see Health), so the "
            "command alone does not make this model again."
        )


def _facts(group: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    if not rows:
        return []
    lines = ["| | |", "|---|---|"]
    lines += [f"| {_inline(label)} | {_cell(value)} |" for label, value in rows]
    return [f"## {_HEADINGS[group]}", "\n".join(lines)]


def _table(table: Table) -> list[str]:
    parts = [f"### {table.title}", markdown_table(table)]
    if table.notes:
        notes = (f"[{number}] {note}." for number, note in enumerate(table.notes, 1))
        parts.append("\n".join(notes))
    return parts


def _file(entry: str) -> str:
    name, colon, about = entry.partition(": ")
    return f"`{name}`{colon}{_inline(about)}"


def _cell(text: str) -> str:
    return escaped(_inline(text)) or NOT_RECORDED


def _inline(text: str) -> str:
    """Keep a text on its line; what looks like HTML is shown, not obeyed."""
    return " ".join(text.split()).replace("<", "&lt;")


def fenced(text: str) -> str:
    """Put a text into a block of code that nothing in it can end."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def without_places(command: str) -> str:
    """Take the folders of one machine out of a command.

    An option's absolute path becomes the option's name in capitals, any other the last
    part of it.

    Example
    -------
    >>> without_places("./run.sh --data_folder=/home/me/rec --tag=mine")
    './run.sh --data_folder=DATA_FOLDER --tag=mine'
    """
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation that is not closed: what follows still scrubs it
        return _ABSOLUTE.sub(lambda found: _basename(found[0]), command)
    shown = []
    for word in words:
        option, equals, value = word.partition("=")
        if equals and option.startswith("--") and value.startswith(("/", "~")):
            word = f"{option}={option.lstrip('-').upper()}"
        elif word.startswith(("/", "~")):
            word = _basename(word)
        shown.append(shlex.quote(word))
    return " ".join(shown)


def _basename(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or "FOLDER"
