"""A trained model leaves this place twice: as a bundle, and as an export."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from speechbrain_ext.data.audio import load_audio
from speechbrain_ext.data.manifest import read_manifest
from speechbrain_ext.inference import SpeechCodec
from speechbrain_ext.report.results import read_results
from speechbrain_ext.sharing.bundle import pack, unpack, verify
from speechbrain_ext.sharing.export import export
from speechbrain_ext.tasks.codec.weights import load_codec
from tests.acceptance.runs import ROOT, TELUGU, VOXCELEB, Claim
from tests.acceptance.speaker import SPLIT_SEEDS, TRAIN_SEEDS
from tests.acceptance.speaker_safety import entry, run_of, run_script

#: Opens the export with stock SpeechBrain alone and embeds each line's file.
STOCK = """
import sys, numpy, torch
sys.modules["speechbrain_ext"] = None  # an import of it fails
from speechbrain.inference.classifiers import EncoderClassifier
model = EncoderClassifier.from_hparams(source=sys.argv[1])
waves = numpy.load(sys.argv[2])
numpy.save(open(sys.argv[3], "wb"), numpy.stack([
    model.encode_batch(torch.from_numpy(waves[name])[None])[0, 0].numpy()
    for name in waves.files]))
"""

#: The same by ours, with nothing but the folder.
OURS = """
import sys, numpy
from speechbrain_ext.inference import SpeakerVerifier
model = SpeakerVerifier.from_hparams(sys.argv[1])
waves = numpy.load(sys.argv[2])
numpy.save(open(sys.argv[3], "wb"), numpy.stack([
    model.encode(waves[name], 16000) for name in waves.files]))
"""


#: A codec from nothing but the folder: codes and samples of each wave.
CODEC = """
import sys, numpy
from speechbrain_ext.inference import SpeechCodec
codec = SpeechCodec.from_hparams(sys.argv[1])
waves = numpy.load(sys.argv[2])
found = {}
for name in waves.files:
    found[name + ".codes"] = codec.encode(waves[name], codec.sample_rate)
    found[name + ".wav"] = codec.reconstruct(waves[name], codec.sample_rate)
