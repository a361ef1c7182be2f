"""From an experiment to a folder for inference: written, tried out, then kept."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from speechbrain_ext import __version__
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import (
    atomic_folder,
    read_json,
    sha256_file,
    write_json,
    write_text,
)
from speechbrain_ext.inference import SpeakerVerifier, SpeechCodec
from speechbrain_ext.inference.folder import (
    CONFIG,
    DECISION,
    FORMAT,
    MODEL,
    RECIPE,
    WEIGHTS,
)
from speechbrain_ext.next_command import tells_own_commands
from speechbrain_ext.report.results import read_results
from speechbrain_ext.sharing.card import render_card
from speechbrain_ext.sharing.export import hub as hub_of
from speechbrain_ext.sharing.export import readme, smoke
from speechbrain_ext.sharing.export.cut import cut
from speechbrain_ext.sharing.export.outputs import compute
from speechbrain_ext.sharing.export.stock import NotStockError, write_stock
from speechbrain_ext.sharing.front_matter import hub_licence
from speechbrain_ext.sharing.kinds import refuse_kinds
from speechbrain_ext.sharing.onnx import export_onnx
from speechbrain_ext.sharing.place import check_writable
from speechbrain_ext.sharing.weights import write_weights
from speechbrain_ext.tasks.codec.weights import load_codec
from speechbrain_ext.tasks.experiment import versions
from speechbrain_ext.tasks.speaker.decision import BACKENDS, Decision
from speechbrain_ext.tasks.speaker.decision_state import decision_state
from speechbrain_ext.tasks.speaker.embedder import Embedder
from speechbrain_ext.tasks.speaker.trained_classifier import load_classifier
from speechbrain_ext.tasks.speaker.weights import load_encoder

#: Packages that have to do with what a loaded model computes.
_PACKAGES = ("python", "speechbrain-ext", "speechbrain", "torch", "torchaudio")

_RECIPE_HEAD = """\
# What builds the model, cut out of the recipe that it was trained with. Read by
# speechbrain_ext.inference through its strict loader; the weights lie beside it.
"""


@dataclass
class _Job:
    """What is being exported, and what there is to say of it.

    Attributes
    ----------
    experiment, draft : Path
        Where from, and where to until it is whole.
    results : dict
        Of ``results.json``.
    source : str
        What the card says to type.
    config : dict
        Grows to ``config.json``.
    expected : dict
        Grows to what the folder has to compute.
    """

    experiment: Path
    draft: Path
    results: dict[str, Any]
    source: str
    log: Callable[[str], None]
    config: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, Any] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


@tells_own_commands
def export(
    experiment: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    hub: str | None = None,
    public: bool = False,
    stock: bool = False,
    onnx: str | None = None,
    allow: Sequence[str] = (),
    weights_licence: str | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Write an inference folder; it is tried out in a process of its own before.

    Arguments
    ---------
    experiment : str or PathLike
        Trained and scored; see `speechbrain_ext.report.results`.
    output : str or PathLike or None
        Folder to write, or an earlier export to replace; None: ``export`` in the
        experiment.
    hub : str or None
        ``user/repo`` on the Hugging Face Hub to upload the folder to; None: nowhere.
    public : bool
        See `hub.push`.
    stock : bool
        Refuse a speaker model that stock SpeechBrain can't open, instead of leaving
        that part out.
    onnx : {"features", "waveform", "none"} or None
        What the ONNX file of a speaker model takes; None: features, if the packages are
        installed.
    allow : sequence of str
        Names that the model's recipe builds beyond the list of `load_recipe`; whoever
        opens the folder has to allow them, too.
    weights_licence : str or None
        Of what is shared, as the Hub names it; None: the card has that of the data.
    log : Callable
        Gets one line of text at a time.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UserError
        If there is no scored experiment, its figures are of other weights, or
        ``output`` holds something else.
    WorkError
        If the folder does not compute what the experiment does; nothing is written.
    """
    experiment = Path(experiment)
    refuse_kinds("export", experiment, "bundle", "recipe", "file", "export")
    place = Path(output or experiment / "export")
    if weights_licence is not None:
        weights_licence = hub_licence(weights_licence)
    check_place(place)
    results = _results_of(experiment)
    if weights_licence is None and (kept := readme.licence_in(place)):
        weights_licence = kept
        log(
            f"export: the weights stay under {kept}, as the export that is replaced "
            "says; another one: --license ID"
        )
    if hub is not None:
        hub_of.check_target(hub, results if weights_licence is None else None)
    name = hub.split("/")[1] if hub else experiment.resolve().name
    with atomic_folder(place) as draft:
        job = _Job(experiment, draft, results, hub or place.resolve().name, log)
        write = {"codec": _write_codec, "speaker": _write_speaker}[results["task"]]
        usage = write(job, stock=stock, onnx=onnx)
        if allow:
            usage += "\n\n" + readme.usage_of_allowed(allow)
        card = render_card(
            results,
            name=name,
            files=readme.describe_files(draft),
            usage=usage,
            weights_licence=weights_licence,
            weights_sha256=sha256_file(draft / WEIGHTS),
        )
        write_text(draft / "README.md", card)
        files = sorted(path for path in draft.iterdir())
        job.config["files"] = {path.name: sha256_file(path) for path in files}
        write_json(draft / CONFIG, job.config)
        smoke.check_texts(draft, experiment)
        rate = job.config["sample_rate"]
        worst = smoke.check_folder(
            draft, job.words, job.expected, smoke.signals_of(rate), rate, allow
        )
        listed = [(path.name, path.stat().st_size) for path in sorted(draft.iterdir())]
    log(f"export: {place}")
    log(f"  digest {sha256_file(place / CONFIG)} (of {CONFIG}, which has all hashes)")
    for file, size in listed:
        log(f"  {size / 1e3:10,.1f} kB  {file}")
    told = " and in stock SpeechBrain" if "stock" in job.words else ""
    log(
        f"  in a new process{told} its outputs differ from the experiment's by at most "
        f"{worst:.1e}"
    )
    if weights_licence is None:
        log(
            "  the card names the licence of the data; if the weights have another: "
            "--license ID"
        )
    if hub is not None:
        hub_of.push(place, hub, public=public, listed=True, log=log)
    return place


