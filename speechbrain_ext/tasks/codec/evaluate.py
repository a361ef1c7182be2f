"""Score a trained codec on the test files, beside Opus on the same files."""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import Progress

from speechbrain_ext.config import Recipe
from speechbrain_ext.data.audio import save_audio
from speechbrain_ext.data.loader import read_samples
from speechbrain_ext.data.manifest import split_hash
from speechbrain_ext.next_command import tells_own_commands
from speechbrain_ext.report.codec.results import system_folder
from speechbrain_ext.report.results import write_results
from speechbrain_ext.scoring.opus import opus_points
from speechbrain_ext.scoring.signal import (
    METRICS,
    USUAL_METRICS,
    mean_scores,
    score_pair,
)
from speechbrain_ext.scoring.visqol import visqol_is_installed
from speechbrain_ext.tasks.author import tell_author
from speechbrain_ext.tasks.codec.points import (
    PAYLOAD,
    Point,
    makes_files,
    our_points,
)
from speechbrain_ext.tasks.codec.rates import check_rates, check_snrs
from speechbrain_ext.tasks.codec.weights import load_best
from speechbrain_ext.tasks.conditions import (
    data_conditions,
    health,
    model_conditions,
    now,
    own_command,
    trained_recipe,
    utterances_left_out,
)
from speechbrain_ext.tasks.experiment import usable_device
from speechbrain_ext.tasks.packed import load_packed
from speechbrain_ext.tasks.settings import manifest_at


@tells_own_commands
def evaluate(
    experiment: str | Path,
    test_manifest: str | Path,
    *,
    kbps: Sequence[float] | None = None,
    snr: Sequence[float] | None = None,
    device: str | None = None,
    jobs: int | None = None,
) -> dict:
    """Write ``results.json`` and ``reconstructions/`` of a trained codec.

    Arguments
    ---------
    experiment : str or Path
        Folder that `train` wrote; its best checkpoint is taken, by valid SNR or by
        what ``choose_by`` of the recipe says.
    test_manifest : str or Path
        The files to score; no choice was made by them.
    kbps : Sequence[float] or None
        Bitrates to score; None: the recipe's ``eval_kbps``. A codec that has any rate
        is scored at those of Opus too.
    snr : Sequence[float] or None
        Signal-to-noise ratios in dB that a codec of that kind shall hold; None: the
        recipe's ``eval_snr``, if it has any.
    device : str or None
        Where the codec runs; None: on a GPU if there is one.
    jobs : int or None
        Processes that measure; None: one for each core.

    Returns
    -------
    dict
        What was written; see `speechbrain_ext.report.results`.

    Raises
    ------
    UserError
        If there is no trained codec, a bitrate or a ratio is not one of its own, or
        the device is not there.
    ManifestError
        If the manifest or one of its files is missing or changed.
    QuarantineError
        If the experiment's list of utterances in quarantine is broken.
    """
    started = time.monotonic()
    folder = Path(experiment)
    recipe = trained_recipe(folder, "evaluate")
    hparams = recipe.hparams
    sample_rate = hparams["sample_rate"]
    utterances = manifest_at(str(test_manifest), sample_rate)
    left_out = utterances_left_out(recipe, folder)
    device = usable_device(device)
    codec = hparams["modules"]["codec"].to(device).eval()
    save_folder = Path(hparams["save_folder"])
    packed = load_packed(codec, folder, save_folder, "codec")
    meta = packed or load_best(codec, save_folder).meta
    rates = sorted({float(rate) for rate in kbps or hparams["eval_kbps"]})
    check_rates(codec, rates, "kbps")
    snrs = sorted({float(ratio) for ratio in snr or hparams.get("eval_snr") or ()})
    check_snrs(codec, snrs, "snr")

    wavs = {utt_id: read_samples(u) for utt_id, u in utterances.items()}
    with Progress(transient=True) as progress:
        samples = list(wavs.values())
        opus = opus_points(samples, sample_rate)
        if makes_files(codec) and kbps is None:
            # A hair below, never above: bytes are whole.
            rates = sorted({*rates, *(math.floor(100 * o.kbps) / 100 for o in opus)})
        total = len(samples) * (len(rates) + len(snrs))
        task = progress.add_task("reconstruct", total=total)
        candidates = list(
            our_points(
                *(codec, samples, sample_rate),
                **{"rates": rates, "snrs": snrs, "device": device},
                advance=lambda: progress.advance(task),
            )
        )
        candidates += [Point("opus", o.kbps, PAYLOAD, o.wavs) for o in opus]
        task = progress.add_task("measure", total=len(candidates) * len(wavs))
        systems = measure(
            candidates, wavs, sample_rate, jobs, lambda: progress.advance(task)
        )
    write_reconstructions(
        folder / "reconstructions", systems, candidates, wavs, sample_rate
    )
    results = {
        "task": "codec",
        "created": now(),
        "command": own_command(folder, f"python recipes/codec/evaluate.py {folder}"),
        "conditions": conditions(recipe, codec, folder, test_manifest, meta)
        | {"evaluate_seconds": round(time.monotonic() - started, 1)},
        "systems": systems,
        "health": health(folder, Path(test_manifest).parent),
    } | ({"left_out": left_out} if left_out else {})
    tell_author(results, folder, save_folder)
    return write_results(folder / "results.json", results)


