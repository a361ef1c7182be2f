"""Where a model comes from: a folder here, or a repository of the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from speechbrain_ext.errors import UserError
from speechbrain_ext.inference.folder import READ_FILES
from speechbrain_ext.sharing.kinds import describe_kind, kind_of

#: ``user/repo`` as the Hub allows it.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.A)

_MAX_NAME = 96


def is_hub_name(source: str) -> bool:
    """Whether a text can be the name of a repository on the Hub.

    Example
    -------
    >>> is_hub_name("user/repo"), is_hub_name("/exp/mine"), is_hub_name("a/b/c")
    (True, False, False)
    """
    if any(part in source for part in ("..", "--")) or len(source) > _MAX_NAME:
        return False
    ends_well = not source.endswith((".", "-", ".git"))
    return ends_well and _HUB_NAME.fullmatch(source) is not None


def find_folder(source: str | os.PathLike, *, revision: str | None = None) -> Path:
    """Return the folder that a user means; one of the Hub is downloaded.

    Arguments
    ---------
    source : str or PathLike
        A folder, or ``user/repo``: that is asked for only if there is no such folder,
        and no folder ``user`` here either. Of a repository only the files that are read
        are downloaded: JSON, YAML and safetensors.
    revision : str or None
        Branch, tag or commit of the repository.

    Raises
    ------
    UserError
        If there is nothing, huggingface_hub is not installed, or the Hub refuses.
    """
    path = Path(source)
    if path.is_dir():
        if revision is not None:
            raise UserError(f"{source} is a folder here, so it has no revision")
        return path
    if path.exists():
        raise UserError(describe_kind(path))
    name = str(source)
    if not is_hub_name(name):
        raise UserError(
            f"{name}: no such folder, and no name of the Hugging Face Hub (user/repo)"
        )
    if path.parent.is_dir():
        raise UserError(
            f"{name}: no such folder; {path.parent} is a folder here, so the name is "
            "not looked for on the Hugging Face Hub"
        )
    return _download(name, revision)


@contextlib.contextmanager
def opened_folder(
    source: str | os.PathLike,
    *,
    revision: str | None = None,
    allow: Iterable[str] = (),
) -> Iterator[Path]:
    """Give the folder that a user means, while the model in it is loaded.

    Arguments
    ---------
    source, revision
        As `find_folder`, or a bundle: that is unpacked for so long.
    allow : Iterable of str
        Names that the recipe of a bundle may use beyond the list.

    Raises
    ------
    UserError
        As `find_folder` and `unpack`, or if the bundle has no result.
    """
    if kind_of(source) != "bundle":
        yield find_folder(source, revision=revision)
        return
    from speechbrain_ext.sharing.bundle import unpack

    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack(source, Path(scratch, Path(source).stem), allow=allow)
        if not (folder / "hyperparams.yaml").is_file():
            raise UserError(
                f"{source}: holds a recipe and no trained model; train it first: "
                f"./run.sh --recipe {source}"
            )
        yield folder


def import_hub(who: str):
    """Import huggingface_hub.

    Raises
    ------
    UserError
        If it is not installed; ``who`` begins the message.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"{who}: the Hugging Face Hub needs huggingface_hub; install it with: pip "
            "install 'speechbrain-ext[hub]'"
        ) from error
    return huggingface_hub


#: Names of classes, of whatever package, that say that nobody answered.
_UNREACHED = {
    "ConnectionError",
    "LocalEntryNotFoundError",
    "TimeoutError",
    "TimeoutException",
    "TransportError",
}
_LOG_IN = "log in: hf auth login"


def hub_reason(error: Exception, name: str) -> tuple[str, str]:
    """Say why the Hub did not do what it was asked, and what to do next.

    Arguments
    ---------
    error : Exception
        Of huggingface_hub, of its client, or of the system.
    name : str
        ``user/repo``.

    Returns
    -------
    tuple of str
        The reason, and the next step.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "LocalTokenNotFoundError" in kinds:
        return "nobody is logged in", _LOG_IN
    if status == 401:
        return "the Hub does not know this token (401), or there is none", _LOG_IN
    if status == 403:
        return (
            f"the token has no right to do that at {name} (403)",
            "take a token that may write there (hf auth login), or a name of yours",
        )
    if status == 404:
        return f"there is no {name}, or it is not for you to see (404)", _LOG_IN
    if status == 400 or "HFValidationError" in kinds:
        return f"the Hub takes no such name: {_first_line(error)}", "give another name"
    if kinds & _UNREACHED:
        return (
            "the Hub can't be reached: no network, or HF_HUB_OFFLINE is set",
            "look at the network, then the same command again",
        )
    return _first_line(error), "the same command again, later"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _download(name: str, revision: str | None) -> Path:
    hub = import_hub(f"{name}: no such folder here")
    try:
        found = hub.snapshot_download(
            name, revision=revision, allow_patterns=list(READ_FILES)
        )
    # Its errors are of several packages: of its own, of the client, of the system.
    except Exception as error:
        reason, then = hub_reason(error, name)
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"{name}: no such folder here, and from the Hugging Face Hub it can't be "
            f"had{at}: {reason}\n  Next: {then}"
        ) from error
    return Path(found)
