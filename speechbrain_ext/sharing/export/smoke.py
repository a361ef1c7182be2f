"""An export folder is only kept if it computes what the experiment computes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from speechbrain_ext.errors import WorkError
from speechbrain_ext.losses.aam import AAMSoftmax
from speechbrain_ext.sharing.export import probe

#: Largest difference, in parts of an array's largest number.
TOLERANCE = 1e-6
#: Lengths of the signals that are tried out, in seconds.
_SECONDS = {"a": 1.0, "b": 2.3, "c": 0.31}
_LIMIT_SECONDS = 600
_TEXTS = (".json", ".yaml", ".md", ".txt")


def signals_of(sample_rate: int) -> dict[str, np.ndarray]:
    """Make bursts of harmonics and noise, float32 [time] each."""
    rng = np.random.default_rng(7)
    found = {}
    for number, (name, seconds) in enumerate(_SECONDS.items()):
        time = np.arange(round(seconds * sample_rate)) / sample_rate
        pitch = 2 * np.pi * (110 + 40 * number) * time
        voiced = sum(np.sin(k * pitch) / k for k in range(1, 12))
        envelope = np.clip(np.sin(2 * np.pi * 3 * time), 0.02, 1)
        wav = 0.05 * envelope * (voiced + rng.standard_normal(len(time)))
        found[name] = wav.astype(np.float32)
    return found


def expected_of_stock(
    found: Mapping[str, np.ndarray], classifier: AAMSoftmax, speakers: list[str]
) -> dict[str, np.ndarray]:
    """Say what stock SpeechBrain has to find.

    Arguments
    ---------
    found : Mapping
        From `outputs.compute` of the experiment.
    classifier : AAMSoftmax
        The experiment's.
    speakers : list of str
        In the order of its classes.
    """
    expected = {}
    for name in _SECONDS:
        embedding = found[f"embedding.{name}"]
        with torch.no_grad():
            cosines = classifier.cosines(torch.from_numpy(embedding)[None])[0]
        cosines = cosines[: len(speakers)].numpy()
        expected[f"stock.embedding.{name}"] = embedding
        expected[f"stock.cosines.{name}"] = cosines
        expected[f"stock.label.{name}"] = np.array(speakers[cosines.argmax()])
    return expected


def check_folder(
    folder: Path,
    words: list[str],
    expected: Mapping[str, np.ndarray],
    signals: Mapping[str, np.ndarray],
    sample_rate: int,
    allow: Sequence[str] = (),
) -> float:
    """Compute in a fresh process from the folder alone, and compare.

    Arguments
    ---------
    folder : Path
        What is to be kept.
    words : list of str
        What to do; see `probe`.
    expected : Mapping
        Name -> array.
    signals, sample_rate
        What the experiment's model was given.
    allow : sequence of str
        Names that the recipe in the folder may build beyond the list.

    Returns
    -------
    float
        Largest difference, in parts of an array's largest number.

    Raises
    ------
    WorkError
        If it fails, or anything differs by more than `TOLERANCE`.
    """
    found = run_probe(folder, words, signals, sample_rate, allow)
    if set(found) != set(expected):
        odd = sorted(set(found) ^ set(expected))
        raise WorkError(
            f"export: from the folder alone there is more or less than from the "
            f"experiment: {', '.join(odd)}; nothing was written"
        )
    worst = 0.0
    for name, wanted in expected.items():
        difference = _difference(found[name], wanted)
        worst = max(worst, difference)
        if not difference <= TOLERANCE:
            what = "stock SpeechBrain" if name.startswith("stock.") else "a new process"
            raise WorkError(
                f"export: in {what} {name} differs from the experiment's by "
                f"{difference:.1e}, at most {TOLERANCE:.0e} is allowed; nothing was "
                "written"
            )
    return worst


def _difference(found: np.ndarray, wanted: np.ndarray) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    if wanted.dtype.kind not in "f":
        return 0.0 if np.array_equal(found, wanted) else float("inf")
    if not wanted.size:
        return 0.0
    largest = float(np.abs(wanted).max()) or 1.0
    return float(np.abs(found.astype(np.float64) - wanted).max()) / largest


def run_probe(
    folder: Path,
    words: list[str],
    signals: Mapping[str, np.ndarray],
    sample_rate: int,
    allow: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Start `probe` in an empty folder of its own; returns what it computed.

    Raises
    ------
    WorkError
        With the last line of what it said, if it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given, output = Path(scratch) / "given.npz", Path(scratch) / "found.npz"
        np.savez(given, sample_rate=np.array(sample_rate), **signals)
        root = Path(probe.__file__).resolve().parents[3]
        paths = [str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in paths if p),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, probe.__file__, str(folder.resolve()), given, output]
        try:
            done = subprocess.run(
                [*command, ",".join(allow), *words],
                cwd=scratch,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_LIMIT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise WorkError(
                f"export: the folder was not tried out within {_LIMIT_SECONDS} s; "
                "nothing was written"
            ) from error
        if done.returncode or not output.exists():
            said = done.stderr.strip().splitlines() or ["no message"]
            raise WorkError(
                "export: a new process can't use the folder; nothing was written: "
                f"{said[-1]}"
            )
        with np.load(output, allow_pickle=False) as stored:
            return dict(stored)


def check_texts(folder: Path, experiment: Path) -> None:
    """Refuse a folder whose texts name a place on this machine.

    Raises
    ------
    WorkError
        Naming file and place.
    """
    places = {str(experiment.resolve()), str(Path.home())} - {"/"}
    # Where a path begins: a relative one may well have a folder "root" in it.
    either = "|".join(map(re.escape, sorted(places)))
    named = re.compile(rf"(?<![\w.~-])(?:{either})(?![\w.-])")
    for path in sorted(folder.iterdir()):
        if path.suffix in _TEXTS:
            found = named.search(path.read_text(encoding="utf-8"))
            if found:
                raise WorkError(
                    f"export: {path.name} would name {found[0]}, a place on this "
                    "machine; nothing was written"
                )