def check_place(place: Path) -> None:
    """Refuse a folder that can't be made, or that holds something of others.

    Raises
    ------
    UserError
        With the reason of the operating system, where there is one.
    """
    if place.exists() and not place.is_dir():
        raise UserError(f"export: --output {place} is a file; give a folder")
    check_writable(place)
    if place.is_dir() and (other := _other_than_export(place)):
        raise UserError(
            f"export: --output {place} holds something else than an earlier export "
            f"({other}); it is not written over\n  Next: give another folder, or "
            "remove it"
        )


def _other_than_export(place: Path) -> str | None:
    """Name what would be lost if a folder were replaced; None if that is an export.

    Models of other programs have a ``config.json``, too, and a clone of a repository
    has its history.
    """
    names = sorted(path.name for path in place.iterdir())
    ours = not names or read_json(place / CONFIG).get("format") == FORMAT
    known = readme.FILE_NAMES if ours else ()
    return next((name for name in names if name not in known), None)


def _results_of(experiment: Path) -> dict[str, Any]:
    if not (experiment / "hyperparams.yaml").exists():
        raise UserError(
            f"export: {experiment} is no experiment (no hyperparams.yaml in it); train "
            "first: ./run.sh --stage train"
        )
    path = experiment / "results.json"
    if not path.exists():
        raise UserError(
            f"export: {experiment} has no results.json, and a model is shared with its "
            "figures\n  Next: ./run.sh --stage score (speakers) or ./run.sh --stage "
            "evaluate (codecs); or the ONNX file alone: --format onnx"
        )
    return read_results(path)


def _write_model(job: _Job, model: torch.nn.Module, info: Mapping, path: str) -> None:
    """Write recipe and weights of the model; ``path`` is where it is in the recipe."""
    text = cut(info["recipe"].resolved_yaml, {MODEL: path})
    write_text(job.draft / RECIPE, _RECIPE_HEAD + text)
    write_weights(job.draft / WEIGHTS, model.state_dict())
    found = {"speechbrain-ext": __version__, **versions()}
    job.config |= {
        "format": FORMAT,
        "task": job.results["task"],
        "model": type(model).__name__,
        "sample_rate": model.sample_rate,
        "parameters": sum(p.numel() for p in model.parameters()),
        "checkpoint_sha256": info["sha256"],
        "config_hash": info["recipe"].config_hash,
        "results_digest": job.results.get("digest"),
        "versions": {name: found[name] for name in _PACKAGES if name in found},
    }


