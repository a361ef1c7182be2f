"""``speechbrain-ext new``: a new egs folder that runs, made from one that is tested.

Its ``run.sh`` and ``local/`` are copies of those in ``egs/``: there is no second
template that could drift.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from pathlib import Path

import click

from speechbrain_ext.checkout import project_root
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_text

#: task -> the egs folder that is copied
TEMPLATES = {"codec": "telugu", "speaker": "voxceleb_mini"}

# What the README of a new folder says of its task.
_WORDS = {
    "codec": {
        "what": "on the embedded corpus",
        "data": "your own recordings, any folder tree",
        "recipe": "recipes/codec/transform.yaml",
        "made": "`reconstructions/`",
    },
    "speaker": {
        "what": "on voices that this machine can get",
        "data": "your own recordings, speaker/utterance.wav",
        "recipe": "recipes/speaker/ecapa_mini.yaml",
        "made": "`embeddings/`, `scores/`",
    },
}

#: The line of a template's run.sh that says where the checkout is.
ROOT_LINE = "root=../..\n"

README = """\
# {name}

Made from `egs/{template}` by `speechbrain-ext new {task} {name}`; yours to edit.

```
./run.sh --help                                  # stages and options
./run.sh --dry_run                               # what would run, and why
./run.sh                                         # everything, {what}
./run.sh --data_folder DIR --tag mine            # {data}
./run.sh --stage train --learning_rate=5e-4      # any setting of the recipe
```

- `run.sh`: the stages. The line `option corpus ...` holds the default corpus.
- `local/`: everything that knows this corpus: where it comes from, how it is split.
- The model and its training are the recipe, `{recipe}` of the
  checkout; `./run.sh --recipe my.yaml` takes another one.
- `data/` holds manifests, `exp/<tag>/` an experiment: `RESULTS.md`, `report.html`,
  {made}, `log/`, and `run.sh`, which goes on where it stopped.
"""


def make_recipe_folder(task: str, name: str, into: Path | None = None) -> Path:
    """Copy the template of a task to a new folder and return it.

    Arguments
    ---------
    task : str
        A key of `TEMPLATES`.
    name : str
        Name of the folder: letters, digits, ``_``, ``-`` and ``.``.
    into : Path, optional
        Where the folder is made; by default the checkout's ``egs``. Outside the
        checkout its ``run.sh`` names the checkout by its absolute path.

    Returns
    -------
    Path
        The new folder, complete; on an error nothing is left behind.

    Raises
    ------
    UserError
        If the name cannot be a folder's, the folder exists, ``into`` does not, or
        this package is installed without its checkout.
    """
    root = project_root()
    template = root / "egs" / TEMPLATES[task]
    if not (template / "run.sh").is_file():
        raise UserError(
            f"new: {template} is not there: the package is installed without its "
            "checkout\n  type, in a clone of the project: pip install --editable ."
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise UserError(
            f"new: '{name}' cannot be the name of a folder: it starts with a letter or "
            "digit; letters, digits, '_', '-' and '.' may follow, 64 at most"
        )
    into = root / "egs" if into is None else into.resolve()
    if not into.is_dir():
        raise UserError(
            f"new: no such folder: {into}\n  type: mkdir -p {shlex.quote(str(into))}"
        )
    target = into / name
    if target.exists() or target.is_symlink():
        raise UserError(f"new: {target} exists already; choose another name")
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=into) as temporary:
        folder = Path(temporary, name)
        shutil.copytree(
            template / "local",
            folder / "local",
            ignore=shutil.ignore_patterns("__pycache__", ".*"),
        )
        shutil.copy(template / "run.sh", folder)
        script = (folder / "run.sh").read_text(encoding="utf-8")
        if script.count(ROOT_LINE) != 1:
            raise RuntimeError(f"{template}/run.sh has no single line {ROOT_LINE!r}")
        line = f"root={shlex.quote(_path_to(root, target))}\n"
        (folder / "run.sh").write_text(script.replace(ROOT_LINE, line), "utf-8")
        words = {"name": name, "task": task, "template": template.name}
        text = README.format(**words, **_WORDS[task])
        write_text(folder / "README.md", text)
        os.rename(folder, target)
    return target


def _path_to(root: Path, folder: Path) -> str:
    """Path of the checkout from a folder: relative inside it, so that it may move."""
    if root in folder.parents:
        return os.path.relpath(root, folder)
    return str(root)


@click.command("new")
@click.argument("task", type=click.Choice(sorted(TEMPLATES)))
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    help="Folder to make it in (default: the checkout's egs).",
)
def new(task: str, name: str, into: Path | None) -> None:
    """Make a new egs folder NAME that runs, for TASK."""
    folder = make_recipe_folder(task, name, into)
    click.echo(
        f"made {folder}\n  type: {shlex.quote(str(folder / 'run.sh'))} --dry_run"
    )
