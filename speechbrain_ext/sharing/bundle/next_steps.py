"""What to type after unpacking: where the folder is used, and on which speech."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from speechbrain_ext.checkout import project_root
from speechbrain_ext.sharing.bundle.data import data_settings
from speechbrain_ext.sharing.bundle.names import MANIFEST
from speechbrain_ext.task_folders import PLACES


def next_steps(folder: Path) -> list[str]:
    """Say how an unpacked bundle is used.

    Arguments
    ---------
    folder : Path
        What `unpack` returned.

    Returns
    -------
    list of str
        Lines to be printed, whose commands can be pasted; empty if its task is at home
        nowhere.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    place = PLACES.get(manifest["task"])
    if place is None:
        return []
    here = folder.resolve()
    egs = here.parent.parent
    if here.parent.name == "exp" and (egs / "run.sh").is_file():
        run = f"./run.sh --tag {shlex.quote(here.name)}"
    else:
        egs = project_root() / place.folder
        run = f"./run.sh --expdir {shlex.quote(str(here))}"
    into = os.path.relpath(egs)
    change = [] if into == "." else [f"cd {shlex.quote(into)}"]
    if not egs.is_dir():  # installed without the checkout
        change = [f"cd {place.folder}    # of a checkout of this project"]
    speech = data_settings(folder)
    told = " ".join(f"--{name}={value}" for name, value in speech.items())
    if manifest["kind"] == "result":
        todo = [
            f"{run} --stop_stage prepare    # test speech, unless it is there",
            f"{run} --stage {place.after_training}",
        ]
    else:
        todo = [f"{run}    # trains it"]
    source = f"  its speech: {told} (run.sh recalls it)" if told else ""
    lines = [*change, *todo]
    return [
        *([source] if source else []),
        f"  Next: {lines[0]}",
        *(f"        {line}" for line in lines[1:]),
    ]
