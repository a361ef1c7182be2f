"""A trained verifier leaves this place twice: as a bundle, and as an export."""

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
from speechbrain_ext.report.results import read_results
from speechbrain_ext.sharing.bundle import pack, unpack, verify
from speechbrain_ext.sharing.export import export
from tests.acceptance.runs import ROOT, VOXCELEB, Claim
from tests.acceptance.speaker import SPLIT_SEEDS, TRAIN_SEEDS
from tests.acceptance.speaker_safety import entry, run_of, run_script

#: Opens the export with stock SpeechBrain alone and embeds each line's file.
STOCK = """
import sys, numpy, torch
sys.modules["speechbrain_ext"] = None  # an import of it fails
from speechbrain.inference.classifiers import EncoderClassifier
model = EncoderClassifier.from_hparams(source=sys.argv[1])
waves = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], numpy.stack([
    model.encode_batch(torch.from_numpy(waves[name])[None])[0, 0].numpy()
    for name in waves.files]))
"""

#: The same by ours, with nothing but the folder.
OURS = """
import sys, numpy
from speechbrain_ext.inference import SpeakerVerifier
model = SpeakerVerifier.from_hparams(sys.argv[1])
waves = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], numpy.stack([
    model.encode(waves[name], 16000) for name in waves.files]))
"""


def sharing() -> dict:
    """Pack, unpack elsewhere, verify, go on there; export, and open it alone."""
    experiment = run_of(SPLIT_SEEDS[0], TRAIN_SEEDS[0])
    data = f"data/debian/split{SPLIT_SEEDS[0]}"
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        moved = there / "somebody" / "else"
        shutil.copytree(experiment, moved / experiment.name)
        packed = [
            pack(source, there / f"{number}.zip")
            for number, source in enumerate((experiment, moved / experiment.name))
        ]
        same = (there / "0.zip").read_bytes() == (there / "1.zip").read_bytes()
        checked = verify(packed[0].path, data=VOXCELEB / data)
        theirs = unpack(packed[0].path, there / "unpacked")
        for script in ("embed", "score"):
            run_script(script, theirs, data)
        before, after = (read_results(e / "results.json") for e in (experiment, theirs))
        edited = edit(packed[0].path, there / "edited.zip")
        claims = [
            Claim("packing twice, also from another place, differs", not same, "<=", 0),
            Claim("checks of verify that fail", len(failed(checked)), "<=", 0),
            Claim("figures differ after unpack, embed, score",
                  before["systems"] != after["systems"], "<=", 0),
            Claim("config hashes differ", hash_of(before) != hash_of(after), "<=", 0),
            Claim("edited results that verify passes", verify(edited).ok, "<=", 0),
            *exported(experiment, there, data),
        ]  # fmt: skip
    return entry(
        "python -m tests.acceptance sharing", claims, checks=checked.lines()[:20]
    )


def exported(experiment: Path, there: Path, data: str) -> list[Claim]:
    """Embed by ours and by stock SpeechBrain in processes that have the folder only."""
    folder = export(experiment, there / "export", log=lambda line: None)
    manifest = read_manifest(VOXCELEB / data / "test.json")
    some = list(manifest.values())[:: max(1, len(manifest) // 60)]
    waves = {one.utt_id: load_audio(one.wav, 16000)[0] for one in some}
    np.savez(there / "waves.npz", **waves)
    found = {}
    for name, code, path in (("stock", STOCK, ""), ("ours", OURS, str(ROOT))):
        words = [str(folder), str(there / "waves.npz"), str(there / f"{name}.npy")]
        subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=there,
            env={**os.environ, "PYTHONPATH": path},
            check=True,
        )
        found[name] = np.load(there / f"{name}.npy")
    apart = np.abs(found["stock"] - found["ours"]).max() / np.abs(found["ours"]).max()
    return [
        Claim("utterances embedded by the export alone", len(some), ">=", 50),
        Claim("1e-6 that stock is from ours, relative", 1e6 * apart, "<=", 1.0),
    ]


def failed(verified) -> list:
    """Checks that do not hold."""
    return [check for check in verified.checks if check.verdict == "FAILED"]


def hash_of(results: dict) -> str:
    """Return the configuration's hash."""
    return results["conditions"]["config_hash"]


def edit(bundle: Path, output: Path) -> Path:
    """Copy a bundle with its best figure made better, digests of the parts left."""
    import zipfile

    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(output, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            if info.filename == "results.json":
                text = content.decode()
                value = json.loads(text)["systems"][-1]["lists"]["main"]["eer"]
                content = re.sub(re.escape(repr(value)), repr(value / 2), text).encode()
            target.writestr(info, content)
    return output
