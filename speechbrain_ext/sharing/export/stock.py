"""What stock SpeechBrain needs to open a speaker model: ``EncoderClassifier``.

``hyperparams.yaml`` names classes of SpeechBrain only. Labels stand in it, because a
Pretrainer finds what has another suffix than ``.ckpt`` by its whole path only, and a
folder that is moved or uploaded has none; ``label_encoder.txt`` says the same for
people and other programs.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from speechbrain.dataio.encoder import CategoricalEncoder

from speechbrain_ext.files import atomic_path, write_text
from speechbrain_ext.losses.aam import AAMSoftmax, unit_rows
from speechbrain_ext.models.speaker import SpeakerEncoder
from speechbrain_ext.sharing.export.cut import cut, targets

HYPERPARAMS = "hyperparams.yaml"
EMBEDDING = "embedding_model.ckpt"
CLASSIFIER = "classifier.ckpt"
LABELS = "label_encoder.txt"

_STOCK = ("speechbrain.", "torch.")

_REST = """\
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
  norm_type: sentence
  std_norm: false
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
  input_size: {dim}
  out_neurons: {num_speakers}
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
  sample_rate: {sample_rate}
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder {{}}
__labels: !apply:speechbrain.dataio.encoder.CategoricalEncoder.update_from_iterable
- !ref <label_encoder>
- {labels}
__num_labels: !apply:speechbrain.dataio.encoder.CategoricalEncoder.expect_len
- !ref <label_encoder>
- {num_speakers}
modules:
  compute_features: !ref <compute_features>
  mean_var_norm: !ref <mean_var_norm>
  embedding_model: !ref <embedding_model>
  classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables:
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
"""

_HEAD = """\
# For stock SpeechBrain, which needs nothing else:
#   from speechbrain.inference.classifiers import EncoderClassifier
#   EncoderClassifier.from_hparams(source="this folder")
# The classifier's outputs are cosines to the training speakers.
"""


class NotStockError(Exception):
    """The model can't be said in stock classes; the text says why."""


def write_stock(
    folder: Path,
    resolved: str,
    encoder: SpeakerEncoder,
    classifier: AAMSoftmax,
    speakers: list[str],
) -> None:
    """Write the four files.

    Arguments
    ---------
    folder : Path
        Where to.
    resolved : str
        The experiment's recipe.
    encoder : SpeakerEncoder
        With its weights.
    classifier : AAMSoftmax
        With its weights; classes of slower and faster speakers are left out: nobody
        is one of them.
    speakers : list of str
        In the order of their classes.

    Raises
    ------
    NotStockError
        If stock classes can't say it; nothing was written then.
    """
    text = _hyperparams(resolved, encoder, classifier, speakers)
    count = len(speakers)
    weight = unit_rows(classifier.weight.detach()[:count], classifier.min_norm)
    _save(folder / EMBEDDING, encoder.encoder.state_dict())
    _save(folder / CLASSIFIER, {"weight": weight})
    labels = CategoricalEncoder()
    labels.update_from_iterable(speakers)
    labels.expect_len(count)
    with atomic_path(folder / LABELS) as draft:
        labels.save(draft)
    write_text(folder / HYPERPARAMS, text)


def _hyperparams(resolved, encoder, classifier, speakers) -> str:
    if not isinstance(encoder, SpeakerEncoder):
        raise NotStockError(f"the encoder is {type(encoder).__name__}")
    if not encoder.mean_norm:
        raise NotStockError(
            "mean_norm is off, and EncoderClassifier always normalises features"
        )
    if not isinstance(classifier, AAMSoftmax):
        raise NotStockError(f"the classifier is {type(classifier).__name__}")
    if classifier.sub_centers > 1:
        raise NotStockError(
            f"a class has {classifier.sub_centers} sub-centers; SpeechBrain's "
            "Classifier knows one"
        )
    # HyperPyYAML makes tuples of such texts, quoted or not.
    odd = [name for name in speakers if name[:1] == "(" and name[-1:] == ")"]
    if odd:
        raise NotStockError(f"HyperPyYAML can't say the label {odd[0]!r}")
    path = "modules.encoder"
    text = cut(
        resolved,
        {
            "compute_features": f"{path}.features",
            "embedding_model": f"{path}.encoder",
        },
    )
    foreign = [name for name in targets(text) if not name.startswith(_STOCK)]
    if foreign:
        raise NotStockError(f"{', '.join(foreign)} is none of SpeechBrain's classes")
    return f"{_HEAD}{text}" + _REST.format(
        dim=encoder.embedding_dim,
        num_speakers=len(speakers),
        sample_rate=encoder.sample_rate,
        # JSON's quoted texts are YAML's, whatever is in them.
        labels=json.dumps(speakers, ensure_ascii=False),
    )


def _save(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write plain tensors, so that ``torch.load(weights_only=True)`` takes them."""
    plain = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    buffer = io.BytesIO()  # into a file, torch would write the file's name as well
    torch.save(plain, buffer)
    with atomic_path(path) as draft:
        draft.write_bytes(buffer.getvalue())
