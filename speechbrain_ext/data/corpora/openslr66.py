"""OpenSLR SLR66: crowd-sourced high-quality Telugu, 48 kHz, CC BY-SA 4.0.

He et al., 2020, "Open-source Multi-speaker Speech Corpora for Building Gujarati,
Kannada, Malayalam, Marathi, Tamil and Telugu Speech Synthesis Systems",
https://www.openslr.org/66/

Published as ``te_in_female.zip`` and ``te_in_male.zip``; each holds wav files named
``te<f|m>_<speaker>_<line>.wav`` and ``line_index.tsv`` with ``name<TAB>text``. The
files lie flat in the archive, so people unpack them into folders of any name.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from speechbrain_ext.data.corpora import Item, require_folder
from speechbrain_ext.data.corpora.facts import Facts
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.files import write_text

_ARCHIVES = ("te_in_female.zip", "te_in_male.zip")
_NAME = re.compile(r"te(?P<gender>[fm])_(?P<speaker>\d+)_(?P<line>\d+)")
_HINT = (
    "get te_in_female.zip and te_in_male.zip from https://www.openslr.org/66/ and give "
    "the folder that holds them, unpacked or not"
)


class OpenSLR66Corpus:
    """Both genders' folders of SLR66, or its two archives."""

    def fetch(self, raw: Path, data_folder: Path | None, *, nj: int = 1) -> None:
        """Unpack the archives into ``raw`` unless they are unpacked already."""
        folder = require_folder(data_folder, "openslr66", _HINT)
        if _indexes(folder):
            return
        archives = [folder / name for name in _ARCHIVES if (folder / name).is_file()]
        if not archives:
            raise UserError(
                f"data: --data_folder {folder}: neither line_index.tsv nor "
                f"{' nor '.join(_ARCHIVES)} found in it\n{_HINT}"
            )
        for archive in archives:
            mark = raw / f"{archive.stem}.unpacked"
            stat = archive.stat()
            identity = f"{stat.st_size} {stat.st_mtime_ns}\n"
            if mark.is_file() and mark.read_text() == identity:
                continue
            try:
                with zipfile.ZipFile(archive) as opened:
                    opened.extractall(raw / archive.stem)
            except (zipfile.BadZipFile, OSError, EOFError) as error:
                raise WorkError(f"data: {archive}: {error}; get it again") from None
            write_text(mark, identity)

    def facts(self, raw: Path, data_folder: Path | None) -> Facts:
        """Tell title, licence and language."""
        return Facts(
            "OpenSLR SLR66, crowd-sourced high-quality Telugu",
            licence="CC-BY-SA-4.0",
            language=("te",),
            synthetic=False,
            url="https://www.openslr.org/66/",
        )

    def items(self, raw: Path, data_folder: Path | None) -> Iterator[Item]:
        """List what the indexes name, then audio that no index names."""
        folder = require_folder(data_folder, "openslr66", _HINT)
        indexes = _indexes(folder) or _indexes(raw)
        if not indexes:
            raise UserError(
                f"data: no line_index.tsv below {folder}; run the stage data first\n"
                f"{_HINT}"
            )
        for index in indexes:
            yield from _items_of(index)


def _indexes(folder: Path) -> list[Path]:
    return sorted(folder.rglob("line_index*.tsv"))


def _items_of(index: Path) -> Iterator[Item]:
    audio = {path.stem: path for path in sorted(index.parent.rglob("*.wav"))}
    texts: dict[str, str] = {}
    for line in index.read_text(encoding="utf-8").splitlines():
        # Some lines have an empty column in the middle.
        cells = [cell.strip() for cell in line.split("\t") if cell.strip()]
        if cells:
            texts[cells[0].removesuffix(".wav")] = cells[-1] if cells[1:] else ""
    for name in sorted(texts.keys() | audio.keys()):
        path = audio.get(name, index.parent / f"{name}.wav")
        match = _NAME.fullmatch(name)
        spk_id = f"te{match['gender']}_{match['speaker']}" if match else None
        fault = None
        if name not in audio:
            fault = f"missing: listed in {index.name} but not there"
        elif name not in texts:
            fault = f"wrongly labelled: not in {index.name}"
        elif not texts[name]:
            fault = f"wrongly labelled: no text in {index.name}"
        elif match is None:
            fault = "wrongly labelled: the name is not te<f|m>_<speaker>_<line>"
        elif match["gender"] not in _genders_of(index.parent.name):
            fault = f"wrongly labelled: in the folder {index.parent.name}"
        yield Item(name, path, spk_id, texts.get(name) or None, fault=fault)


def _genders_of(folder: str) -> str:
    """Return the letters that names in this folder may have."""
    if "female" in folder.lower():
        return "f"
    return "m" if "male" in folder.lower() else "fm"
