"""All that can be checked in a tree: recipes, fragments, presets and egs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .faults import Fault, Faults, Where, shown
from .include import PROJECT, project_root
from .lint import check_recipe, summary

_DEFAULT_RECIPE = re.compile(r'^option recipe "[^"]*" (\S+)', re.M)
#: what a run.sh makes, and what is not configuration
_MADE = ("data", "exp", "results")


class Checked(NamedTuple):
    """One file, and what is wrong with it.

    Attributes
    ----------
    name : str
        As a user would type it.
    line : str
        What was looked at, if nothing is wrong.
    faults : tuple of Fault
        Empty if nothing is wrong.
    """

    name: str
    line: str
    faults: tuple[Fault, ...]


def tree_of(folder: Path) -> Path:
    """Return the tree with ``recipes/`` and ``hparams/`` around a folder, or ours."""
    return project_root(folder.resolve()) or PROJECT


def check_everything(
    root: Path, *, signatures: bool = True, allow: Iterable[str] = ()
) -> Iterator[Checked]:
    """Check every recipe, fragment, preset and egs of a tree, one after the other.

    Arguments
    ---------
    root : Path
        The tree.
    signatures, allow
        As for `check_recipe`. Inputs may stay open everywhere.
    """
    allow = tuple(allow)
    recipes = sorted((root / "recipes").glob("**/*.yaml"))

    def checked(path: Path, **options) -> Checked:
        plan = check_recipe(
            path, allow=allow, signatures=signatures, open_inputs=True, **options
        )
        line = "" if plan.faults else summary(plan, signatures=signatures)
        return Checked(plan.name, line.removeprefix("OK "), tuple(plan.faults))

    for path in recipes:
        yield checked(path)
    for path in sorted((root / "hparams" / "fragments").rglob("*.yaml")):
        yield checked(path, fragment=True)
    for path in sorted((root / "hparams" / "presets").glob("*.yaml")):
        yield _preset(path, recipes, allow)
    for folder in sorted((root / "egs").glob("*/")):
        yield from _egs(folder, root, checked)


def _preset(path: Path, recipes: list[Path], allow: tuple[str, ...]) -> Checked:
    """Hold a preset against the recipes: it has to fit one of them as a whole."""
    nearest: Checked | None = None
    for recipe in recipes:
        plan = check_recipe(
            recipe, presets=[str(path)], allow=allow, signatures=False, open_inputs=True
        )
        if not plan.faults:
            return Checked(shown(path), f"{shown(path)}: fits {plan.name}", ())
        if nearest is None or len(plan.faults) < len(nearest.faults):
            nearest = Checked(shown(path), "", tuple(plan.faults))
    if nearest is not None:
        return nearest
    return Checked(shown(path), f"{shown(path)}: there is no recipe to try it on", ())


def _egs(
    folder: Path, root: Path, checked: Callable[[Path], Checked]
) -> Iterator[Checked]:
    """Check a run.sh, the recipe it starts from, and the YAML files beside it."""
    script = folder / "run.sh"
    faults = Faults()
    default = None
    if not script.is_file():
        faults.add(Where(shown(folder)), "has no run.sh")
    else:
        text = script.read_text(encoding="utf-8")
        if bash := shutil.which("bash"):
            done = subprocess.run(
                [bash, "-n", str(script)], capture_output=True, text=True
            )
            if done.returncode:
                faults.add(Where(shown(script)), done.stderr.strip() or "not bash")
        if default := _DEFAULT_RECIPE.search(text):
            recipe = root / "recipes" / f"{default[1]}.yaml"
            if not recipe.is_file():
                line = text.count("\n", 0, text.find("option recipe")) + 1
                faults.add(Where(shown(script), line), f"no recipe {shown(recipe)}")
    told = f"{shown(script)}: " + (f"runs {default[1]}" if default else "bash")
    yield Checked(shown(script), told, tuple(faults))
    for path in sorted(folder.rglob("*.yaml")):
        if not set(path.relative_to(folder).parts) & set(_MADE):
            yield checked(path)
