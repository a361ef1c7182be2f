"""``manifest.json``: what a bundle says of itself; its SHA-256 is the digest.

::

    {"format": "speechbrain-ext bundle", "version": 1,
     "kind": "recipe" or "result",
     "name": what the bundle is called,
     "task": "codec", "speaker" or null,
     "config_hash": of the recipe,
     "inputs": [keys of the recipe that are open: where things are],
     "versions": {package: version},
     "library_sha256": of the installed speechbrain_ext's code,
     "scripts": {"recipes/<task>/train.py": sha256, ...},
     "model": {"module", "checkpoint", what its training knew} or null,
     "data": {option of run.sh: value}, which speech it learned from; where known,
     "files": {name: {"sha256", "bytes"}}}

The digest does not depend on how the archive was compressed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from speechbrain_ext.sharing.bundle import data
from speechbrain_ext.sharing.bundle.errors import BundleError, printable
from speechbrain_ext.sharing.bundle.names import (
    CODE,
    MANIFEST,
    MODEL,
    RECIPE,
    RESULTS,
)

FORMAT = "speechbrain-ext bundle"
VERSION = 1
KINDS = ("recipe", "result")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=-]{0,99}")
_HASH = re.compile(r"[0-9a-f]{64}")
_SCRIPT = re.compile(r"recipes/[\w-]+/\w+\.py", re.ASCII)
_KEYS = {
    "format": str,
    "version": int,
    "kind": str,
    "name": str,
    "task": (str, type(None)),
    "config_hash": str,
    "inputs": list,
    "versions": dict,
    "library_sha256": str,
    "scripts": dict,
    "model": (dict, type(None)),
    "files": dict,
}
_OPTIONAL = {"data": dict}


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """Write a manifest, the same one as the same bytes."""
    text = json.dumps(
        manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    return (text + "\n").encode()


def digest_of(manifest: bytes) -> str:
    """Return the digest of a bundle with this manifest, 64 hexadecimal digits."""
    return hashlib.sha256(manifest).hexdigest()


def describe_files(members: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Hash and size of each member."""
    return {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in sorted(members.items())
    }


def strict_json(data: bytes, name: str) -> Any:
    """Read JSON in which each key stands once and all numbers are finite.

    Raises
    ------
    BundleError
        If it is anything else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    def constant(text: str) -> None:
        raise ValueError(f"{text} is no number of JSON")

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{text[:40]} is too large for a number")
        return number

    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=constant,
            parse_float=finite,
        )
    except RecursionError:
        raise BundleError(f"{printable(name)} is nested too deeply") from None
    except ValueError as error:
        raise BundleError(
            f"{printable(name)} is no plain JSON: {printable(error)}"
        ) from None


def read_manifest(data: bytes) -> dict[str, Any]:
    """Read and check a manifest.

    Raises
    ------
    BundleError
        If it is not of the shape that the module's documentation says.
    """
    manifest = strict_json(data, MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{MANIFEST}: format is not '{FORMAT}'")
    if manifest.get("version") != VERSION:
        raise BundleError(
            f"{MANIFEST}: version is {printable(manifest.get('version'))}, this "
            f"program reads {VERSION}; take a newer speechbrain-ext"
        )
    odd = [key for key in _KEYS if key not in manifest]
    odd += [key for key in manifest if key not in _KEYS | _OPTIONAL]
    odd += [
        key
        for key, kind in (_KEYS | _OPTIONAL).items()
        if key in manifest and not isinstance(manifest[key], kind)
    ]
    if odd:
        names = ", ".join(dict.fromkeys(map(printable, odd)))
        raise BundleError(f"{MANIFEST}: missing, unknown or of a wrong type: {names}")
    for fault in _faults(manifest):
        raise BundleError(f"{MANIFEST}: {fault}")
    return manifest


def _faults(manifest: dict[str, Any]):
    if manifest["kind"] not in KINDS:
        yield f"kind is '{printable(manifest['kind'])}'; one of {', '.join(KINDS)}"
    if not NAME.fullmatch(manifest["name"]) or manifest["name"].endswith("."):
        yield f"name '{printable(manifest['name'])}' can't name a folder"
    if not all(isinstance(key, str) for key in manifest["inputs"]):
        yield "inputs: must be names of keys"
    if not all(isinstance(text, str) for text in manifest["versions"].values()):
        yield "versions: must be texts"
    for name, value in manifest.get("data", {}).items():
        if not data.NAME.fullmatch(name):
            yield f"data: {printable(name)} is no option"
        elif not isinstance(value, str) or not data.VALUE.fullmatch(value):
            yield f"data: {name} must be a word or a number"
    for name, script in manifest["scripts"].items():
        if not _SCRIPT.fullmatch(name):
            yield f"scripts: {printable(name)} is no recipes/TASK/NAME.py"
        if not isinstance(script, str) or not _HASH.fullmatch(script):
            yield f"scripts: {printable(name)} must have a SHA-256"
    for name, file in manifest["files"].items():
        well = (
            isinstance(file, dict)
            and set(file) == {"sha256", "bytes"}
            and isinstance(file["sha256"], str)
            and _HASH.fullmatch(file["sha256"])
            and type(file["bytes"]) is int
            and file["bytes"] >= 0
        )
        if not well:
            yield f"files: {printable(name)} must have sha256 and bytes"
    needed = [RECIPE, RESULTS, MODEL] if manifest["kind"] == "result" else [RECIPE]
    for name in needed:
        if name not in manifest["files"]:
            yield f"files: a {manifest['kind']} needs {name}"
    if MANIFEST in manifest["files"]:
        yield f"files: {MANIFEST} can't hold its own hash"
    if manifest["kind"] == "result" and manifest["model"] is None:
        yield "model: a result says what its weights are"


def code_digest(files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """SHA-256 that stands for all scripts a bundle carries; None if it carries none.

    Arguments
    ---------
    files : Mapping
        Of a manifest.
    """
    lines = [
        f"{file['sha256']}  {name}\n"
        for name, file in sorted(files.items())
        if name.startswith(CODE)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None
