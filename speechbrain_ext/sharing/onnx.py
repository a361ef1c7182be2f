"""A speaker encoder as an ONNX file, checked against torch before it is kept."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.files import atomic_path, sha256_file, write_json
from speechbrain_ext.next_command import tells_own_commands
from speechbrain_ext.sharing.fbank_graph import FbankGraph, describe_features
from speechbrain_ext.sharing.kinds import refuse_kinds
from speechbrain_ext.sharing.place import check_writable
from speechbrain_ext.tasks.speaker.weights import load_encoder

#: What a graph may begin with, and how far it may be from torch: as a difference of any
#: component, or where a component is above 1, in parts of the largest. float32 can't do
#: better than that.
TOLERANCE = {"features": 1e-5, "waveform": 1e-4}

_OPSET = 17

#: Batch sizes and lengths in seconds that are compared with torch; and the shortest.
_CASES = ((1, 1.0), (1, 3.0), (2, 0.3), (3, 2.0), (5, 4.0), (1, 10.0))


class Exported(NamedTuple):
    """What `export_onnx` wrote.

    Attributes
    ----------
    model, settings : Path
        The ONNX file, and how to use it as JSON.
    max_abs_difference : float
        Largest difference between onnxruntime and torch in any component.
    """

    model: Path
    settings: Path
    max_abs_difference: float


@tells_own_commands
def export_onnx(
    experiment: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    source: str = "features",
) -> Exported:
    """Write the encoder of an experiment as ONNX, with dynamic batch and time.

    Arguments
    ---------
    experiment : str or PathLike
        Folder that training wrote.
    output : str or PathLike or None
        Folder for ``<source>_to_embedding.onnx`` and ``.json``; None: ``onnx`` in the
        experiment.
    source : {"features", "waveform"}
        What the graph takes: log-mels as the JSON describes them, or samples.

    Returns
    -------
    Exported

    Raises
    ------
    UserError
        If there is no trained encoder, onnx or onnxruntime is not installed, or the
        features are not of a kind that can be described.
    WorkError
        If onnxruntime's embeddings differ from torch's by more than `TOLERANCE`, or
        are not finite, at any of several batch sizes and lengths; nothing is written.
    """
    if source not in TOLERANCE:
        raise ValueError(f"export: source is one of {list(TOLERANCE)}, got {source!r}")
    _require_packages()
    refuse_kinds("export", experiment, "bundle", "recipe", "file", "export")
    encoder, info = load_encoder(experiment, "cpu")
    features = describe_features(encoder.features)
    folder = Path(output or Path(experiment) / "onnx")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"export: --output {folder} is a file; give a folder")
    check_writable(folder)
    was_there = folder.is_dir()
    model = folder / f"{source}_to_embedding.onnx"
    wrapper = {"features": _FromFeatures, "waveform": _FromWaveform}[source](encoder)
    try:
        with atomic_path(model) as temporary:
            write_graph(wrapper.eval(), temporary)
            # The exporter restores the mode that it found in each module.
            difference = check(wrapper.eval(), temporary, TOLERANCE[source])
            sha256 = sha256_file(temporary)
    except BaseException:
        if not was_there:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    settings = model.with_suffix(".json")
    write_json(
        settings,
        {
            "model": model.name,
            "model_sha256": sha256,
            "checkpoint_sha256": info["sha256"],
            "config_hash": info["recipe"].config_hash,
            "opset": _OPSET,
            "input": wrapper.describe(features["num_mels"]),
            "output": {
                "name": "embedding",
                "type": "float32",
                "shape": ["batch", encoder.embedding_dim],
                "rule": "not normalised; compare by cosine",
            },
            "relative_lengths": "there are none: all rows of a batch are whole and "
            "equally long. Give utterances of another length in another batch; padded "
            "ones would get another embedding, since convolutions look beyond the end",
            "features": features
            | {
                "mean_norm": encoder.mean_norm,
                "mean_norm_rule": "subtract each mel band's mean over the frames of "
                "the utterance, as the last step",
            },
            "checked": {
                "max_abs_difference": difference,
                "tolerance": TOLERANCE[source],
                "tolerance_rule": "times the largest component, where that is above 1",
                "batch_sizes_and_seconds": [list(c) for c in _cases(encoder)],
                "torch": torch.__version__,
                "onnxruntime": importlib.metadata.version("onnxruntime"),
            },
        },
    )
    return Exported(model, settings, difference)


class _FromFeatures(nn.Module):
    """Normalised log-mels to embeddings; all rows are whole."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # Without lengths ECAPA makes ones of its own, of a fixed batch size.
        return self.encoder.encode(features, torch.ones_like(features[:, 0, 0]))

    def inputs(self, wavs: torch.Tensor) -> torch.Tensor:
        return self.encoder.compute_features(wavs)

    def describe(self, num_mels: int) -> dict:
        return {
            "name": "features",
            "type": "float32",
            "shape": ["batch", "frames", num_mels],
            "min_frames": self.encoder.min_frames,
        }


