"""Names of a bundle's members: those there can be, and why others are refused."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from speechbrain_ext.sharing.bundle.errors import BundleError, printable

MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"
RESULTS = "results.json"
CARD = "README.md"
MODEL = "model.safetensors"
#: Folder of the scripts that ``--with_code`` takes along.
CODE = "code/"

_KNOWN = re.compile(
    r"manifest\.json|recipe\.yaml|results\.json|README\.md|env\.json|"
    r"model\.safetensors|speakers\.json|train_log\.txt|"
    r"scores/utterances\.json|scores/[^/]+\.npz|"
    r"code/recipes/[\w-]+/\w+\.py"
)
#: Windows opens a device, not a file, of these names.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I)
MAX_LENGTH = 200


def check_name(name: str) -> None:
    """Refuse a name that could lead out of a folder, or be read in two ways.

    Raises
    ------
    BundleError
        With the rule that the name breaks.
    """
    parts = name.split("/")
    fault = None
    if not name:
        fault = "has no name"
    elif len(name) > MAX_LENGTH:
        fault = f"has a name of more than {MAX_LENGTH} characters"
    elif any(unicodedata.category(c)[0] == "C" for c in name):
        fault = "has a control character in its name"
    elif name.startswith("/"):
        fault = "has an absolute path"
    elif re.match(r"[A-Za-z]:", name):
        fault = "has a drive letter"
    elif "\\" in name:
        fault = "has a backslash in its name: a path on Windows"
    elif ".." in parts:
        fault = "leads out of the folder by '..'"
    elif name.endswith("/"):
        fault = "is a folder; a bundle holds files only"
    elif "" in parts or "." in parts:
        fault = "has an empty or '.' part in its path"
    elif re.search(r'[:*?"<>|]', name):
        fault = 'has one of : * ? " < > | in its name, which not all systems keep'
    elif any(part != part.rstrip(" .") for part in parts):
        fault = "has a part that ends in a dot or space, which Windows drops"
    elif any(_DEVICES.fullmatch(part) for part in parts):
        fault = "has the name of a Windows device"
    if fault:
        raise BundleError(f"member '{printable(name)}' {fault}")


def check_known(name: str) -> None:
    """Refuse a member that no bundle holds.

    Raises
    ------
    BundleError
        Naming it.
    """
    if not _KNOWN.fullmatch(name):
        raise BundleError(
            f"member '{printable(name)}' is none of what a bundle can hold: recipe, "
            "results, scores, card, environment, weights, scripts under code/"
        )


def check_distinct(names: Iterable[str]) -> None:
    """Refuse a name that appears twice, as it is or on a system that ignores case.

    Raises
    ------
    BundleError
        Naming both.
    """
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            if seen[key] == name:
                raise BundleError(f"member '{printable(name)}' is there twice")
            raise BundleError(
                f"members '{printable(seen[key])}' and '{printable(name)}' have names "
                "that differ by case or spelling only: one file on some systems"
            )
        seen[key] = name