def _refuse_other_weights(job: _Job, info: Mapping, known: Mapping, stage: str) -> None:
    """Refuse if the figures' conditions, where they say it, are not these."""
    told = job.results["conditions"]
    known = {"config_hash": info["recipe"].config_hash, **known}
    if all(told.get(key) in (None, value) for key, value in known.items()):
        return
    raise UserError(
        f"export: the figures in {job.experiment / 'results.json'} are of other "
        "weights than its best checkpoint now\n  Next: ./run.sh --stage "
        f"{stage} --force"
    )


# -- codec ---------------------------------------------------------------------------


def _write_codec(job: _Job, *, stock: bool, onnx: str | None) -> str:
    asked = "--stock" if stock else "--onnx_from" if onnx not in (None, "none") else ""
    if asked:
        raise UserError(f"export: {asked} is for speaker models, and this is a codec")
    codec, info = load_codec(job.experiment, stage="export")
    known = {key: info[key] for key in ("epoch", "valid_snr_db")}
    _refuse_other_weights(job, info, known, "evaluate")
    _write_model(job, codec, info, "modules.codec")
    signals = smoke.signals_of(codec.sample_rate)
    job.expected |= compute(SpeechCodec(codec), signals, codec.sample_rate)
    job.words = ["codec"]
    ours = (s for s in job.results["systems"] if s["name"] == "ours")
    return readme.usage_of_codec(job.source, codec, [s["kbps"] for s in ours])


# -- speaker -------------------------------------------------------------------------


def _write_speaker(job: _Job, *, stock: bool, onnx: str | None) -> str:
    encoder, info = load_encoder(job.experiment, "cpu")
    known = {"checkpoint": info["sha256"][:16]}
    _refuse_other_weights(job, info, known, "embed")
    _write_model(job, encoder, info, "modules.encoder")
    job.config["decision"] = _write_decision(job, info["sha256"])
    signals = smoke.signals_of(encoder.sample_rate)
    embedder = Embedder(encoder, encoder.sample_rate, info["sha256"])
    verifiers = [
        SpeakerVerifier(embedder, Decision(job.experiment, info["sha256"], backend))
        for backend in BACKENDS
    ]
    job.expected |= compute(verifiers, signals, encoder.sample_rate)
    num_speakers = _write_stock(job, encoder, info, required=stock)
    job.words.append("speaker")
    _write_onnx(job, onnx)
    return readme.usage_of_speaker(
        job.source,
        encoder,
        decides=job.config["decision"] is not None,
        num_speakers=num_speakers,
    )


def _write_decision(job: _Job, checkpoint: str) -> dict[str, Any]:
    state, tensors = decision_state(job.experiment, checkpoint)
    write_weights(job.draft / DECISION, tensors)
    return state


def _write_stock(job: _Job, encoder, info: Mapping, *, required: bool) -> int | None:
    """Write what stock SpeechBrain needs; returns the number of its classes."""
    try:
        try:
            classifier, speakers = load_classifier(job.experiment, info)
        except UserError as error:
            raise NotStockError(str(error)) from error
        write_stock(
            job.draft, info["recipe"].resolved_yaml, encoder, classifier, speakers
        )
    except NotStockError as error:
        if required:
            raise UserError(
                f"export: --stock: stock SpeechBrain can't open this model: {error}"
            ) from error
        job.log(f"export: without what stock SpeechBrain needs: {error}")
        return None
    job.expected |= smoke.expected_of_stock(job.expected, classifier, speakers)
    job.words.append("stock")
    return len(speakers)


def _write_onnx(job: _Job, source: str | None) -> None:
    if source == "none":
        return
    if source is not None:
        export_onnx(job.experiment, job.draft, source=source)
        return
    packages = ("onnx", "onnxruntime")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        job.log(
            f"export: without ONNX: {' and '.join(missing)} not installed (pip install "
            "'speechbrain-ext[onnx]')"
        )
        return
    try:
        export_onnx(job.experiment, job.draft)
    except UserError as error:
        job.log(f"export: without ONNX: {error}")
