"""Lines of code as a user knows them: the innermost one that is not a library's."""

from __future__ import annotations

import linecache
import re
import sys
import sysconfig
from pathlib import Path
from types import CodeType

import speechbrain
import torch

#: Code that no user wants to be shown as the place of a fault.
_LIBRARIES = tuple(
    str(Path(folder)) + "/"
    for folder in (
        Path(torch.__file__).parent,
        Path(speechbrain.__file__).parent,
        Path(__file__).parent,
    )
)
_STANDARD = sysconfig.get_paths()["stdlib"] + "/"
_TRACEBACK_LINE = re.compile(r'File "(.+)", line (\d+), in ')


def is_library(path: str) -> bool:
    """Whether a file belongs to torch, SpeechBrain, Python or the guard itself."""
    if path.startswith("<") or path.startswith(_LIBRARIES):
        return True
    return path.startswith(_STANDARD) and not _is_package(path)


def _is_package(path: str) -> bool:
    return "/site-packages/" in path or "/dist-packages/" in path


def told(path: str, line: int) -> str:
    """Write a place as ``"file.py:87: code"``."""
    code = linecache.getline(path, line).strip()
    return f"{Path(path).name}:{line}: {code}".rstrip(": ")


def chosen(places: list[tuple[str, int]]) -> str:
    """Take the user's innermost line, or else one of another package."""
    mine = [place for place in places if not is_library(place[0])]
    own = [place for place in mine if not _is_package(place[0])]
    return told(*(own or mine)[0]) if mine else ""


def source_of(error: BaseException) -> str:
    """Tell which line of a user raised an exception, as ``"file.py:87: code"``."""
    places, tb = [], error.__traceback__
    while tb is not None:
        places.insert(0, (tb.tb_frame.f_code.co_filename, tb.tb_lineno))
        tb = tb.tb_next
    return chosen(places)


def module_of(error: BaseException, modules: torch.nn.Module) -> tuple[str, str]:
    """Tell in which of ``modules`` and in which phase an exception was raised."""
    names = {id(module): name for name, module in modules.named_modules() if name}
    found, phase, tb = "", "forward", error.__traceback__
    while tb is not None:
        owner = tb.tb_frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module) and id(owner) in names:
            found = f"{names[id(owner)]} ({type(owner).__name__})"
        name = tb.tb_frame.f_code.co_name
        if name == "compute_objectives":
            phase = "objective"
        elif name == "backward" and phase != "objective" and not found:
            phase = "backward"
        tb = tb.tb_next
    return found, phase


def remembered(node) -> list[tuple[str, int]]:
    """Lines of the forward pass that made a node of the graph, the innermost first."""
    text = "".join(reversed(node.metadata.get("traceback_", [])))
    return [(path, int(line)) for path, line in _TRACEBACK_LINE.findall(text)]


def running(until: CodeType | None = None) -> list[tuple[str, int, str]]:
    """List what runs now, as ``(file, line, function)``, the innermost first.

    Arguments
    ---------
    until : CodeType, optional
        Code of a function to stop at; it is not in the list.
    """
    places, frame = [], sys._getframe(1)
    while frame is not None and (code := frame.f_code) is not until:
        places.append((code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return places
