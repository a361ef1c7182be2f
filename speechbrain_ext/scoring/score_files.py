"""Score files of any toolkit: which column is what is found out, never guessed.

A layout fits if every line of the file has it. A file that no layout fits, or more than
one, is refused with what was tried; a header line that names the columns settles it.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechbrain_ext.errors import UserError
from speechbrain_ext.scoring.trials import Trials, read_scores

#: What a label may be called, in lower case.
LABELS = dict.fromkeys(("1", "target", "tgt", "true"), True) | dict.fromkeys(
    ("0", "nontarget", "non-target", "nontgt", "imp", "impostor", "false"), False
)
#: Layouts of files that hold labels, by what each column is.
LABELLED = (
    ("score", "label"),
    ("label", "score"),
    ("label", "enrol", "test", "score"),
    ("enrol", "test", "score", "label"),
    ("enrol", "test", "label", "score"),
)
#: Layouts of files whose labels stand in another one.
UNLABELLED = (("enrol", "test", "score"),)
#: Layouts of that other one.
KEYS = (("label", "enrol", "test"), ("enrol", "test", "label"))
#: What a header may call a column, in lower case.
_HEADINGS = {
    "score": ("score", "scores", "llr", "similarity", "cosine"),
    "label": ("label", "labels", "target", "targettype", "key", "is_target"),
    "enrol": ("enrol", "enroll", "enrollment", "modelid", "model", "utt1", "a"),
    "test": ("test", "segment", "segmentid", "utt2", "b"),
}
_NAMED = 5
#: Trials without a score that are named one by one.
_MISSING_NAMED = 100


class ScoredTrials(NamedTuple):
    """What a score file says.

    ``scores`` is float64 and ``labels`` bool, both [num_trials]; ``trials`` has the
    names, or is None if the file has none; ``notes`` tell what a reader should know.
    """

    scores: np.ndarray
    labels: np.ndarray
    trials: Trials | None
    notes: tuple[str, ...] = ()


def read_any_scores(path: str | Path, keys: str | Path | None = None) -> ScoredTrials:
    """Read the scores and labels of trials.

    Arguments
    ---------
    path : str or Path
        An ``.npz`` of `trials.write_scores`, or text, parted by blanks, tabs or commas,
        in one of the layouts `LABELLED`; with ``keys``, of `UNLABELLED`.
    keys : str, Path or None
        Trial list with the labels, in one of the layouts `KEYS`. The trials are those
        of this list, in its order, and each needs a score.

    Returns
    -------
    ScoredTrials

    Raises
    ------
    UserError
        If a file can't be read, it has no known layout or several (the message says
        what was tried), or trials have no score (they are named).
    """
    path = Path(path)
    if keys is not None:
        return _join(path, Path(keys))
    if path.suffix == ".npz" or _is_official(path):
        trials, scores = read_scores(path)
        return ScoredTrials(scores, trials.labels, trials)
    columns = _read_columns(path, LABELLED)
    labels = _labels(columns["label"])
    scores = np.array(list(map(float, columns["score"])), np.float64)
    trials = None
    if {"enrol", "test"} <= columns.keys():
        trials = _trials(labels, columns["enrol"], columns["test"])
    return ScoredTrials(scores, labels, trials)


def _labels(column: Sequence[str]) -> np.ndarray:
    return np.array([LABELS[text.lower()] for text in column], dtype=bool)


def _trials(labels: np.ndarray, enrol: Sequence[str], test: Sequence[str]) -> Trials:
    ids = sorted({*enrol, *test})
    row = dict(zip(ids, range(len(ids)), strict=True))
    sides = (np.array([row[name] for name in side], np.int32) for side in (enrol, test))
    return Trials(labels, *sides, ids)


def _is_official(path: Path) -> bool:
    """Tell whether the first line can only be `<0 or 1> <key> <key> <score>`.

    Such files, which may be large, have a fast reader of their own.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:
            fields = next((row for row in map(str.split, stream) if row), [])
    except (OSError, UnicodeDecodeError) as error:
        raise _not_text(path, error) from error
    return (
        len(fields) == 4
        and not any("," in field for field in fields)
        and fields[0] in ("0", "1")
        and _is_number(fields[3])
        and not {fields[2].lower(), fields[3].lower()} & LABELS.keys()
    )


def _not_text(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"score: {path}: no such file")
    return UserError(f"score: {path} can't be read as text ({error})")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_columns(
    path: Path, layouts: Sequence[Sequence[str]]
) -> dict[str, Sequence[str]]:
    """Read a text file by columns, each under the name of what it is."""
    rows = _rows(path)
    header = _header(rows[0][1], layouts) if rows else None
    if header:
        rows, layouts = rows[1:], [header]
    if not rows:
        raise UserError(f"score: {path} holds no line with a score")
    count = len(layouts[0]) if header else len(rows[0][1])
    uneven = [row for row in rows if len(row[1]) != count]
    if uneven:
        raise UserError(
            _refusal(path, f"each line must have {count} fields, as the first", uneven)
        )
    table = list(zip(*(fields for _, fields in rows), strict=True))
    fits, tried = [], []
    for layout in layouts:
        if len(layout) != count:
            continue
        found = dict(zip(layout, table, strict=True))
        odd = _first_odd(found)
        if odd is None:
            fits.append(found)
        else:
            number, fields = rows[odd[0]]
            shown = " ".join(fields)[:80]
            tried.append(f"  <{'> <'.join(layout)}>: not line {number}: {shown}")
    if len(fits) == 1:
        return fits[0]
    named = [f"<{'> <'.join(found)}>" for found in fits]
    if fits:
        raise UserError(
            f"score: {path} may be {' or '.join(named)}: every line fits both\n"
            f"  Next: write a header line that names the columns, such as: "
            f"{' '.join(fits[0])}"
        )
    raise UserError("\n".join([*_unknown(path, count, layouts), *tried]))


