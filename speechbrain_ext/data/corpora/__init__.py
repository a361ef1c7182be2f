"""Where recordings come from: one room for each corpus, all with the same two doors.

A corpus is a class with two methods (`Corpus`): ``fetch`` brings the audio onto this
machine (stage *data*), ``items`` lists it with speaker, text and published role
(stage *prepare*). Corpora for speaker verification may have two windows more:
``speakers`` and ``trial_lists``, see `speakers_of` and `trial_lists_of`. Decoding,
checking, splitting and writing are the same for all of them and live in
`speechbrain_ext.data.prepare`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from speechbrain_ext.errors import UserError

#: name -> ("module:class", one line of help)
CORPORA: dict[str, tuple[str, str]] = {
    "espeak": ("espeak:EspeakCorpus", "synthetic voices, embedded, needs no download"),
    "espeak_voices": ("espeak_voices:EspeakVoices", "synthetic speakers, embedded"),
    "festival": ("festival:FestivalCorpus", "a human voice's diphones, from Debian"),
    "openslr66": ("openslr66:OpenSLR66Corpus", "crowd-sourced Telugu, OpenSLR SLR66"),
    "commonvoice": (
        "commonvoice:CommonVoiceCorpus",
        "Mozilla Common Voice, one locale",
    ),
    "debian": ("debian_voices:DebianVoices", "66 human voices out of Debian packages"),
    "voxceleb1": ("voxceleb1:VoxCeleb1Corpus", "VoxCeleb1 as wav, or a part of it"),
    "folder": ("folder:FolderCorpus", "your own recordings, any folder tree"),
}


@dataclass(frozen=True)
class Item:
    """A recording before anybody has listened to it.

    Arguments
    ---------
    utt_id : str
        Unique within the corpus; letters, digits, ``-`` and ``_`` (a file's name).
    path : Path
        The audio file.
    spk_id : str or None
        Speaker where known.
    text : str or None
        What is said, where known.
    role : str or None
        ``train``, ``valid`` or ``test`` where the corpus publishes its split.
    fault : str or None
        A reason to reject it that the corpus itself sees, such as a missing label.
    source : str or None
        Where it was recorded, as far as that is known: two recordings of one source
        share microphone, room and codec more often than two of different sources.
    """

    utt_id: str
    path: Path
    spk_id: str | None = None
    text: str | None = None
    role: str | None = None
    fault: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Speaker:
    """What a corpus knows of a speaker beside the recordings.

    Arguments
    ---------
    spk_id : str
        As in `Item`.
    source : str or None
        Package or session group; for a speaker with several, the first.
    may_test : bool
        False: maybe two people, so never scored.
    same_side : str or None
        Speakers with an equal name here may be one person: all go to one side of a
        split.
    note : str
        What a reader of the results should know; one line.
    """

    spk_id: str
    source: str | None = None
    may_test: bool = True
    same_side: str | None = None
    note: str = ""


class Corpus(Protocol):
    """The two doors of a corpus. Its constructor takes what the recipe decides."""

    def fetch(self, raw: Path, data_folder: Path | None, *, nj: int = 1) -> None:
        """Make sure the audio is here, downloading or synthesising it if need be.

        Arguments
        ---------
        raw : Path
            Folder that belongs to the corpus; whole files in it are kept.
        data_folder : Path or None
            What the user gave as ``--data_folder``.
        nj : int
            Number of parallel jobs.

        Raises
        ------
        UserError
            With the command or the address that brings the audio.
        """

    def items(self, raw: Path, data_folder: Path | None) -> Iterator[Item]:
        """List all recordings, usable or not, in a fixed order."""


def open_corpus(name: str, **options: Any) -> Corpus:
    """Make a corpus by its name.

    Arguments
    ---------
    name : str
        A key of `CORPORA`.
    **options
        For the corpus' constructor.

    Raises
    ------
    UserError
        If there is no such corpus; names the nearest and lists all.
    """
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        lines = [f"  {known:12} {about}" for known, (_, about) in CORPORA.items()]
        raise UserError("\n".join([f"data: there is no corpus {name!r}{hint}", *lines]))
    module, attribute = CORPORA[name][0].split(":")
    corpus = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    return corpus(**options)


def speakers_of(
    corpus: Corpus, raw: Path, data_folder: Path | None
) -> dict[str, Speaker]:
    """Return what the corpus knows of its speakers; most know nothing.

    Arguments
    ---------
    corpus : Corpus
        Its method ``speakers(raw, data_folder)`` is asked, where it has one.
    raw, data_folder : Path
        As for ``items``.

    Returns
    -------
    dict
        spk_id -> `Speaker`; may lack speakers of ``items``.
    """
    ask = getattr(corpus, "speakers", None)
    return ask(raw, data_folder) if ask else {}


def trial_lists_of(
    corpus: Corpus, raw: Path, data_folder: Path | None
) -> dict[str, Path]:
    """Return the trial lists that the corpus publishes; most publish none.

    Arguments
    ---------
    corpus : Corpus
        Its method ``trial_lists(raw, data_folder)`` is asked, where it has one.
    raw, data_folder : Path
        As for ``items``.

    Returns
    -------
    dict
        Name -> a file with lines ``1 <utt_id> <utt_id>`` (target) and ``0 ...``.
    """
    ask = getattr(corpus, "trial_lists", None)
    return ask(raw, data_folder) if ask else {}


def require_folder(data_folder: Path | None, corpus: str, hint: str) -> Path:
    """Return the user's folder, or say what is wrong with it.

    Arguments
    ---------
    data_folder : Path or None
        From the command line.
    corpus : str
        Its name, for the message.
    hint : str
        How the folder comes about.

    Raises
    ------
    UserError
        If it was not given, does not exist (the nearest folder that does is named), or
        is a file.
    """
    if data_folder is None:
        raise UserError(f"data: corpus {corpus!r} needs --data_folder DIR\n{hint}")
    if data_folder.is_dir():
        return data_folder
    if data_folder.exists():
        raise UserError(f"data: --data_folder {data_folder}: is a file, not a folder")
    parent = next(p for p in data_folder.absolute().parents if p.is_dir())
    near = difflib.get_close_matches(
        data_folder.absolute().relative_to(parent).parts[0],
        [entry.name for entry in parent.iterdir() if entry.is_dir()],
        n=1,
    )
    mean = f"; did you mean {parent / near[0]}?" if near else ""
    raise UserError(
        f"data: --data_folder {data_folder}: no such folder (the nearest that "
        f"exists is {parent}){mean}\n{hint}"
    )
