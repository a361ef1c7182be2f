"""Your own recordings: any tree of audio files."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from speechbrain_ext.data.audio import AUDIO_EXTENSIONS
from speechbrain_ext.data.corpora import Item, require_folder
from speechbrain_ext.data.corpora.facts import YOURS, Facts
from speechbrain_ext.errors import UserError

_HINT = "any tree of " + ", ".join(sorted(AUDIO_EXTENSIONS)) + " files will do"

# Left behind by macOS and Windows beside real files, or not meant for reading.
_SYSTEM_NAMES = frozenset(
    {"__macosx", "$recycle.bin", "system volume information", "lost+found"}
)

_MAX_NAME_BYTES = 120


class FolderCorpus:
    """All audio below a folder; hidden and system files are passed over.

    Arguments
    ---------
    speaker_from_folder : bool
        Take the first sub-folder as the speaker (``speaker/utterance.wav``); files
        at the top then have none.
    require_speaker : bool
        Such a file at the top is rejected, with the reason.
    """

    def __init__(
        self, speaker_from_folder: bool = False, require_speaker: bool = False
    ):
        self.speaker_from_folder = speaker_from_folder
        self.require_speaker = require_speaker

    def fetch(self, raw: Path, data_folder: Path | None, *, nj: int = 1) -> None:
        """Look whether there is any audio; nothing is copied."""
        folder = require_folder(data_folder, "folder", _HINT)
        if next(find_audio(folder), None) is None:
            raise UserError(
                f"data: --data_folder {folder}: no audio found below it; {_HINT}"
            )

    def facts(self, raw: Path, data_folder: Path | None) -> Facts:
        """Say that nothing is known of somebody's own recordings."""
        return Facts("a folder of recordings", licence=YOURS)

    def items(self, raw: Path, data_folder: Path | None) -> Iterator[Item]:
        """List all audio files, sorted by path."""
        self.fetch(raw, data_folder)
        paths = sorted(find_audio(data_folder), key=os.fsencode)
        relative = [path.relative_to(data_folder) for path in paths]
        speakers = self._name_speakers({short.parts[0] for short in relative})
        for path, short, utt_id in zip(
            paths, relative, name_all(relative), strict=True
        ):
            has_speaker = self.speaker_from_folder and len(short.parts) > 1
            spk_id = speakers[short.parts[0]] if has_speaker else None
            fault = None
            if self.require_speaker and not has_speaker:
                fault = "wrongly labelled: no folder names its speaker"
            yield Item(utt_id, path, spk_id=spk_id, fault=fault)

    def _name_speakers(self, folders: set[str]) -> dict[str, str]:
        """Name a speaker after each folder, without making one person of two."""
        if not self.require_speaker:
            return {folder: clean_name(folder) for folder in folders}
        names = sorted(folders)
        # The suffix is what `name_all` takes away: dots in a name stay apart.
        unique = name_all([Path(f"{name}.wav") for name in names])
        return dict(zip(names, unique, strict=True))


def find_audio(folder: Path) -> Iterator[Path]:
    """Walk a tree for files with an audio extension of any case.

    Names that begin with a dot are passed over (``._a.wav`` of macOS too). Links to
    folders are not followed: they could lead in circles.
    """
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name.lower() not in _SYSTEM_NAMES
        )
        for name in sorted(files):
            is_audio = os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS
            if is_audio and not name.startswith("."):
                yield Path(parent, name)


def clean_name(text: str) -> str:
    """Keep letters of all scripts, their marks, digits, ``-`` and ``_``.

    Everything else, dots too (tools cut names there), becomes ``_``.

    Example
    -------
    >>> clean_name("my file.v2 (తెలుగు)")
    'my_file_v2__తెలుగు'
    """
    kept = [
        char if char in "-_" or unicodedata.category(char)[0] in "LMN" else "_"
        for char in unicodedata.normalize("NFC", text)
    ]
    return "".join(kept).strip("_") or "_"


def name_all(relative: list[Path]) -> list[str]:
    """Make an utt_id from each relative path; no two are equal in any letter case.

    Paths whose names would be equal (``a.wav`` and ``a.flac``, ``a b`` and ``a_b``),
    and very long ones, get eight digits of a hash of the path.

    Example
    -------
    >>> name_all([Path("day 1/a.wav"), Path("b.wav")])
    ['day_1-a', 'b']
    """
    names = [
        "-".join(clean_name(part) for part in path.with_suffix("").parts)
        for path in relative
    ]
    owners = defaultdict(int)
    for name in names:
        owners[name.casefold()] += 1
    unique = []
    for path, name in zip(relative, names, strict=True):
        encoded = name.encode()
        if owners[name.casefold()] > 1 or len(encoded) > _MAX_NAME_BYTES:
            short = encoded[:_MAX_NAME_BYTES].decode("utf-8", "ignore")
            name = f"{short}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
        unique.append(name)
    return unique
