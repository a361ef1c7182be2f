"""The options that both stages of data preparation share."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from speechbrain_ext.data.corpora import CORPORA, Corpus, open_corpus

_HERE = Path(__file__).resolve().parent
_SPEAKS = ("espeak", "festival")


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser that knows the corpus, its folders and the number of jobs."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    names = ", ".join(CORPORA)
    parser.add_argument("--corpus", default="espeak", help=f"one of {names}")
    parser.add_argument(
        "--data_folder", type=Path, help="where the recordings are (not for espeak)"
    )
    parser.add_argument(
        "--datadir", type=Path, help="what is made (default: data/<corpus>)"
    )
    parser.add_argument(
        "--nj", type=int, default=os.cpu_count() or 1, help="parallel jobs"
    )
    parser.add_argument(
        "--speaker_from_folder",
        action="store_true",
        help="corpus folder: the first sub-folder names the speaker",
    )
    return parser


def corpus_of(options: argparse.Namespace) -> tuple[Corpus, Path]:
    """Return the corpus and its data folder."""
    settings = {}
    if options.corpus in _SPEAKS:
        settings["sentences"] = _HERE / "sentences.txt"
    elif options.corpus == "folder":
        settings["speaker_from_folder"] = options.speaker_from_folder
    corpus = open_corpus(options.corpus, **settings)
    return corpus, options.datadir or _HERE.parent / "data" / options.corpus


def typed_command() -> str:
    """Return the command that is running, to be typed in any folder."""
    return f"cd {shlex.quote(os.getcwd())} && {shlex.join([sys.executable, *sys.argv])}"
