"""``verify``: do the parts of a bundle agree? Integrity; who made it is not known."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import read_json
from speechbrain_ext.sharing.bundle.audio import check_data
from speechbrain_ext.sharing.bundle.contents import check_tensors
from speechbrain_ext.sharing.bundle.errors import BundleError, printable
from speechbrain_ext.sharing.bundle.manifest import code_digest, strict_json
from speechbrain_ext.sharing.bundle.names import CARD, CODE, MODEL, RECIPE, RESULTS
from speechbrain_ext.sharing.bundle.scripts import (
    compare_scripts,
    head_commit,
    library_hash,
)
from speechbrain_ext.sharing.bundle.unpacking import Contents, make_experiment, opened
from speechbrain_ext.sharing.verified import (
    CARD_CHECK,
    FAILED,
    MAX_TOLD,
    NOTE,
    OK,
    Check,
    Verified,
    all_or,
    expected_digest,
)


def verify(
    bundle: str | os.PathLike,
    *,
    expect_digest: str | None = None,
    data: str | os.PathLike | None = None,
    allow: Iterable[str] = (),
    on_check: Callable[[str], None] = lambda name: None,
) -> Verified:
    """Check all that can be checked about a bundle, and go on after a fault.

    Nothing of it is run, but for ``data``: then its recipe is loaded, by the rules for
    any recipe, and its weights embed or encode the audio again.

    Arguments
    ---------
    bundle : str or PathLike
        What `pack` wrote.
    expect_digest : str or None
        What its author published, or at least its first 16 characters.
    data : str or PathLike or None
        Split folder (speakers) or folder of manifests (codec) to measure again from.
    allow : Iterable of str
        Names that its recipe may use beyond the list.
    on_check : Callable
        Gets the name of each check as it begins.

    Returns
    -------
    Verified

    Raises
    ------
    UserError
        If ``expect_digest`` is no digest, or there are no manifests in ``data``.
    """
    found = Verified(expected=expected_digest(expect_digest))
    if data is not None:
        check_data(data)
    on_check("archive")
    try:
        with opened(bundle) as contents:
            found.digest = contents.digest
            size = sum(file["bytes"] for file in contents.manifest["files"].values())
            found.checks.append(
                Check(
                    OK,
                    "archive",
                    f"{len(contents.manifest['files'])} files, {size / 2**20:.1f} MiB; "
                    "names, sizes and SHA-256 as the manifest says, and nothing else",
                )
            )
            found.checks.append(found.compare_digest())
            for name, check in _checks(contents, tuple(allow), data):
                on_check(name)
                try:
                    found.checks += check()
                except Exception as error:  # a stranger's data can be of any shape
                    text = f"can't be checked: {type(error).__name__} {error}"
                    found.checks.append(Check(FAILED, name, printable(text)))
    except BundleError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        found.checks.append(Check(FAILED, "archive", lines[0]))
    return found


def _checks(
    contents: Contents, allow: tuple[str, ...], data: Any
) -> Iterator[tuple[str, Callable[[], list[Check]]]]:
    yield "recipe", lambda: _recipe(contents, allow)
    yield "scripts", lambda: _scripts(contents)
    if contents.manifest["kind"] != "result":
        if data is not None:
            yield "audio", lambda: [Check(FAILED, "audio", "a recipe has no result")]
        return
    results = strict_json((contents.folder / RESULTS).read_bytes(), RESULTS)
    yield "weights", lambda: [_weights(contents)]
    yield "figures", lambda: _figures(contents, results)
    yield "card", lambda: [_card(contents, results)]
    yield "settings", lambda: _settings(contents, results)
    if data is not None:
        yield "audio", lambda: _audio(contents, results, data, allow)


def _recipe(contents: Contents, allow: tuple[str, ...]) -> list[Check]:
    from speechbrain_ext.config.flatten import config_hash
    from speechbrain_ext.config.lint import check_recipe
    from speechbrain_ext.config.tree import walk

    more = {"allow": allow} if allow else {}
    path = contents.folder / RECIPE
    plan = check_recipe(path, open_inputs=True, **more)
    if plan.faults:
        told = [printable(f"line {f.where.line}: {f.message}") for f in plan.faults]
        return all_or(told, "recipe", "")
    checks = [Check(OK, "recipe", "loads by the rules, and names only what is allowed")]
    open_inputs = {
        ".".join(map(str, path))
        for path, node in walk(plan.root)
        if node.tag == "!PLACEHOLDER"
    }
    # Figures of a recipe with open settings are not held to its hash: see `_figures`.
    if odd := open_inputs ^ set(contents.manifest["inputs"]):
        text = f"open in the recipe or in the manifest, not in both: {', '.join(odd)}"
        checks.append(Check(FAILED, "inputs", printable(text)))
    found, said = config_hash(plan.root), contents.manifest["config_hash"]
    if found != said:
        text = f"the recipe's is {found}, the manifest says {said}"
        return [*checks, Check(FAILED, "config_hash", printable(text))]
    return [*checks, Check(OK, "config_hash", found)]


def _scripts(contents: Contents) -> list[Check]:
    manifest, checks = contents.manifest, []
    for name, verdict, _ in compare_scripts(manifest["scripts"], {}):
        if verdict != "the installed one":
            checks.append(Check(NOTE, "scripts", f"{printable(name)} {verdict}"))
    if not checks:
        text = f"{len(manifest['scripts'])} named; all are the installed ones"
        checks.append(Check(OK, "scripts", text))
    if manifest["library_sha256"] != library_hash():
        git = read_json(contents.folder / "env.json").get("git")
        trained = git.get("commit") if isinstance(git, dict) else None
        text = (
            "made with other code of speechbrain_ext: SHA-256 "
            f"{printable(manifest['library_sha256'])[:16]}"
            + (f", trained at commit {printable(trained)[:12]}" if trained else "")
            + f"; here {library_hash()[:16]}, commit {head_commit()[:12]}"
        )
        checks.append(Check(NOTE, "library", text))
    if code_digest(manifest["files"]):
        count = sum(name.startswith(CODE) for name in manifest["files"])
        text = f"carries {count} scripts; they run only if you say --trust_code"
        checks.append(Check(NOTE, "code", text))
    return checks


def _weights(contents: Contents) -> Check:
    count = check_tensors(contents.folder / MODEL, MODEL)
    return Check(OK, "weights", f"{count} tensors, whole and finite; no pickle")


def _figures(contents: Contents, results: Any) -> list[Check]:
    from speechbrain_ext.sharing.bundle.figures import figure_problems

    problems = figure_problems(results, contents.folder)
    if not problems:
        said = results["conditions"]["config_hash"]
        ours = contents.manifest["config_hash"]
        if said != ours and not _open_settings(contents):
            problems.append(
                f"conditions.config_hash: is {printable(said)}, but the recipe's is "
                f"{ours}"
            )
        if results["task"] != contents.manifest["task"]:
            problems.append(f"task: is {results['task']}, the recipe's another")
    told = {
        "speaker": "every rate, cost, threshold, interval and table of errors follows "
        "from the scores",
        "codec": "every mean follows from the files' figures; those from --data only",
    }
    return all_or(
        [printable(problem) for problem in problems],
        "figures",
        told.get(results.get("task"), "") if isinstance(results, dict) else "",
    )


def _open_settings(contents: Contents) -> list[str]:
    """List inputs that are more than where things are: part of the hash."""
    from speechbrain_ext.config.flatten import VOLATILE

    return [key for key in contents.manifest["inputs"] if not VOLATILE.match(key)]


def _settings(contents: Contents, results: Any) -> list[Check]:
    """Say it where the figures can't be held to the recipe."""
    said = results["conditions"]["config_hash"]
    if said == contents.manifest["config_hash"]:
        return []
    named = printable(", ".join(_open_settings(contents)))
    text = (
        f"the recipe waits for {named}, so it can't be told whether the figures are of "
        f"this recipe; theirs has the hash {printable(said)}"
    )
    return [Check(NOTE, "settings", text)]


