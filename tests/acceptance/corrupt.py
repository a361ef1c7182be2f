"""Thousands of damaged files: none crashes, hangs, or decodes to something else.

Files are decoded in a process of its own, whose memory is bounded, and which the system
kills where one file takes too long; then the next process goes on behind that file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from tests.acceptance.runs import ROOT, Claim
from tests.codec.signals import speech
from tests.coding.damage import DECODED, REFUSED, damage, forge, judge
from tests.sharing import toy_experiments

#: Damaged files, and those with a checksum made to fit, of each file of each model.
DAMAGED, FORGED = 160, 100
#: A file of half a second may take so long to be refused, and so much memory.
LIMIT_SECONDS, LIMIT_BYTES = 20, 6 << 30
MODELS = {
    "wave": toy_experiments.WAVE,
    "transform": toy_experiments.TRANSFORM,
    "seanet": toy_experiments.SEANET,
}


def corrupt() -> dict:
    """Damage files of all kinds of models, decode them, and count what went wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found: Counter[str] = Counter()
        faults: list[str] = []
        worst = {"seconds": 0.0, "bytes": 0}
        kinds = []
        for name, text in MODELS.items():
            experiment = toy_experiments.codec_experiment(folder / name, text)
            if not _code(experiment, folder / f"{name}.npz"):
                continue
            kinds.append(name)
            _try_all(experiment, folder / f"{name}.npz", found, faults, worst)
        threads = _threads(folder / "wave", folder)
        interrupted = _interrupted(folder / "wave", folder)
    claims = [
        Claim("damaged files tried", found["damaged"], ">=", 1000),
        Claim("damaged files that were refused", found["damaged refused"], ">=", 1000),
        Claim("forged files tried", found["forged"], ">=", 400),
        Claim("files that did anything but decode or be refused", len(faults), "<=", 0),
        Claim("seconds of the slowest file", worst["seconds"], "<=", LIMIT_SECONDS),
        Claim("GB of memory at most", worst["bytes"] / 1e9, "<=", 1.5),
        Claim("ways to decode that gave other samples", threads, "<=", 0),
        Claim("half files after Ctrl-C", interrupted, "<=", 0),
    ]
    return {
        "command": "python -m tests.acceptance corrupt",
        "claims": [claim.entry() for claim in claims],
        "models": kinds,
        "ways": dict(sorted(found.items())),
        "faults": faults[:50],
    }


def _code(experiment: Path, output: Path) -> bool:
    """Code some recordings with a model; False if it has no files."""
    from speechbrain_ext.coding.work import default_aim
    from speechbrain_ext.inference import SpeechCodec

    codec = SpeechCodec.from_hparams(experiment, device="cpu")
    if not codec.has_files:
        return False
    one, two = speech(0.5), np.stack([speech(0.3, 1), speech(0.3, 2)])
    aims = [default_aim(codec)]
    aims.append({"codebooks": 1} if codec.has_codes else {"snr": 25})
    recordings = [(one, 16000), (two, 44100), (np.zeros(4000), 8000)]
    files = [codec.compress(*r, **aim) for aim in aims for r in recordings]
    np.savez(output, *(np.frombuffer(data, np.uint8) for data in files))
    return True


def _try_all(experiment, files, found, faults, worst) -> None:
    with np.load(files) as stored:
        total = len(stored.files) * (DAMAGED + FORGED)
    first = 0
    while first < total:
        words = [sys.executable, "-m", "tests.acceptance.corrupt", experiment, files]
        done = subprocess.run(
            [*words, str(first)], cwd=ROOT, capture_output=True, text=True
        )
        for line in done.stdout.splitlines():
            one = json.loads(line)
            first = one["index"] + 1
            kind = "forged" if one["forged"] else "damaged"
            found[kind] += 1
            found[f"{kind} {one['how']}"] += 1
            good = one["ended"] in (REFUSED, DECODED)
            found[f"{kind} {one['ended'] if good else 'otherwise'}"] += 1
            worst["seconds"] = max(worst["seconds"], one["seconds"])
            worst["bytes"] = max(worst["bytes"], one["bytes"])
            if not good:
                faults.append(f"{files.stem} {one['index']}: {one['ended']}")
        if done.returncode:
            said = done.stderr.strip().splitlines() or [""]
            ended = f"process ended with {done.returncode}: {said[-1]}"
            faults.append(f"{files.stem} {first}: {ended}")
            first += 1


