"""Draft ``namespaces.txt`` out of the sources that are installed; nothing is imported.

    python -m speechbrain_ext.config.allowlist.draft > namespaces.txt

The draft is the public classes and functions of the namespaces in `NAMESPACES`, and
the other names under which these can be reached, without what ``refused.tsv`` refuses.
A new name is looked at by a person before it is shipped: does it run, import, fetch,
write or load a pickle when it is called with whatever a recipe may give it?
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..keys import module_file
from .lists import BUILT_IN, Names, read_refusals, refusal_of, written

#: module or package -> what of it: C classes, F functions, X what it exports only
NAMESPACES = {
    "torch.nn.modules": "C",
    "torch.nn.parameter": "C",
    "torch.nn.functional": "F",
    "torch.nn.init": "F",
    "torch.nn.utils.clip_grad": "F",
    "torch.nn.utils.convert_parameters": "F",
    "torch.nn.utils.fusion": "F",
    "torch.nn.utils.parametrizations": "F",
    "torch.nn.utils.rnn": "CF",
    "torch.nn.utils.spectral_norm": "CF",
    "torch.nn.utils.weight_norm": "CF",
    "torch.nn": "",
    "torch.nn.utils": "",
    "torch.optim": "C",
    "torch.optim.swa_utils": "CF",
    "torchaudio.transforms": "C",
    "speechbrain.augment": "CF",
    "speechbrain.dataio": "CF",
    "speechbrain.decoders": "CF",
    "speechbrain.lobes": "CF",
    "speechbrain.nnet": "CF",
    "speechbrain.processing": "CF",
    "speechbrain.tokenizers": "CF",
    "speechbrain_ext.brain": "X",
    "speechbrain_ext.codec.settings": "C",
    "speechbrain_ext.data": "X",
    "speechbrain_ext.losses": "C",
    "speechbrain_ext.models": "C",
    "speechbrain_ext.quantization": "C",
    "speechbrain_ext.scoring": "X",
    "speechbrain_ext.tasks": "X",
    "speechbrain_ext.tasks.schedule": "C",
}
#: what torch wraps in these calls is defined elsewhere
_WRAPPED = {
    "_add_docstr": BUILT_IN,
    "boolean_dispatch": "torch.nn.functional.boolean_dispatch.<locals>.fn",
}


def draft(namespaces: Iterable[str] = tuple(NAMESPACES)) -> Names:
    """Return allowed name -> home of the given namespaces.

    Arguments
    ---------
    namespaces : Iterable[str]
        Keys of `NAMESPACES`.

    Returns
    -------
    dict[str, str]
        A home is where a name is defined, ``module.Name``; "built in" where torch
        makes it in C++.
    """
    sources = {}
    kinds = {}
    for namespace in namespaces:
        for module, path in modules_of(namespace):
            sources[module] = ast.parse(path.read_text(encoding="utf-8"))
            kinds[module] = (NAMESPACES[namespace], path.name == "__init__.py")
    homes: Names = {}
    for module, tree in sources.items():
        for name, kind, home in _defined(tree):
            if kind in kinds[module][0] or kinds[module][0] == "X":
                homes[f"{module}.{name}"] = home or f"{module}.{name}"
    found = dict(homes)
    while True:
        more = {}
        for module, tree in sources.items():
            for name, target in _imported(module, kinds[module][1], tree, found):
                known = f"{module}.{name}" in found or f"{module}.{name}" in sources
                if target in found and not known:
                    more[f"{module}.{name}"] = found[target]
        if not more:
            break
        found |= more
    rooms = {room: _exports(sources[room]) for room in namespaces if _room(room)}
    given_out = {found.get(f"{room}.{name}") for room in rooms for name in rooms[room]}
    refusals = read_refusals()

    def kept(name: str, home: str) -> bool:
        if any(part.startswith("_") for part in name.split(".")):
            return False
        if refusal_of(name, refusals) or refusal_of(home, refusals):
            return False
        module, _, last = name.rpartition(".")
        if kinds[module][0] != "X":
            return True
        return home in given_out if name == home else last in rooms.get(module, ())

    return {name: found[name] for name in sorted(found) if kept(name, found[name])}


def modules_of(namespace: str) -> Iterator[tuple[str, Path]]:
    """Yield the modules of a package, or the one module, with their files."""
    path = module_file(namespace)
    if path is None:
        raise SystemExit(f"draft: {namespace} is not installed")
    if path.name != "__init__.py" or not NAMESPACES[namespace]:
        yield namespace, path
        return
    for file in sorted(path.parent.rglob("*.py")):
        below = file.relative_to(path.parent).with_suffix("").parts
        if below[-1] == "__init__":
            below = below[:-1]
        yield ".".join((namespace, *below)), file


def _defined(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Yield names that a module defines: name, kind, and its home if not here."""
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            yield statement.name, "C", ""
        elif isinstance(statement, ast.FunctionDef):
            scripted = any("jit" in ast.unparse(d) for d in statement.decorator_list)
            yield statement.name, "F", BUILT_IN if scripted else ""
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            name, value = statement.targets[0], statement.value
            if isinstance(name, ast.Name) and isinstance(value, ast.Call):
                if home := _WRAPPED.get(getattr(value.func, "id", "")):
                    yield name.id, "F", home


def _imported(
    module: str, is_package: bool, tree: ast.Module, known: Names
) -> Iterator[tuple[str, str]]:
    """Yield names that a module takes from others: its own name, and the other."""
    for statement in ast.walk(tree) if is_package else tree.body:
        if not isinstance(statement, ast.ImportFrom):
            continue
        source = statement.module or ""
        if statement.level:
            parts = module.split(".")
            base = parts[: len(parts) - statement.level + is_package]
            source = ".".join([*base, source] if source else base)
        for alias in statement.names:
            if alias.name != "*":
                yield alias.asname or alias.name, f"{source}.{alias.name}"
                continue
            for name in known:
                owner, _, last = name.rpartition(".")
                if owner == source and not last.startswith("_"):
                    yield last, name


def _room(namespace: str) -> bool:
    return NAMESPACES[namespace] == "X"


def _exports(tree: ast.Module) -> list[str]:
    """Return the ``__all__`` of a package."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            if getattr(statement.targets[0], "id", "") == "__all__":
                return ast.literal_eval(statement.value)
    return []


if __name__ == "__main__":
    sys.stdout.write(written(draft()))