class _FromWaveform(nn.Module):
    """Samples to embeddings, with the feature computation inside."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.fbank = FbankGraph(encoder.features)
        self.inner = _FromFeatures(encoder)

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        features = self.fbank(wavs)
        if self.encoder.mean_norm:
            features = features - features.mean(dim=1, keepdim=True)
        return self.inner(features)

    def inputs(self, wavs: torch.Tensor) -> torch.Tensor:
        return wavs

    def describe(self, num_mels: int) -> dict:
        return {
            "name": "waveform",
            "type": "float32",
            "shape": ["batch", "samples"],
            "min_samples": self.encoder.min_samples,
            "rule": "mono, in [-1, 1], at features.sample_rate; repeat what is shorter "
            "than min_samples",
        }


def write_graph(wrapper: nn.Module, path: Path) -> None:
    """Trace a wrapper at batch size 1 and write the ONNX file.

    A batch of 1 broadcasts where the trace fixes the batch size (SpeechBrain's
    ``length_to_mask`` asks for it by ``len``), so any batch size runs afterwards.
    """
    import onnx

    name = wrapper.describe(0)["name"]
    example = wrapper.inputs(_noise(wrapper, 1, 1.0))
    with torch.no_grad(), _silence():
        torch.onnx.export(
            wrapper,
            (example,),
            str(path),
            input_names=[name],
            output_names=["embedding"],
            dynamic_axes={name: {0: "batch", 1: "time"}, "embedding": {0: "batch"}},
            opset_version=_OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(str(path))


def check(wrapper: nn.Module, path: Path, tolerance: float) -> float:
    """Compare an ONNX file with torch at several batch sizes and lengths.

    Returns
    -------
    float
        Largest absolute difference of a component.

    Raises
    ------
    WorkError
        If it is above ``tolerance``, or anything is not finite.
    """
    run = _runner(path)
    worst = 0.0
    for batch, seconds in _cases(wrapper.encoder):
        given = wrapper.inputs(_noise(wrapper, batch, seconds))
        with torch.no_grad():
            expected = wrapper(given).numpy()
        try:
            found = run(given.numpy())
        except Exception as error:  # onnxruntime has a dozen types of its own
            raise WorkError(
                f"export: onnxruntime can't run a batch of {batch} with {seconds} s; "
                f"nothing was written: {error}"
            ) from error
        if found.shape != expected.shape:
            raise WorkError(
                f"export: a batch of {batch} with {seconds} s gives shape "
                f"{list(found.shape)}, torch {list(expected.shape)}; nothing was "
                "written"
            )
        difference = float(np.abs(found - expected).max())
        allowed = tolerance * max(1.0, float(np.abs(expected).max()))
        # Not >: a NaN must fail.
        if not difference <= allowed:
            raise WorkError(
                f"export: onnxruntime and torch differ by {difference:.3g} for a batch "
                f"of {batch} with {seconds} s; at most {allowed:.3g} is allowed, and "
                "nothing was written"
            )
        worst = max(worst, difference)
    return worst


def _cases(encoder: nn.Module) -> tuple[tuple[int, float], ...]:
    return (2, encoder.min_samples / encoder.sample_rate), *_CASES


def _runner(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda given: session.run(None, {name: given})[0]


def _noise(wrapper: nn.Module, batch: int, seconds: float) -> torch.Tensor:
    """Make something with the dynamics of speech: noise in bursts, [batch, time]."""
    generator = torch.Generator().manual_seed(batch)
    count = round(seconds * wrapper.encoder.sample_rate)
    noise = torch.randn(batch, count, generator=generator)
    bursts = torch.linspace(0, 20 * seconds, count).sin().clamp(min=0.01)
    return 0.1 * noise * bursts


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's warnings away: the check answers what they ask."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _require_packages() -> None:
    missing = []
    for package in ("onnx", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise UserError(
            f"export: {' and '.join(missing)} not installed; install with: "
            "pip install onnx onnxruntime"
        )