def _child(experiment: str, files: str, first: int) -> None:
    """Decode damaged files from a number on; prints a line for each."""
    from speechbrain_ext.inference import SpeechCodec

    codec = SpeechCodec.from_hparams(experiment, device="cpu").codec
    with np.load(files) as stored:
        originals = [stored[name].tobytes() for name in stored.files]
    for data in originals:
        codec.decompress(data)  # compiles what is compiled
    size = int(Path("/proc/self/statm").read_text().split()[0])
    most = size * resource.getpagesize() + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends compiled code, too
    for index in range(first, len(originals) * (DAMAGED + FORGED)):
        which, number = divmod(index, DAMAGED + FORGED)
        original, rng = originals[which], np.random.default_rng(index)
        one = (damage if number < DAMAGED else forge)(original, rng)
        signal.alarm(LIMIT_SECONDS)
        started = time.monotonic()
        ended = judge(codec, one, original)
        took = time.monotonic() - started
        signal.alarm(0)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun
        entry = {
            "index": index,
            "how": one.how,
            "forged": one.forged,
            "ended": ended,
            "seconds": round(took, 4),
            "bytes": grown * 1024,
        }
        print(json.dumps(entry), flush=True)


# -- by command ----------------------------------------------------------------------


def _command(*words, threads: int = 1, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "speechbrain_ext", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        **options,
    )


def _threads(experiment: Path, folder: Path) -> int:
    """Code with one thread; count the ways to decode that give other samples."""
    for number in range(3):
        wave = np.stack([speech(0.7, number), speech(0.7, number + 9)], axis=1)
        (folder / "in").mkdir(exist_ok=True)
        soundfile.write(folder / "in" / f"{number}.wav", wave, 16000 + 3025 * number)
    model = ("--model", experiment)
    for name, aim in (("ear", ("--kbps", 10)), ("true", ("--snr", 30))):
        out = folder / "coded" / name
        _command("encode", folder / "in", out, *model, *aim).wait()
    digests = []
    for way, (threads, nj) in enumerate([(1, 1), (2, 1), (2, 2)]):
        out = folder / f"way{way}"
        words = ("decode", folder / "coded", out, *model, "--bits", "24", "--nj", nj)
        _command(*words, threads=threads).wait()
        found = sorted(out.rglob("*.wav"))
        assert len(found) == 6, found
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in found])
    return sum(found != digests[0] for found in digests)


def _interrupted(experiment: Path, folder: Path) -> int:
    """Press Ctrl-C in the middle of many files; count what is not whole then."""
    from speechbrain_ext.codec.container import read_coded
    from speechbrain_ext.errors import UserError

    source, wrong = folder / "many", 0
    source.mkdir()
    for number in range(40):
        soundfile.write(source / f"{number}.wav", speech(6.0, number), 16000)
    for nj in (1, 2):
        out = folder / f"out{nj}"
        words = ("encode", source, out, "--model", experiment, "--nj", nj)
        process = _command(
            *words,
            start_new_session=True,
            stderr=subprocess.PIPE,
            # A shell's background job ignores Ctrl-C, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while len(list(out.glob("*.sbx"))) < 5 and process.poll() is None:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        told = process.communicate()[1].decode()
        wrong += process.returncode != 130 or "with --skip_existing goes on" not in told
        there = list(out.iterdir())
        wrong += len(there) == 40
        for path in there:
            try:
                read_coded(path.read_bytes())
            except UserError:
                wrong += 1
        wrong += _command(*words, "--skip_existing").wait()
        wrong += len(list(out.iterdir())) != 40
    return wrong


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2], int(sys.argv[3]))