def _card(contents: Contents, results: Any) -> Check:
    from speechbrain_ext.sharing.bundle import card

    path = contents.folder / CARD
    if not path.exists():
        return Check(FAILED, "card", f"there is no {CARD}")
    names = [
        name
        for name in contents.manifest["files"]
        if name != CARD and not name.startswith(CODE)
    ]
    manifest = contents.manifest
    weights, data = manifest["files"][MODEL]["sha256"], manifest.get("data", {})
    wanted = card.render(results, manifest["name"], names, weights, data=data)
    if path.read_bytes() == wanted.encode():
        return Check(OK, "card", f"{CARD} is what the results give, to the byte")
    if contents.manifest["library_sha256"] != library_hash():
        text = f"{CARD} was written by other code, or edited: trust the figures only"
        if odd := _foreign_numbers(path.read_text(encoding="utf-8"), wanted):
            text += f"; the results don't give its {', '.join(odd[:MAX_TOLD])}"
        return Check(NOTE, CARD_CHECK, text)
    return Check(FAILED, "card", f"{CARD} is not what the results give")


def _foreign_numbers(card: str, wanted: str) -> list[str]:
    """List figures of a card that the card of the results does not have."""
    decimal = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])")
    ours = set(decimal.findall(wanted))
    return [n for n in dict.fromkeys(decimal.findall(card)) if n not in ours]


def _audio(contents: Contents, results: Any, data: Any, allow) -> list[Check]:
    from speechbrain_ext.sharing.bundle.audio import audio_problems

    folder = contents.folder
    try:
        make_experiment(folder, folder, allow)
        problems, told = audio_problems(results, folder, data)
    except UserError as error:
        problems, told = [str(error).splitlines()[0]], ""
    return all_or([printable(problem) for problem in problems], "audio", told)
