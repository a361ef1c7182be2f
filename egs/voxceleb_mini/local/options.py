"""The options that both stages of data preparation share."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from speechbrain_ext.data.corpora import Corpus, open_corpus
from speechbrain_ext.data.corpora.choice import choose_corpus
from speechbrain_ext.data.vad import DETECTORS
from speechbrain_ext.errors import UserError

_HERE = Path(__file__).resolve().parent
_DATA = _HERE.parent / "data"

#: What ``--corpus`` may be, beside auto -> its name in `CORPORA`.
_NAMES = {
    "debian": "debian",
    "voxceleb1": "voxceleb1",
    "folder": "folder",
    "espeak": "espeak_voices",
}

#: Which options a corpus has -> what they are called there.
_OPTIONS = {
    "debian": {"max_files_per_speaker": "max_files_per_speaker"},
    "voxceleb1": {
        "num_speakers": "num_speakers",
        "subset_seed": "seed",
        "max_files_per_speaker": "max_files_per_speaker",
    },
    "folder": {},
    "espeak": {"num_speakers": "num_voices"},
}

#: Recordings that are trimmed already; ``--vad`` of the others is silero.
_TRIMMED = ("voxceleb1",)


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser that knows the corpus, its folders and the number of jobs."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "--corpus",
        default="auto",
        choices=("auto", *_NAMES),
        help="auto: debian where its packages can be fetched, else espeak",
    )
    parser.add_argument(
        "--data_folder", type=Path, help="where the recordings are (voxceleb1, folder)"
    )
    parser.add_argument(
        "--datadir", type=Path, help="what is made (default: data/<corpus>)"
    )
    parser.add_argument(
        "--nj", type=int, default=os.cpu_count() or 1, help="parallel jobs"
    )
    parser.add_argument(
        "--max_files_per_speaker",
        type=int,
        help="debian, voxceleb1: draw so many of each speaker; 0: all (default: 160)",
    )
    parser.add_argument(
        "--num_speakers",
        type=int,
        help="voxceleb1: train speakers drawn, 0: all (default: 140); "
        "espeak: voices (default: 20)",
    )
    parser.add_argument(
        "--subset_seed", type=int, help="voxceleb1: draws its train speakers"
    )
    parser.add_argument(
        "--vad",
        choices=DETECTORS,
        help="what cuts silence off (default: silero; none for voxceleb1, whose "
        "recordings are cut already)",
    )
    return parser


def corpus_of(options: argparse.Namespace) -> tuple[Corpus, Path]:
    """Return the corpus and its data folder; settle what was left open.

    Afterwards ``options.corpus`` is never auto and ``options.vad`` never None.
    """
    if options.corpus == "auto":
        if options.data_folder is not None:
            options.corpus = "folder"
        else:
            raw = (options.datadir or _DATA / "debian") / "raw"
            options.corpus, why = choose_corpus(raw)
            # Not on stdout: that is the answer of `data.py --which`.
            print(f"data: --corpus auto takes {options.corpus}: {why}", file=sys.stderr)
    if options.vad is None:
        options.vad = "none" if options.corpus in _TRIMMED else "silero"
    settings = _settings_of(options)
    corpus = open_corpus(_NAMES[options.corpus], **settings)
    return corpus, options.datadir or _DATA / options.corpus


def _settings_of(options: argparse.Namespace) -> dict:
    """Return what the corpus is opened with.

    Raises
    ------
    UserError
        If an option is given that the corpus would not look at.
    """
    given = {
        name: getattr(options, name)
        for name in ("num_speakers", "subset_seed", "max_files_per_speaker")
        if getattr(options, name) is not None
    }
    names = _OPTIONS[options.corpus]
    if strange := given.keys() - names.keys():
        told = ", ".join(f"--{name}" for name in sorted(strange))
        known = ", ".join(f"--{name}" for name in names) or "none of these options"
        raise UserError(
            f"data: --corpus {options.corpus} takes no {told}; it takes {known}"
        )
    settings = {names[name]: value for name, value in given.items()}
    if options.corpus == "folder":
        settings |= {"speaker_from_folder": True, "require_speaker": True}
    elif options.corpus == "espeak":
        settings["sentences"] = _HERE / "sentences.txt"
    return settings


def typed_command() -> str:
    """Return the command that is running, to be typed in any folder."""
    return f"cd {shlex.quote(os.getcwd())} && {shlex.join([sys.executable, *sys.argv])}"