def _unknown(path: Path, count: int, layouts) -> list[str]:
    known = ", ".join(f"<{'> <'.join(layout)}>" for layout in layouts)
    lines = [
        f"score: {path}: {count} fields a line are in none of the known layouts: "
        f"{known}; labels are 1 or target, 0 or nontarget"
    ]
    if count == 3 and not any(len(layout) == 3 for layout in layouts):
        lines.append("  Next: if its labels are in another file: --trials KEYFILE")
    if layouts is UNLABELLED and count == 4:
        lines.append("  Next: if it holds labels itself, leave out --trials")
    return lines


def _refusal(path: Path, rule: str, rows: Sequence[tuple[int, Sequence[str]]]) -> str:
    said = [f"  line {number}: {' '.join(row)[:80]}" for number, row in rows[:_NAMED]]
    more = [f"  and {len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
    return "\n".join([f"score: {path}: {rule}", *said, *more])


def _first_odd(found: dict[str, Sequence[str]]) -> tuple[int] | None:
    """Find the first row in which a column is not what it should be."""
    odd = []
    for name, column in found.items():
        check = {"label": lambda text: text.lower() in LABELS, "score": _is_number}
        if name in check:
            good = {text: check[name](text) for text in set(column)}
            if not all(good.values()):
                odd.append(next(n for n, text in enumerate(column) if not good[text]))
    return (min(odd),) if odd else None


def _rows(path: Path) -> list[tuple[int, Sequence[str]]]:
    """Split the lines that are not empty, with their numbers."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _not_text(path, error) from error
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    first = numbered[0][1] if numbered else ""
    if "," in first or "\t" in first:
        comma = "\t" not in first
        fields: Iterable = csv.reader(
            (line for _, line in numbered), delimiter="," if comma else "\t"
        )
        fields = ([field.strip() for field in row] for row in fields)
    else:
        fields = (line.split() for _, line in numbered)
    return list(zip((n for n, _ in numbered), fields, strict=False))


def _header(fields: Sequence[str], layouts) -> tuple[str, ...] | None:
    """Return the columns that the first line names; None if it is no header."""
    if any(map(_is_number, fields)):
        return None
    needed = {"score", "label"} & set(itertools.chain.from_iterable(layouts))
    if "score" not in needed and any(text.lower() in LABELS for text in fields):
        return None  # "a b target" is a trial
    names = []
    for field in (text.lower().strip("#<> ") for text in fields):
        found = [what for what, known in _HEADINGS.items() if field in known]
        names.append(found[0] if found else field)
    # Whatever the sides are called, they stand in this order.
    sides = iter([side for side in ("enrol", "test") if side not in names])
    names = [name if name in _HEADINGS else next(sides, name) for name in names]
    if not needed <= set(names) or len(set(names)) < len(names):
        return None
    return tuple(names)


# -- labels in another file ----------------------------------------------------------


def _join(path: Path, keys: Path) -> ScoredTrials:
    listed = _read_columns(keys, KEYS)
    scored = _read_columns(path, UNLABELLED)
    for name, columns in ((keys, listed), (path, scored)):
        if not {"enrol", "test"} <= columns.keys():
            raise UserError(f"score: {name}: its header names no two utterances")
    pairs = list(zip(listed["enrol"], listed["test"], strict=True))
    scores: dict[tuple[str, str], float] = {}
    twice = []
    for enrol, test, text in zip(*(scored[n] for n in UNLABELLED[0]), strict=True):
        score = float(text)
        known = scores.setdefault((enrol, test), score)
        if known != score and not (np.isnan(known) and np.isnan(score)):
            twice.append(f"{enrol} {test}")
    if twice:
        more = f" and {len(twice) - _NAMED} more" if len(twice) > _NAMED else ""
        raise UserError(
            f"score: {path} has two scores of one trial: "
            f"{', '.join(twice[:_NAMED])}{more}"
        )
    missing = [pair for pair in dict.fromkeys(pairs) if pair not in scores]
    if missing:
        named = [f"  {' '.join(pair)}" for pair in missing[:_MISSING_NAMED]]
        if len(missing) > _MISSING_NAMED:
            named.append(f"  and {len(missing) - _MISSING_NAMED:,} more")
        if len(missing) == len(set(pairs)):
            named.append(
                f"  {path} names them like this: {' '.join(next(iter(scores)))}"
            )
        raise UserError(
            "\n".join(
                [
                    f"score: {path} has no score of {len(missing):,} of {len(pairs):,} "
                    f"trials in {keys}:",
                    *named,
                ]
            )
        )
    labels = _labels(listed["label"])
    extra = len(scores) - len(set(pairs))
    notes = (f"{extra:,} scores are of no trial in {keys.name}: left out",)
    return ScoredTrials(
        np.array([scores[pair] for pair in pairs], np.float64),
        labels,
        _trials(labels, listed["enrol"], listed["test"]),
        notes if extra else (),
    )
