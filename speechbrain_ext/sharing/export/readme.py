"""What the README of an export folder says beside the figures: how to use it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from speechbrain_ext.sharing.card import WEIGHTS_LICENCE
from speechbrain_ext.sharing.front_matter import LICENCE_ID
from speechbrain_ext.tasks.speaker.embedder import MAX_SECONDS

_FILES = {
    "config.json": "what this is, and the SHA-256 of the other files",
    "model.yaml": "builds the model; read by speechbrain_ext through its strict loader",
    "model.safetensors": "its weights",
    "decision.safetensors": "statistics of the backend, and scores of the trials, from "
    "which thresholds for any false alarm rate are taken; no names, no utterances",
    "hyperparams.yaml": "builds the same for stock SpeechBrain",
    "embedding_model.ckpt": "its weights, plain tensors",
    "classifier.ckpt": "a direction for each training speaker, plain tensors",
    "label_encoder.txt": "their names, in the order of the classifier's outputs",
    "features_to_embedding.onnx": "log-mels to embedding, of any batch size and length",
    "features_to_embedding.json": "how to compute its log-mels, and how it was checked",
    "waveform_to_embedding.onnx": "samples to embedding, of any batch size and length",
    "waveform_to_embedding.json": "what it takes, and how it was checked",
}

_CODEC = """\
```python
from speechbrain_ext.inference import SpeechCodec

codec = SpeechCodec.from_hparams("{source}")
codes = codec.encode(wav, sample_rate, kbps={kbps:g})  # int64 [num_quantizers, frames]
speech = codec.decode(codes)  # float32 [time], at codec.sample_rate ({sample_rate} Hz)
```

`wav` is float in [-1, 1], [time], at any sample rate. The first n rows of codes are the
codes of a lower rate; `codec.bitrates` lists all."""

_FILES_OF_CODEC = """\
```python
from speechbrain_ext.inference import SpeechCodec

codec = SpeechCodec.from_hparams("{source}")
data = codec.compress(wav, sample_rate, {aim})  # the bytes of a file
speech, sample_rate = codec.decompress(data)  # float32 [channels, time], as it was
```

`wav` is float in [-1, 1], [time] or [channels, time], at any sample rate; {aims}. From
a terminal:

```
speechbrain-ext encode IN.wav OUT.sbx --model {source}
speechbrain-ext decode OUT.sbx OUT.wav --model {source}
```"""

_SPEAKER = """\
```python
from speechbrain_ext.inference import SpeakerVerifier

verifier = SpeakerVerifier.from_hparams("{source}")
vector = verifier.encode_file("a.wav")  # float32 [{dim}], any format and rate
```"""

_DECIDES = """\
```python
found = verifier.verify_files("a.wav", "b.ogg", far=0.01)
found.score, found.decision, found.threshold
```

`far` is the largest false alarm rate, measured on the trials below; without it, the
threshold is at the equal error rate."""

_UNDECIDED = """\
This model comes without thresholds: choose one on trials of your own."""

_STOCK = """\
With stock SpeechBrain, without this package:

```python
from speechbrain.inference.classifiers import EncoderClassifier

classifier = EncoderClassifier.from_hparams(source="{source}")
embedding = classifier.encode_batch(wav)  # [1, 1, {dim}] or [1, {dim}]
cosines, best, index, name = classifier.classify_batch(wav)
```

`wav` is a tensor [1, time] at {sample_rate} Hz; `cosines` are those to the
{num_speakers} training speakers, not probabilities. Give utterances one by one, or in
batches of equal length: padding moves an embedding. `SpeakerVerifier` repeats what is
shorter than {min_seconds:g} s and embeds what is longer than {max_seconds:g} s in equal
parts; stock SpeechBrain does neither."""


def usage_of_codec(source: str, codec, kbps: Sequence[float]) -> str:
    """Show in Markdown how to use a codec.

    Arguments
    ---------
    source : str
        What ``from_hparams`` takes.
    codec : torch.nn.Module
        `TransformCodec`, `SEANetCodec` or `WaveCodec`.
    kbps : sequence of float
        Rates of which the card tells figures; one of them is the example.
    """
    rates = sorted(kbps)
    parts = []
    if has_codes := hasattr(codec, "quantizer"):
        rates = rates or codec.bitrates
        told = {"kbps": rates[len(rates) // 2], "sample_rate": codec.sample_rate}
        parts.append(_CODEC.format(source=source, **told))
    if hasattr(codec, "compress"):
        aim, aims = "kbps=8", "`kbps` is a rate, `snr` (dB) a fidelity"
        if has_codes:
            aim, aims = "codebooks=1", "`codebooks` is how many of them are sent"
        parts.append(_FILES_OF_CODEC.format(source=source, aim=aim, aims=aims))
    return "\n\n".join(parts)


def usage_of_speaker(
    source: str, encoder, *, decides: bool, num_speakers: int | None
) -> str:
    """Show in Markdown how to use a speaker model.

    Arguments
    ---------
    source : str
        What ``from_hparams`` takes.
    encoder : SpeakerEncoder
        The model.
    decides : bool
        Whether thresholds are there.
    num_speakers : int or None
        Classes of the stock classifier; None: there is no stock part.
    """
    parts = [
        _SPEAKER.format(source=source, dim=encoder.embedding_dim),
        _DECIDES if decides else _UNDECIDED,
    ]
    if num_speakers is not None:
        parts.append(
            _STOCK.format(
                source=source,
                dim=encoder.embedding_dim,
                sample_rate=encoder.sample_rate,
                num_speakers=num_speakers,
                min_seconds=encoder.min_samples / encoder.sample_rate,
                max_seconds=MAX_SECONDS,
            )
        )
    return "\n\n".join(parts)


def usage_of_allowed(allow: Sequence[str]) -> str:
    """Show in Markdown which names have to be allowed to open the folder."""
    names = ", ".join(f'"{name}"' for name in allow)
    return (
        "The model is built from names that the loader refuses unless told: give "
        f"`from_hparams` also `allow=[{names}]`, if you trust them."
    )


def licence_in(folder: Path) -> str | None:
    """Read which licence of its weights an export was given; None if it was none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    before, after = map(re.escape, WEIGHTS_LICENCE.split("{}"))
    found = re.search(f"^{before}({LICENCE_ID}){after}$", text, re.M)
    return found[1] if found else None


def describe_files(folder: Path) -> Sequence[str]:
    """List what lies in a folder, as `render_card` takes it.

    ``config.json`` is listed before it is there: it has the hash of the card.
    """
    present = {"config.json", *(path.name for path in folder.iterdir())}
    return [f"{name}: {what}" for name, what in _FILES.items() if name in present]


#: Every name that an export folder can have.
FILE_NAMES = ("README.md", *_FILES)