def measure(candidates, wavs, sample_rate, jobs, advance) -> list[dict]:
    """Score all files of all candidates in parallel processes."""
    jobs = jobs or os.cpu_count() or 1
    systems = []
    metrics = tuple(METRICS) if visqol_is_installed() else USUAL_METRICS
    # spawn: a fork of a process with torch's threads in it can hang.
    with concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        # Ctrl-C reaches all processes of the terminal; those that are started here
        # inherit that it is blocked, and leave the answer to this one.
        open_signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pending = [
                [
                    pool.submit(score_pair, wav, estimate, sample_rate, metrics)
                    for wav, estimate in zip(wavs.values(), point.wavs, strict=True)
                ]
                for point in candidates
            ]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, open_signals)
        try:
            for point, futures in zip(candidates, pending, strict=True):
                files = []
                for utt_id, future in zip(wavs, futures, strict=True):
                    files.append({"utt_id": utt_id, **future.result()})
                    advance()
                systems.append(
                    {
                        "name": point.name,
                        "kbps": round(float(point.kbps), 3),
                        "rate_kind": point.rate_kind,
                        **point.more,
                        "mean": mean_scores(files),
                        "files": files,
                    }
                )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return systems


def write_reconstructions(folder: Path, systems, candidates, wavs, rate) -> None:
    """Write ``<system>/<utt_id>.wav`` beside the originals, all or nothing."""
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    places = {"reference": wavs.values()}
    for system, point in zip(systems, candidates, strict=True):
        places[system_folder(system)] = point.wavs
    for place, estimates in places.items():
        for utt_id, wav in zip(wavs, estimates, strict=True):
            if np.isfinite(wav).all():
                save_audio(new / place / f"{utt_id}.wav", wav, rate)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def conditions(recipe: Recipe, codec, folder, test_manifest, meta) -> dict:
    """Gather what a reader must know to recompute the table."""
    # What came as a bundle does not know where the data are: beside the test files.
    manifests = [
        path if path.exists() else Path(test_manifest).with_name(path.name)
        for path in (
            Path(recipe.hparams["train_manifest"]),
            Path(recipe.hparams["valid_manifest"]),
        )
    ]
    manifests.append(Path(test_manifest))
    trained = {"epoch": meta["epoch"], "valid_snr_db": meta["snr"]}
    return {
        "data": data_conditions(*manifests),
        "split_hash": split_hash(*manifests),
        **model_conditions(recipe, codec, folder, trained),
        "device": str(next(codec.parameters()).device),
    }