numpy.savez(open(sys.argv[3], "wb"), **found)
"""


def sharing() -> dict:
    """Pack, unpack elsewhere, verify, go on there; export, and open it alone."""
    experiment = run_of(SPLIT_SEEDS[0], TRAIN_SEEDS[0])
    data = f"data/debian/split{SPLIT_SEEDS[0]}"
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        bundle, checked, claims = bundled(
            experiment, there, VOXCELEB / data, ("lists", "main", "eer")
        )
        theirs = unpack(bundle, there / "unpacked")
        for script in ("embed", "score"):
            run_script(script, theirs, data)
        before, after = (read_results(e / "results.json") for e in (experiment, theirs))
        claims += [
            Claim("figures differ after unpack, embed, score",
                  before["systems"] != after["systems"], "<=", 0),
            Claim("config hashes differ", hash_of(before) != hash_of(after), "<=", 0),
            *exported(experiment, there, data),
        ]  # fmt: skip
    return entry(
        "python -m tests.acceptance sharing", claims, checks=checked.lines()[:20]
    )


def sharing_codec() -> dict:
    """Pack and verify a codec; export it, and open it alone."""
    experiment = TELUGU / "exp" / "festival"
    if not (experiment / "results.json").exists():
        sys.exit(f"{experiment}: not there: python -m tests.acceptance codec_festival")
    data = TELUGU / "data" / "festival"
    codec, _ = load_codec(experiment, "cpu", stage="acceptance")
    here = SpeechCodec(codec)
    waves = {
        one.utt_id: load_audio(one.wav, here.sample_rate)[0]
        for one in read_manifest(data / "test.json").values()
    }
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        _, checked, claims = bundled(experiment, there, data, ("mean", "snr_db"))
        alone = open_alone(experiment, there, waves, {"ours": (CODEC, str(ROOT))})
        found = np.load(alone["ours"])
        codes = [here.encode(wav, here.sample_rate) for wav in waves.values()]
        wavs = [here.reconstruct(wav, here.sample_rate) for wav in waves.values()]
        other = sum(
            not np.array_equal(found[f"{name}.codes"], mine)
            for name, mine in zip(waves, codes, strict=True)
        )
        apart = max(
            np.abs(found[f"{name}.wav"] - mine).max() / np.abs(mine).max()
            for name, mine in zip(waves, wavs, strict=True)
        )
    claims += [
        Claim("files coded by the export alone", len(waves), ">=", 12),
        Claim("files whose codes differ", other, "<=", 0),
        Claim("1e-6 that samples differ, relative", 1e6 * apart, "<=", 1.0),
    ]
    return entry(
        "python -m tests.acceptance sharing_codec", claims, checks=checked.lines()[:20]
    )


def bundled(experiment: Path, there: Path, data: Path, figure: tuple[str, ...]):
    """Pack from two places, verify with the audio, edit a figure; bundle and claims.

    Arguments
    ---------
    experiment, there, data : Path
        What is packed, where to, and the manifests of its corpus.
    figure : tuple of str
        Where in the last system's entry the figure is that is edited.
    """
    moved = there / "somebody" / "else" / experiment.name
    shutil.copytree(experiment, moved)
    packed = [
        pack(source, there / f"{number}.zip").path
        for number, source in enumerate((experiment, moved))
    ]
    differs = packed[0].read_bytes() != packed[1].read_bytes()
    checked = verify(packed[0], data=data)
    edited = edit(packed[0], there / "edited.zip", figure)
    return packed[0], checked, [
        Claim("packing twice, also from another place, differs", differs, "<=", 0),
        Claim("checks of verify that fail", len(failed(checked)), "<=", 0),
        Claim("edited results that verify passes", verify(edited).ok, "<=", 0),
    ]  # fmt: skip


def exported(experiment: Path, there: Path, data: str) -> list[Claim]:
    """Embed by ours and by stock SpeechBrain in processes that have the folder only."""
    manifest = read_manifest(VOXCELEB / data / "test.json")
    some = list(manifest.values())[:: max(1, len(manifest) // 60)]
    waves = {one.utt_id: load_audio(one.wav, 16000)[0] for one in some}
    codes = {"stock": (STOCK, ""), "ours": (OURS, str(ROOT))}
    alone = open_alone(experiment, there, waves, codes)
    found = {name: np.load(path) for name, path in alone.items()}
    apart = np.abs(found["stock"] - found["ours"]).max() / np.abs(found["ours"]).max()
    return [
        Claim("utterances embedded by the export alone", len(some), ">=", 50),
        Claim("1e-6 that stock is from ours, relative", 1e6 * apart, "<=", 1.0),
    ]


def open_alone(
    experiment: Path, there: Path, waves: dict, codes: dict[str, tuple[str, str]]
) -> dict[str, Path]:
    """Export, and run code in processes that have the folder and some waves only.

    ``codes`` holds name -> (code, PYTHONPATH); the code is given the folder, the waves
    and a file to write, which are returned.
    """
    folder = export(experiment, there / "export", log=lambda line: None)
    np.savez(there / "waves.npz", **waves)
    written = {name: there / f"{name}.np" for name in codes}
    for name, (code, path) in codes.items():
        words = [str(folder), str(there / "waves.npz"), str(written[name])]
        subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=there,
            env={**os.environ, "PYTHONPATH": path},
            check=True,
        )
    return written


def failed(verified) -> list:
    """Checks that do not hold."""
    return [check for check in verified.checks if check.verdict == "FAILED"]


def hash_of(results: dict) -> str:
    """Return the configuration's hash."""
    return results["conditions"]["config_hash"]


def edit(bundle: Path, output: Path, figure: tuple[str, ...]) -> Path:
    """Copy a bundle with a figure changed, digests of the parts left."""
    import zipfile

    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(output, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            if info.filename == "results.json":
                text = content.decode()
                value = json.loads(text)["systems"][-1]
                for key in figure:
                    value = value[key]
                content = re.sub(re.escape(repr(value)), repr(value / 2), text).encode()
            target.writestr(info, content)
    return output
