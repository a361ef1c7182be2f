"""An export folder goes to the Hugging Face Hub: thin, private, and only when told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.inference.source import hub_reason, import_hub, is_hub_name
from speechbrain_ext.report.facts import data_of, licence_is_known
from speechbrain_ext.sharing.export.readme import FILE_NAMES


def check_target(name: str, results: Mapping[str, Any] | None = None) -> None:
    """Find out early whether a folder could be uploaded under a name.

    Arguments
    ---------
    name : str
        ``user/repo``.
    results : Mapping or None
        If the licence of their data is to stand for that of the weights.

    Raises
    ------
    UserError
        If it is no name of the Hub, no licence is known, huggingface_hub is not
        installed, the Hub can't be reached, nobody is logged in, or not whoever may
        write there.
    """
    if not is_hub_name(name):
        raise UserError(f"export: --push_to_hub takes USER/REPO, got {name!r}")
    if results is not None:
        check_licence(results)
    hub = import_hub("export: --push_to_hub")
    try:
        who = hub.HfApi().whoami()
    except Exception as error:  # see `push`
        reason, then = hub_reason(error, name)
        raise UserError(
            f"export: --push_to_hub {name}: {reason}; nothing was exported\n  Next: "
            f"{then}; or export without --push_to_hub"
        ) from error
    owners = [who["name"], *(one["name"] for one in who.get("orgs") or [])]
    owner = name.split("/")[0]
    if owner.lower() not in map(str.lower, owners):
        raise UserError(
            f"export: --push_to_hub {name}: who is logged in may write to "
            f"{', '.join(owners)}, not to {owner}; nothing was exported\n  Next: "
            f"--push_to_hub {owners[0]}/{name.split('/')[1]}"
        )


def check_licence(results: Mapping[str, Any]) -> None:
    """Refuse to publish what the card can't name a licence for.

    Raises
    ------
    UserError
        If that of the data, which would stand for it, is not known.
    """
    if not licence_is_known(data_of(dict(results))):
        raise UserError(
            "export: --push_to_hub: the licence of the data is not known, so the card "
            "would have none for the weights; nothing was written or uploaded\n"
            "  Next: if you may share them, say how: --license cc-by-4.0"
        )


def push(
    folder: Path,
    name: str,
    *,
    public: bool = False,
    listed: bool = False,
    log: Callable[[str], None] = print,
) -> str:
    """Upload an export folder; a repository that is not there is made.

    Whoever is logged in by huggingface_hub uploads; nothing is asked here.

    Arguments
    ---------
    folder : Path
        That `export` wrote.
    name : str
        ``user/repo``.
    public : bool
        For everybody to see; else the repository must be private.
    listed : bool
        The files were told already.
    log : Callable
        Gets what there is to tell.

    Returns
    -------
    str
        The address.

    Raises
    ------
    UserError
        If the repository is public already and ``public`` was not asked for.
    WorkError
        If the Hub refuses; the folder stays as it is.
    """
    hub = import_hub("export: --push_to_hub")
    files = [path for path in sorted(folder.iterdir()) if path.name in FILE_NAMES]
    size = sum(path.stat().st_size for path in files)
    kind = "public" if public else "private"
    told = f"push: {len(files)} files, {size / 1e6:.1f} MB, to {name} ({kind})"
    names = ", ".join(path.name for path in files)
    log(f"{told}, as listed above" if listed else f"{told}:\n  {names}")
    api = hub.HfApi()
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        seen_by_all = not api.repo_info(name).private
        if not (seen_by_all and not public):
            done = api.upload_folder(
                repo_id=name,
                folder_path=str(folder),
                allow_patterns=[path.name for path in files],
                # What an earlier export left there would be taken for this one's.
                delete_patterns=list(FILE_NAMES),
                commit_message="Export by speechbrain-ext",
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"uploads it again; {folder} is whole") from None
    # Errors of the package, of its client, of the network; all are the Hub's answer.
    except Exception as error:
        reason, then = hub_reason(error, name)
        raise WorkError(
            f"export: {name} was not uploaded: {reason}\n  {folder} is whole. Next: "
            f"{then}"
        ) from error
    if seen_by_all and not public:
        raise UserError(
            f"export: {name} is there and public, so nothing was uploaded\n  Next: add "
            "--public if everybody may see it, or give another name"
        )
    address = f"https://huggingface.co/{name}"
    log(f"push: {address} ({getattr(done, 'oid', None) or 'no commit told'})")
    return address
