"""``unpack``: a bundle as a folder; whole, or nothing is left behind."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from speechbrain_ext.errors import UserError
from speechbrain_ext.files import sha256_file, write_text
from speechbrain_ext.sharing.bundle.archive import Archive
from speechbrain_ext.sharing.bundle.contents import check_file
from speechbrain_ext.sharing.bundle.errors import BundleError, printable
from speechbrain_ext.sharing.bundle.manifest import (
    code_digest,
    digest_of,
    read_manifest,
)
from speechbrain_ext.sharing.bundle.names import CODE, MANIFEST, RECIPE

#: Written by unpacking: the recipe with a place for everything.
FILLED = "hyperparams.yaml"


class Contents(NamedTuple):
    """A bundle written to a scratch folder, all hashes compared.

    Attributes
    ----------
    folder : Path
        Where its members lie.
    manifest : dict
        What it says of itself.
    digest : str
        SHA-256 of the manifest.
    """

    folder: Path
    manifest: dict[str, Any]
    digest: str


def unpack(
    bundle: str | os.PathLike,
    folder: str | os.PathLike | None = None,
    *,
    trust_code: str | None = None,
    allow: Iterable[str] = (),
) -> Path:
    """Write a bundle as a folder; again is a no-op.

    Nothing of it is run, and no pickle is loaded. A bundle with a result becomes an
    experiment that embedding, scoring, evaluation and reports accept.

    Arguments
    ---------
    bundle : str or PathLike
        What `pack` wrote.
    folder : str or PathLike or None
        New, or empty; None: named as the bundle, here.
    trust_code : str or None
        SHA-256 of the scripts that the bundle carries, as ``inspect`` shows it: only
        then are they written.
    allow : Iterable of str
        Names that its recipe may use beyond the list.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    BundleError
        If the bundle is anything but what its manifest says.
    UserError
        If the folder holds something else, the code is not the one trusted, or the
        recipe is refused.
    """
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(Archive(bundle))
        manifest, digest = manifest_in(archive)
        target = Path(folder) if folder is not None else Path(manifest["name"])
        _check_trust(manifest, trust_code)
        if _is_there(target, manifest, digest, trust_code is not None):
            return target
        scratch = stack.enter_context(_beside(target))
        extract(archive, manifest, scratch)
        if trust_code is None:
            shutil.rmtree(scratch / CODE, ignore_errors=True)
        if manifest["kind"] == "result":
            make_experiment(scratch, target, allow)
        _publish(scratch, target)
    return target


def make_experiment(folder: Path, target: Path, allow: Iterable[str] = ()) -> None:
    """Write ``hyperparams.yaml`` beside an unpacked recipe, and what a person allowed.

    Arguments
    ---------
    folder : Path
        Where the members are.
    target : Path
        Where the experiment will be.
    allow : Iterable of str
        See `unpack`.

    Raises
    ------
    ConfigError
        If the recipe has faults, or names what is not allowed.
    """
    from speechbrain_ext.sharing.bundle.recipe import filled_recipe

    allow = tuple(allow)
    text = filled_recipe(folder / RECIPE, str(target), allow=allow)
    write_text(folder / FILLED, text)
    if allow:
        memory = importlib.import_module("speechbrain_ext.config.allowlist.memory")
        memory.remember(folder, allow)


def unpack_below(
    bundle: str | os.PathLike, parent: str | os.PathLike, *, trust_code=None, allow=()
) -> Path:
    """Unpack to ``<parent>/<name>-<digest>``: one folder for each bundle.

    Arguments
    ---------
    bundle, trust_code, allow
        As for `unpack`.
    parent : str or PathLike
        Folder of all of them.
    """
    with Archive(bundle) as archive:
        manifest, digest = manifest_in(archive)
    ending = "-trusted" if trust_code is not None else ""
    folder = Path(parent) / f"{manifest['name']}-{digest[:16]}{ending}"
    return unpack(bundle, folder, trust_code=trust_code, allow=allow)


@contextlib.contextmanager
def opened(bundle: str | os.PathLike) -> Iterator[Contents]:
    """Write a bundle to a scratch folder that goes with the context.

    Raises
    ------
    BundleError
        As `unpack`.
    """
    with (
        Archive(bundle) as archive,
        tempfile.TemporaryDirectory(prefix="bundle.") as scratch,
    ):
        manifest, digest = manifest_in(archive)
        extract(archive, manifest, Path(scratch))
        yield Contents(Path(scratch), manifest, digest)


def is_bundle(path: str | os.PathLike) -> bool:
    """Whether a file is a bundle: an archive that names just what it holds."""
    try:
        with Archive(path) as archive:
            manifest_in(archive)
    except BundleError:
        return False
    return True


def manifest_in(archive: Archive) -> tuple[dict[str, Any], str]:
    """Read a bundle's manifest and hold it against the archive; also its digest.

    Raises
    ------
    BundleError
        If the members are not those that the manifest names.
    """
    data = archive.read(MANIFEST, limit=2**22)
    try:
        manifest = read_manifest(data)
        here, named = set(archive.members) - {MANIFEST}, set(manifest["files"])
        for what, names in (
            ("the manifest does not name", here - named),
            ("the manifest names, but is not there", named - here),
        ):
            if names:
                listed = ", ".join(map(printable, sorted(names)))
                raise BundleError(f"a member that {what}: {listed}")
        for name, file in manifest["files"].items():
            size = archive.members[name].size
            if size != file["bytes"]:
                raise BundleError(
                    f"member '{printable(name)}' has {size:,} bytes, the manifest says "
                    f"{file['bytes']:,}"
                )
            script = name.removeprefix(CODE)
            if script != name and manifest["scripts"].get(script) != file["sha256"]:
                raise BundleError(
                    f"member '{printable(name)}' is not the script that the manifest "
                    "names"
                )
    except BundleError as error:
        raise archive.refusal(error) from None
    return manifest, digest_of(data)


def extract(archive: Archive, manifest: dict[str, Any], folder: Path) -> None:
    """Write all members below a folder and compare their hashes and kinds.

    Raises
    ------
    BundleError
        Naming the member that is not what it should be.
    """
    hashes = {name: file["sha256"] for name, file in manifest["files"].items()}
    for name in archive.members:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with open(path, "xb") as stream:
            for block in archive.blocks(name):
                digest.update(block)
                stream.write(block)
        try:
            if digest.hexdigest() != hashes.get(name, digest.hexdigest()):
                raise BundleError(
                    f"member '{printable(name)}' is not what the manifest says: its "
                    "SHA-256 is another"
                )
            check_file(path, name)
        except BundleError as error:
            raise archive.refusal(error) from None


def _check_trust(manifest: dict[str, Any], trust_code: str | None) -> None:
    if trust_code is None:
        return
    carried = code_digest(manifest["files"])
    if carried is None:
        raise UserError("unpack: --trust_code: the bundle carries no code")
    if trust_code.lower() != carried:
        raise UserError(
            f"unpack: --trust_code {printable(trust_code)} is not the SHA-256 of the "
            f"code in the bundle, which is {carried}\n  Next: read what it does: "
            "speechbrain-ext inspect BUNDLE"
        )


def _is_there(target: Path, manifest: dict, digest: str, with_code: bool) -> bool:
    """Whether a folder holds just this bundle; anything else but nothing is refused."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UserError(f"unpack: {target} is no folder; name another one")
    if not target.exists() or not any(target.iterdir()):
        return False
    known = target / MANIFEST
    if not known.is_file() or digest_of(known.read_bytes()) != digest:
        raise UserError(
            f"unpack: {target} holds something else; name a new folder: "
            "speechbrain-ext unpack BUNDLE FOLDER"
        )
    for name, file in manifest["files"].items():
        path = target / name
        if name.startswith(CODE) and not with_code:
            continue
        if not path.is_file() or sha256_file(path) != file["sha256"]:
            raise UserError(
                f"unpack: {target} was this bundle, but {name} is another now; name a "
                "new folder: speechbrain-ext unpack BUNDLE FOLDER"
            )
    return True


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Make a scratch folder on the same disk, and remove it if it is still there."""
    parent = target.resolve().parent
    try:
        made = [p for p in (parent, *parent.parents) if not p.exists()]
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=parent, prefix=f".{target.name}."))
    except OSError as error:
        raise UserError(f"unpack: {target}: can't be made: {error.strerror}") from None
    try:
        yield scratch
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, target: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    scratch.chmod(0o777 & ~umask)  # mkdtemp made it private
    try:
        os.rename(scratch, target)  # an empty folder gives way
    except OSError as error:
        raise UserError(
            f"unpack: {target} was made meanwhile: {error.strerror}; try again"
        ) from None
