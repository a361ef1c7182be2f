"""VoxCeleb1: interviews of 1,251 celebrities, 16 kHz wav, with official trial lists.

Nagrani et al., 2017, "VoxCeleb: a large-scale speaker identification dataset",
https://www.robots.ox.ac.uk/~vgg/data/voxceleb/

Audio lies in ``<anything>/wav/<speaker>/<video>/<file>.wav`` (``wav/``, ``dev/wav/``,
``test/wav/``, ``vox1_dev_wav/wav/`` ...), read where it lies. The speakers of the
official list are the test speakers; they never train. Of the others a part is drawn.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from speechbrain_ext.data.corpora import Item, Speaker, require_folder
from speechbrain_ext.data.corpora.facts import Facts
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_text

#: Name of a trial list -> the file's names in the order they are looked for.
TRIAL_FILES = {
    "main": ("veri_test2.txt", "veri_test.txt"),
    "original": ("veri_test.txt",),
    "hard": ("list_test_hard2.txt", "list_test_hard.txt"),
    "all": ("list_test_all2.txt", "list_test_all.txt"),
}

#: Test speakers where no official list is there: id10270 to id10309, all whose names
#: begin with an E.
OFFICIAL_TEST = frozenset(f"id{number}" for number in range(10270, 10310))

_SPEAKER = re.compile(r"id1\d{4}")
_KEY = re.compile(r"(?P<spk>id1\d{4})/(?P<video>[^/\s]+)/(?P<file>[^/\s]+)\.wav")
_HINT = (
    "get vox1_dev_wav and vox1_test_wav from "
    "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/, unpack them, put the trial list "
    "veri_test2.txt beside them, and give the folder that holds it all"
)


class VoxCeleb1Corpus:
    """VoxCeleb1 or a part of it.

    Arguments
    ---------
    num_speakers : int
        Train speakers, drawn by seed; 0 takes all. Test speakers come on top.
    seed : int
        Of the draw; another seed gives other train speakers, never other test ones.
    max_files_per_speaker : int
        Of a train speaker, drawn by a hash of their names; 0 takes all. Of a test
        speaker exactly what the trial lists name.
    """

    def __init__(
        self, num_speakers: int = 140, seed: int = 1, max_files_per_speaker: int = 160
    ):
        for name, value in [
            ("num_speakers", num_speakers),
            ("max_files_per_speaker", max_files_per_speaker),
        ]:
            if value < 0:
                raise UserError(f"voxceleb1: {name} must be 0 (all) or more: {value}")
        self.num_speakers = num_speakers
        self.seed = seed
        self.max_files_per_speaker = max_files_per_speaker

    def fetch(self, raw: Path, data_folder: Path | None, *, nj: int = 1) -> None:
        """Look whether the corpus is there; nothing is copied."""
        folders = self._speaker_folders(data_folder)
        test = self._test_speakers(data_folder)
        if not test & folders.keys():
            raise UserError(
                f"data: --data_folder {data_folder}: none of its {len(folders)} "
                f"speakers is a test speaker; is vox1_test_wav unpacked there?\n{_HINT}"
            )
        if not folders.keys() - test:
            raise UserError(
                f"data: --data_folder {data_folder}: all its {len(folders)} speakers "
                f"are test speakers; is vox1_dev_wav unpacked there?\n{_HINT}"
            )

    def facts(self, raw: Path, data_folder: Path | None) -> Facts:
        """Tell title and licence; languages are many and not told."""
        return Facts(
            "VoxCeleb1" if not self.num_speakers else "VoxCeleb1, a part of it",
            licence="CC-BY-4.0",
            synthetic=False,
            url="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/",
            note="The licence is that of the annotations; the audio is from YouTube.",
        )

    def items(self, raw: Path, data_folder: Path | None) -> Iterator[Item]:
        """List train speakers (role ``train``), then test speakers (``test``).

        What a trial list names and is not there carries a fault.
        """
        folders = self._speaker_folders(data_folder)
        test = self._test_speakers(data_folder)
        meta = self._meta(data_folder)
        for spk_id in self._draw_speakers(folders.keys() - test):
            for utt_id, path in self._draw_files(_recordings(folders[spk_id], spk_id)):
                yield Item(utt_id, path, spk_id, role="train", source=meta.get(spk_id))
        wanted = self._wanted(data_folder, test)
        for spk_id in sorted(test):
            there = dict(_recordings(folders.get(spk_id, []), spk_id))
            named = wanted.get(spk_id, {}) if wanted else dict.fromkeys(there)
            for utt_id, by in sorted(named.items()):
                fault, path = None, there.get(utt_id)
                if path is None:
                    path = Path(data_folder, *_parts(utt_id))
                    fault = f"missing: named by {by} but not there"
                source = meta.get(spk_id)
                yield Item(utt_id, path, spk_id, None, "test", fault, source)

    def speakers(self, raw: Path, data_folder: Path | None) -> dict[str, Speaker]:
        """Return gender and nationality as the source, where vox1_meta.csv is."""
        meta = self._meta(data_folder)
        return {
            spk_id: Speaker(spk_id, source=meta.get(spk_id))
            for spk_id in self._speaker_folders(data_folder)
        }

    def trial_lists(self, raw: Path, data_folder: Path | None) -> dict[str, Path]:
        """Write the official lists with utt_ids as keys into ``raw/trials``.

        The hard and the full list pair speakers of the development part too; only
        their trials between test speakers are kept, and a list without both kinds
        of trial is left out.

        Returns
        -------
        dict
            ``main`` (veri_test2.txt, else veri_test.txt), ``original``
            (veri_test.txt), ``hard``, ``all`` -> path.
        """
        test = self._test_speakers(data_folder)
        written = {}
        for name, path in self._lists(data_folder).items():
            kept = list(_read_trials(path, test))
            if {label for label, *_ in kept} == {"0", "1"}:
                written[name] = raw / "trials" / f"{name}.txt"
                lines = [" ".join(trial) + "\n" for trial in kept]
                write_text(written[name], "".join(lines))
        return written

    def _speaker_folders(self, data_folder: Path | None) -> dict[str, list[Path]]:
        folder = require_folder(data_folder, "voxceleb1", _HINT)
        if folder not in self._found:
            self._found[folder] = _find_speakers(folder)
        if not self._found[folder]:
            raise UserError(
                f"data: --data_folder {folder}: no wav/id10001/<video>/00001.wav or "
                f"alike below it\n{_HINT}"
            )
        return self._found[folder]

    @cached_property
    def _found(self) -> dict[Path, dict[str, list[Path]]]:
        return {}

    def _lists(self, data_folder: Path) -> dict[str, Path]:
        lists = {}
        for name, files in TRIAL_FILES.items():
            for file in files:
                found = _find_file(data_folder, file)
                if found and found not in lists.values():
                    lists.setdefault(name, found)
        return lists

    def _test_speakers(self, data_folder: Path) -> set[str]:
        lists = self._lists(data_folder)
        if "main" not in lists:
            return set(OFFICIAL_TEST)
        trials = _read_trials(lists["main"])
        return {_parts(utt_id)[0] for _, *pair in trials for utt_id in pair}

    def _wanted(self, data_folder: Path, test: set[str]) -> dict[str, dict[str, str]]:
        """Return spk_id -> utt_id -> name of the first list that holds it."""
        wanted: dict[str, dict[str, str]] = defaultdict(dict)
        for path in self._lists(data_folder).values():
            for _, *pair in _read_trials(path, test):
                for utt_id in pair:
                    wanted[_parts(utt_id)[0]].setdefault(utt_id, path.name)
        return dict(wanted)

    def _meta(self, data_folder: Path) -> dict[str, str]:
        """Return spk_id -> gender and nationality, ``m-Ireland``."""
        path = _find_file(data_folder, "vox1_meta.csv")
        if path is None:
            return {}
        with open(path, encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t", restval="")
            return {
                row.get("VoxCeleb1 ID", "").strip(): "-".join(
                    (row.get(column) or "?").strip()
                    for column in ("Gender", "Nationality")
                )
                for row in rows
            }

    def _draw_speakers(self, names: set[str]) -> list[str]:
        drawn = sorted(names, key=lambda name: _rank(f"{self.seed} {name}"))
        return sorted(drawn[: self.num_speakers or None])

    def _draw_files(self, recordings: list[tuple[str, Path]]) -> list:
        drawn = sorted(recordings, key=lambda one: _rank(one[0]))
        return sorted(drawn[: self.max_files_per_speaker or None])


def utt_id_of(speaker: str, video: str, file: str) -> str:
    """Join the three names of a recording so that they can be told apart again.

    A speaker has no ``-`` and a file's last one is ours; a dot, which no file name of
    ours may have, and the sign that stands for it, are written as ``=2e`` and ``=3d``.

    Example
    -------
    >>> utt_id_of("id10270", "5r0dWxy17C8", "00001")
    'id10270-5r0dWxy17C8-00001'
    >>> utt_id_of("id10270", "a-b.c", "1-2")
    'id10270-a-b=2ec-1=2d2'
    """
    video, file = (
        name.replace("=", "=3d").replace(".", "=2e") for name in (video, file)
    )
    return f"{speaker}-{video}-{file.replace('-', '=2d')}"


def _parts(utt_id: str) -> tuple[str, str, str]:
    """Undo `utt_id_of`; the file gets its extension back."""
    speaker, _, rest = utt_id.partition("-")
    video, _, file = rest.rpartition("-")
    video, file = (
        name.replace("=2d", "-").replace("=2e", ".").replace("=3d", "=")
        for name in (video, file)
    )
    return speaker, video, f"{file}.wav"


def _find_speakers(folder: Path) -> dict[str, list[Path]]:
    """Find folders named as speakers, at most four levels down; parts of one too."""
    found = defaultdict(list)
    level = [folder]
    for _ in range(4):
        below = []
        for parent in level:
            for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
                if not entry.is_dir() or entry.name.startswith("."):
                    continue
                if _SPEAKER.fullmatch(entry.name):
                    found[entry.name].append(Path(entry.path))
                else:
                    below.append(Path(entry.path))
        level = below
    return dict(found)


def _recordings(folders: list[Path], spk_id: str) -> list[tuple[str, Path]]:
    """List a speaker's recordings; the first of two with one name counts."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/*.wav")):
            utt_id = utt_id_of(spk_id, path.parent.name, path.stem)
            found.setdefault(utt_id, path)
    return sorted(found.items())


def _find_file(folder: Path, name: str) -> Path | None:
    """Look for a list in the folder itself, beside the archives, and above them."""
    for pattern in (name, f"*/{name}", f"*/*/{name}"):
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    return None


def _read_trials(
    path: Path, among: set[str] | None = None
) -> Iterator[tuple[str, str, str]]:
    """Yield label and two utt_ids of an official list, of these speakers only."""
    faults = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        if among is not None and any(
            cell.partition("/")[0] not in among for cell in cells[1:]
        ):
            continue
        keys = [_KEY.fullmatch(cell) for cell in cells[1:]]
        if len(keys) != 2 or not all(keys) or cells[0] not in ("0", "1"):
            faults.append(f"line {number}: {line[:80]!r}")
            continue
        first, second = (utt_id_of(*key.group("spk", "video", "file")) for key in keys)
        if not faults:
            yield cells[0], first, second
    if faults:
        raise UserError(
            "\n  ".join(
                [
                    f"data: {path}: {len(faults)} lines are not '1 id10270/video/"
                    "00001.wav id10271/video/00001.wav'",
                    *faults[:5],
                ]
            )
        )


def _rank(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
