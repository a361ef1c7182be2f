"""Human voices out of Debian's packages: about 66 speakers, 165 minutes by default.

Learning games and telephone prompts come with recorded words. One folder of a package
is one speaker as a rule; ``debian_voices.tsv`` beside this module has the rule's rows
and exceptions: folders that are one person, folders that may be two, sources of
8 kHz. Who speaks is told by the packages themselves for Asterisk's prompts; for the
others it was checked by comparing speaker embeddings, not by asking anybody.

One folder is one recording session, so two utterances of a speaker share microphone
and room: always read a result beside that of the channel-only baseline.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from speechbrain_ext.data.corpora import Item, Speaker
from speechbrain_ext.data.corpora.debian import fetch_packages, probed_beside
from speechbrain_ext.data.corpora.facts import Facts, iso_language
from speechbrain_ext.data.corpora.folder import name_all
from speechbrain_ext.data.progress import announce, progress_bar
from speechbrain_ext.errors import UserError, WorkError

_TABLE = "debian_voices.tsv"


@dataclass(frozen=True)
class Folder:
    """One row of the table: a folder of a package, or the files of it by one person.

    Arguments
    ---------
    name : str
        Its own name; begins the utt_id of its files.
    same_as : str
        Name of another row with the same person, or empty.
    package : str
        Debian package.
    language : str
        Code as in the package.
    place : str
        Folder below the root of the package.
    pattern : str
        Regular expression for whole paths below ``place``.
    may_test : bool
        False: perhaps two people.
    same_side : str
        Rows with an equal name here may be one person.
    narrowband : bool
        Nothing above 4 kHz: recorded, or kept, at 8 kHz.
    licence : str
        Of the package's audio.
    note : str
        Why the row is as it is.
    """

    name: str
    same_as: str
    package: str
    language: str
    place: str
    pattern: str
    may_test: bool
    same_side: str
    narrowband: bool
    licence: str
    note: str

    @property
    def spk_id(self) -> str:
        """The speaker."""
        return self.same_as or self.name


def read_table() -> list[Folder]:
    """Read the shipped table of folders.

    Returns
    -------
    list of Folder
        In the table's order.
    """
    text = (files(__package__) / _TABLE).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    boolean = {"yes": True, "no": False}
    return [
        Folder(
            **{
                **row,
                "may_test": boolean[row["may_test"]],
                "narrowband": boolean[row["narrowband"]],
            }
        )
        for row in rows
    ]


class DebianVoices:
    """Speakers out of Debian packages, fetched without root.

    Arguments
    ---------
    max_files_per_speaker : int
        Larger ones are cut down to so many files, drawn by a hash of their names: the
        same files on every machine. 0 takes all, about 8 hours.
    log : Callable
        Gets one line of text at a time.
    """

    def __init__(
        self, max_files_per_speaker: int = 160, log: Callable[[str], None] = print
    ):
        if max_files_per_speaker < 0:
            raise UserError(
                "debian: max_files_per_speaker must be 0 (all) or more, got "
                f"{max_files_per_speaker}"
            )
        self.max_files_per_speaker = max_files_per_speaker
        self.log = log
        self.table = read_table()

    def fetch(self, raw: Path, data_folder: Path | None, *, nj: int = 1) -> None:
        """Download and unpack the packages that are not there yet.

        A package that can't be had costs its own speakers only, and is named; the next
        call tries it again.

        Arguments
        ---------
        raw : Path
            Gets ``root/`` with the unpacked packages.
        data_folder : Path or None
            A folder below which they are unpacked already (``/`` where they are
            installed): then nothing is fetched.
        nj : int
            Not used: apt loads one file at a time.

        Raises
        ------
        UserError
            If this machine has no apt-get and dpkg-deb, or ``data_folder`` has none
            of the packages.
        WorkError
            If not one package could be fetched; quotes apt.
        """
        if data_folder is not None:
            if not _find(self.table, data_folder):
                raise UserError(
                    f"data: --data_folder {data_folder}: none of the packages is "
                    f"unpacked there (no {self.table[0].place} below it); for your own "
                    "recordings add --corpus folder"
                )
            return
        if probed_beside(raw).exists() and not raw.exists():
            os.replace(probed_beside(raw), raw)
        wanted = list(dict.fromkeys(row.package for row in self.table))
        failed: dict[str, str] = {}
        with progress_bar() as progress:
            task = progress.add_task("fetching", total=len(wanted))
            for number, package in enumerate(wanted, 1):
                what = f"data: package {number} of {len(wanted)}, {package}"
                progress.update(task, description=f"fetching {package}")
                try:
                    fetch_packages(
                        [package],
                        raw,
                        begins=lambda size, what=what: announce(f"{what}, {size}"),
                    )
                except WorkError as error:
                    failed[package] = str(error)
                else:
                    # Half of the disk space; the mark in unpacked/ stays.
                    for archive in (raw / "archives").glob(f"{package}_*.deb"):
                        archive.unlink()
                progress.advance(task)
        if len(failed) == len(wanted):
            raise WorkError(
                f"debian: none of {len(wanted)} packages could be fetched; the first "
                f"failed with\n{failed[wanted[0]]}\n"
                "without a network: --corpus espeak"
            )
        for package, reason in failed.items():
            lost = {row.spk_id for row in self.table if row.package == package}
            self.log(
                f"data: without {package} ({len(lost)} speakers): "
                f"{reason.splitlines()[-1]}"
            )

    def items(self, raw: Path, data_folder: Path | None) -> Iterator[Item]:
        """List the files of all speakers whose package is there, up to the cap.

        Raises
        ------
        UserError
            If there is none at all.
        """
        root = data_folder or raw / "root"
        recordings = defaultdict(list)
        for row, found in _find(self.table, root):
            recordings[row.spk_id] += [(utt_id, path, row) for utt_id, path in found]
        if not recordings:
            raise UserError(
                f"data: no voices below {root}; run the stage data first: "
                "./run.sh --stage data --corpus debian"
            )
        for spk_id, all_of_one in recordings.items():
            for utt_id, path, row in self._draw(all_of_one):
                yield Item(utt_id, path, spk_id, source=row.package)

    def facts(self, raw: Path, data_folder: Path | None) -> Facts:
        """Tell languages, and the licence of each package that is there."""
        rows = [row for row, _ in _find(self.table, data_folder or raw / "root")]
        return Facts(
            "human voices out of Debian packages",
            language=tuple(sorted({iso_language(row.language) for row in rows})),
            synthetic=False,
            url="https://packages.debian.org/",
            licences={row.package: row.licence for row in rows},
        )

    def speakers(self, raw: Path, data_folder: Path | None) -> dict[str, Speaker]:
        """Say of every speaker who is there what the table knows."""
        rows = defaultdict(list)
        for row, _ in _find(self.table, data_folder or raw / "root"):
            rows[row.spk_id].append(row)
        return {
            spk_id: Speaker(
                spk_id,
                source=mine[0].package,
                may_test=all(row.may_test for row in mine),
                same_side=next((row.same_side for row in mine if row.same_side), None),
                note="; ".join(filter(None, (row.note for row in mine))),
            )
            for spk_id, mine in rows.items()
        }

    def _draw(self, recordings: list) -> list:
        limit = self.max_files_per_speaker
        if not limit or len(recordings) <= limit:
            return recordings
        drawn = sorted(recordings, key=lambda one: _rank(one[0]))[:limit]
        return sorted(drawn, key=lambda one: one[0])


def _rank(utt_id: str) -> str:
    return hashlib.sha256(utt_id.encode()).hexdigest()


def _find(
    table: list[Folder], root: Path
) -> list[tuple[Folder, list[tuple[str, Path]]]]:
    """Find the audio of every row: utt_id and path, sorted; rows without it lack."""
    below = {place: _walk(root / place) for place in {row.place for row in table}}
    found = []
    for row in table:
        matches = re.compile(row.pattern).fullmatch
        relative = [path for path in below[row.place] if matches(path.as_posix())]
        if relative:
            names = name_all([Path(row.name) / path for path in relative])
            paths = [root / row.place / path for path in relative]
            found.append((row, list(zip(names, paths, strict=True))))
    return found


def _walk(place: Path) -> list[Path]:
    """List all files below a folder, sorted, relative to it.

    Links are not followed: these packages link their folders into one another.
    """
    return sorted(
        Path(parent, name).relative_to(place)
        for parent, _, names in os.walk(place)
        for name in names
        if not Path(parent, name).is_symlink()
    )
