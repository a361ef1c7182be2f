"""Presets: flat override files applied between the YAML and the command line.

A preset is a mapping of dotted keys to plain values (``training.batch_size: 8``; nested
mappings mean the same). It may hold SpeechBrain's run options too. A key that the
recipe does not have is an error that names it, as on the command line: a preset that
half applies would not be what its name says. ``learning_rate: "* 0.5"`` multiplies the
number that the recipe has, so that one preset serves recipes of different sizes.
"""

from __future__ import annotations

import re
from pathlib import Path

from .command_line import Override
from .faults import COMMAND_LINE, Faults, Where, did_you_mean, shown
from .include import PROJECT
from .source import read_source
from .tree import Node, dotted, walk

MAX_OVERRIDES = 200
_FACTOR = re.compile(r"\*\s*(\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)")


def read_presets(names, root: Path, faults: Faults) -> list[Override]:
    """Read presets by name or path, in order.

    Arguments
    ---------
    names : Iterable[str]
        ``ultrasafe`` is ``hparams/presets/ultrasafe.yaml`` below ``root`` or below the
        tree of this package; whatever has a ``/`` or ends in ``.yaml`` is a path.
    root : Path
        Root of the recipe.
    faults : Faults
        Grows by unknown presets and by values that are not plain.

    Returns
    -------
    list of Override
        In the order of the files and of their lines.
    """
    overrides: list[Override] = []
    for name in [names] if isinstance(names, (str, Path)) else names:
        if path := _locate(str(name), root, faults):
            overrides += _read(path, faults)
    return overrides


def _locate(name: str, root: Path, faults: Faults) -> Path | None:
    where = Where(COMMAND_LINE)
    if "/" in name or name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        faults.add(where, f"--preset {name}: no such file")
        return None
    folders = dict.fromkeys(base / "hparams" / "presets" for base in (root, PROJECT))
    known = {}
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            known.setdefault(path.stem, path)
    if name.replace("-", "_") in known:
        return known[name.replace("-", "_")]
    hint = did_you_mean(name, known) or "; there are none in hparams/presets/"
    faults.add(where, f"--preset {name}: unknown preset{hint}")
    return None


def _read(path: Path, faults: Faults) -> list[Override]:
    name = shown(path)
    tree = read_source(path, name, faults)
    if tree is None:
        return []
    overrides: list[Override] = []
    for keys, node in walk(tree):
        if len(overrides) >= MAX_OVERRIDES:
            faults.add(node.where, f"more than {MAX_OVERRIDES} values: not a preset")
            break
        if _inside_list(keys) or node is tree:
            continue
        if node.tag not in ("", "!tuple") or not _plain_list(node):
            faults.add(
                node.where,
                f"{dotted(keys)}: a preset holds plain scalars and lists of them",
            )
        elif node.kind == "scalar" and (found := _FACTOR.fullmatch(str(node.value))):
            factor = float(found[1])
            overrides.append(Override(dotted(keys), node.where, factor=factor))
        elif node.kind == "scalar":
            text = node.text if node.tag == "" and not node.quoted else None
            overrides.append(Override(dotted(keys), node.where, text, node.value))
        elif node.kind == "list":
            values = [item.value for item in node.value]
            overrides.append(Override(dotted(keys), node.where, None, values))
    return overrides


def _inside_list(keys) -> bool:
    return any(isinstance(key, int) for key in keys)


def _plain_list(node: Node) -> bool:
    if node.kind != "list":
        return True
    return all(item.kind == "scalar" and item.tag == "" for item in node.value)
