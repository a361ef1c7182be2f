"""``verify EXPORT``: do the parts of an export agree? Who made it is not known.

``config.json`` has the hash of every other file, and thresholds; its own SHA-256 is the
digest of the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import sha256_file
from speechbrain_ext.inference.folder import (
    CONFIG,
    DECISION,
    RECIPE,
    WEIGHTS,
    ExportFolder,
)
from speechbrain_ext.sharing.bundle.contents import check_tensors
from speechbrain_ext.sharing.bundle.errors import printable
from speechbrain_ext.sharing.export.readme import FILE_NAMES
from speechbrain_ext.sharing.verified import (
    CARD,
    NOTE,
    OK,
    Check,
    Verified,
    all_or,
    expected_digest,
)
from speechbrain_ext.sharing.weights import read_weights
from speechbrain_ext.tasks.speaker.decision import BACKENDS
from speechbrain_ext.tasks.speaker.decision_state import KeptDecision


def verify_export(
    folder: str | os.PathLike,
    *,
    expect_digest: str | None = None,
    allow: Iterable[str] = (),
) -> Verified:
    """Check all that can be checked about an export; nothing of it is built or run.

    Arguments
    ---------
    folder : str or PathLike
        What `export` wrote.
    expect_digest : str or None
        What its author published, or at least its first 16 characters.
    allow : Iterable of str
        Names that its recipe may use beyond the list.

    Returns
    -------
    Verified

    Raises
    ------
    UserError
        If ``expect_digest`` is no digest.
    """
    folder = Path(folder)
    found = Verified(expected=expected_digest(expect_digest), kind="export")
    try:
        kept = ExportFolder.open(folder)
    except UserError as error:
        found.checks += all_or([printable(error)], CONFIG, "")
        return found
    found.digest = sha256_file(folder / CONFIG)
    found.checks += [*_files(kept), found.compare_digest()]
    found.checks += _check("recipe", lambda: _recipe(folder, tuple(allow)))
    found.checks += _check("weights", lambda: _weights(folder))
    if kept.config["task"] == "speaker":
        found.checks += _check("thresholds", lambda: _thresholds(kept))
    return found


def _check(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """Look, and take what goes wrong for a fault of what was looked at."""
    try:
        return look()
    except UserError as error:
        return all_or([printable(str(error).splitlines()[0])], name, "")
    except Exception as error:  # a stranger's data can be of any shape
        text = f"can't be checked: {type(error).__name__} {error}"
        return all_or([printable(text)], name, "")


def _files(kept: ExportFolder) -> list[Check]:
    named = set(kept.config["files"])
    here = {path.name for path in kept.path.iterdir()} - {CONFIG}
    problems = []
    for name in sorted(named | (here & set(FILE_NAMES)) | {CARD}):
        if name not in FILE_NAMES or name == CONFIG:
            problems.append(f"{printable(name)} is none that an export holds")
        elif name not in named:
            problems.append(f"{CONFIG} has no hash of {name}")
        elif name not in here:
            problems.append(f"{name} is not there")
        elif sha256_file(kept.path / name) != kept.config["files"][name]:
            problems.append(f"{name}: other bytes than {CONFIG} says")
    told = f"{len(named)}, each with the SHA-256 that {CONFIG} says"
    checks = all_or(problems, "files", told)
    if others := sorted(here - named - set(FILE_NAMES)):
        text = f"not of the export, not looked at: {printable(', '.join(others))}"
        checks.append(Check(NOTE, "files", text))
    return checks


def _recipe(folder: Path, allow: tuple[str, ...]) -> list[Check]:
    from speechbrain_ext.config.lint import check_recipe

    plan = check_recipe(folder / RECIPE, allow=allow)
    told = [printable(f"line {f.where.line}: {f.message}") for f in plan.faults]
    return all_or(told, "recipe", "loads by the rules, and names only what is allowed")


def _weights(folder: Path) -> list[Check]:
    count = check_tensors(folder / WEIGHTS, WEIGHTS)
    return [Check(OK, "weights", f"{count} tensors, whole and finite; no pickle")]


def _thresholds(kept: ExportFolder) -> list[Check]:
    state = kept.config.get("decision")
    if state is None:
        return [Check(NOTE, "thresholds", "the model comes without")]
    told = []
    for backend in BACKENDS:
        decision = KeptDecision(
            kept.path, state, lambda: read_weights(kept.path / DECISION), "", backend
        )
        measured = decision.trial_scores()  # refuses figures of other scores
        if measured is None:
            text = f"{backend}: the scores are not in it, so figures are believed"
            return [Check(NOTE, "thresholds", text)]
        told.append(f"{len(measured[0]):,} ({backend})")
    text = f"rates and thresholds follow from its trial scores, {' and '.join(told)}"
    return [
        Check(OK, "thresholds", text),
        Check(
            NOTE,
            "thresholds",
            "how scores are made (backend, calibration) is held by the digest only",
        ),
    ]
