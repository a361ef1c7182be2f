"""Search what a wave codec hears with, on the train files of its experiments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechbrain_ext.codec.settings import WaveSettings
from speechbrain_ext.codec.tuning import SearchState, Trial, search_settings
from speechbrain_ext.data.loader import read_samples
from speechbrain_ext.data.sampler import generator_for
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import write_json, write_text
from speechbrain_ext.models.wave_codec import WaveCodec
from speechbrain_ext.scoring.signal import (
    NotMeasured,
    log_spectral_distance_db,
    pesq_wb,
)
from speechbrain_ext.tasks.codec.rates import check_rates
from speechbrain_ext.tasks.codec.weights import load_codec
from speechbrain_ext.tasks.settings import manifest_at

#: Seconds of a signal to listen to: PESQ needs some, and more takes its time.
_LENGTHS = (1.5, 6.0)
_DIGITS = 3
_PREFIX = "codec.settings."


def tune(
    experiments: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    evaluations: int = 100,
    num_files: int = 8,
    kbps: Sequence[float] = (7.5, 12.0),
    lsd_weight: float = 0.1,
    start: str | Path | None = None,
    seed: int = 1,
    restart: bool = False,
) -> Path:
    """Write a preset with settings that sound better at the same rates.

    Better is a higher PESQ-WB less ``lsd_weight`` per dB of log-spectral distance:
    PESQ alone ends with less and less of the faint high frequencies.

    Goes on where an earlier search for the same preset stopped. Nothing in the
    experiments changes; train again with the preset.

    Arguments
    ---------
    experiments : sequence of str or Path
        Trained with a `WaveCodec`; several are searched for one common preset.
    output : str or Path or None
        The preset; None: ``tuned.yaml`` in the first experiment.
    evaluations : int
        Settings to try.
    num_files : int
        Train files of each experiment to listen to.
    kbps : sequence of float
        Rates, in turns.
    lsd_weight : float
        In PESQ per dB.
    start : str or Path or None
        A preset of an earlier search to start from; None: the first experiment's
        settings.
    seed : int
        Of files and steps.
    restart : bool
        Forget an earlier search.

    Returns
    -------
    Path
        The preset.

    Raises
    ------
    UserError
        If an experiment has no wave codec, PESQ is missing, no file is of a length
        that can be listened to, a rate is none, or ``start`` is no such preset.
    """
    if not kbps:
        raise UserError("tune: --kbps: names no rate")
    folders = [Path(experiment) for experiment in experiments]
    output = Path(output) if output else folders[0] / "tuned.yaml"
    _need_pesq()
    corpora = [_corpus(folder, num_files, kbps, seed) for folder in folders]
    asked = {
        "experiments": [str(folder) for folder in folders],
        "weights": [digest for _, _, digest in corpora],
        "num_files": num_files,
        "kbps": list(kbps),
        "lsd_weight": lsd_weight,
        "seed": seed,
    }
    if start is not None:
        first = corpora[0][0]
        first.settings = _read_preset(Path(start), first.settings)
        asked["start"] = first.settings.vector().tolist()
    state_file = output.with_suffix(".state.json")
    state = None if restart else _earlier(state_file, asked)
    if state is not None:  # a preset may be lost, or older than its search
        _write_preset(output, corpora[0][0].settings, state)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            done = state.number if state else 0
            task = progress.add_task("search", total=evaluations, completed=done)

            def tell(trial: Trial) -> None:
                write_json(state_file, {"asked": asked, "state": asdict(trial.state)})
                if trial.kept:
                    _write_preset(output, corpora[0][0].settings, trial.state)
                    progress.console.print(
                        f"{trial.number:5d}: {trial.score:.3f}", highlight=False
                    )
                progress.update(task, completed=trial.number)

            search_settings(
                [(coder, waves) for coder, waves, _ in corpora],
                lambda one, other: _liking(one, other, lsd_weight),
                **{"kbps": kbps, "evaluations": evaluations, "seed": seed},
                **{"state": state, "tell": tell},
            )
    finally:
        torch.set_num_threads(threads)
    return output


def _need_pesq() -> None:
    try:
        import pesq  # noqa: F401
    except ImportError:
        raise UserError(
            "tune: PESQ is what is searched by, and it is not installed; it needs gcc "
            "and Python headers: make setup"
        ) from None


def _corpus(folder: Path, num_files: int, kbps: Sequence[float], seed: int):
    """Return the coder of an experiment, some of its train files, and its digest."""
    codec, info = load_codec(folder, stage="tune")
    if not isinstance(codec, WaveCodec):
        raise UserError(
            f"tune: {folder} holds a {type(codec).__name__}; what is searched are the "
            "settings of a WaveCodec: train one with --recipe codec/wave"
        )
    check_rates(codec, kbps, "kbps")
    hparams = info["recipe"].hparams
    utterances = manifest_at(str(hparams["train_manifest"]), codec.sample_rate)
    low, high = _LENGTHS
    fitting = [u for u in utterances.values() if low <= u.duration <= high]
    if not fitting:
        raise UserError(
            f"tune: no file in {hparams['train_manifest']} lasts between {low} and "
            f"{high} seconds; PESQ needs one"
        )
    order = generator_for(seed, 0, "tune").permutation(len(fitting))
    waves = [read_samples(fitting[index]) for index in order[:num_files]]
    return codec.perceptual, waves, info["sha256"]


def _earlier(path: Path, asked: dict) -> SearchState | None:
    """Return where a search for the same stopped; None if there was none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        before, state = found["asked"], SearchState(**found["state"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    other = [name for name in asked | before if before.get(name) != asked.get(name)]
    if not other:
        return state
    raise UserError(
        f"tune: {path} is of a search with other {', '.join(other)}: "
        + "; ".join(f"{name} {before.get(name)}" for name in other)
        + "\n  Next: the same options, --restart to forget it, or another --output"
    )


def _liking(reference: np.ndarray, estimate: np.ndarray, lsd_weight: float) -> float:
    """PESQ-WB, less what the log-spectral distance costs; NaN where there is none."""
    try:
        distance = log_spectral_distance_db(reference, estimate)
        return pesq_wb(reference, estimate) - lsd_weight * distance
    except NotMeasured:
        return float("nan")


def _read_preset(path: Path, settings: WaveSettings) -> WaveSettings:
    """Return settings with what a preset of `_write_preset` says."""
    try:
        found = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        values = {name.removeprefix(_PREFIX): value for name, value in found.items()}
        return replace(settings, **values)
    except (OSError, ValueError, TypeError, AttributeError, YAMLError) as error:
        raise UserError(
            f"tune: --start {path}: is no preset of an earlier search: {error}"
        ) from error


def _write_preset(path: Path, settings, state: SearchState) -> None:
    found = settings.with_vector(np.array(state.vector))
    lines = [
        f"# Searched by recipes/codec/tune.py on train files: {state.score:.3f} "
        f"after {state.number} trials.",
        *_preset_lines(found),
    ]
    write_text(path, "\n".join(lines) + "\n")


def _preset_lines(settings) -> Iterator[str]:
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, tuple):
            yield f"{_PREFIX}{field.name}: {[round(x, _DIGITS) for x in value]}"
        elif not isinstance(value, bool):
            yield f"{_PREFIX}{field.name}: {round(value, _DIGITS)}"
