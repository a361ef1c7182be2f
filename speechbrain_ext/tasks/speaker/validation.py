"""How well an encoder does on held-out utterances of the speakers it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import SaveableDataLoader

from speechbrain_ext.data.loader import UtteranceDataset
from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.sampler import generator_for
from speechbrain_ext.scoring.metrics import equal_error_rate

#: Length of the pieces that are compared, in seconds.
PIECE_SECONDS = 3.0
#: More pieces than these are drawn from: all pairs of them are scored.
MAX_PIECES = 1500


class LabelledUtterances(UtteranceDataset):
    """Whole utterances with their speakers, ``{"id": str, "wav": tensor, "spk": int}``.

    Arguments
    ---------
    utterances : Mapping[str, Utterance]
        A manifest.
    speakers : Mapping[str, int]
        spk_id -> class.
    """

    def __init__(self, utterances: Mapping[str, Utterance], speakers):
        super().__init__(utterances)
        self.speakers = speakers

    def __getitem__(self, index: int) -> dict:
        spk_id = self.utterances[index].spk_id
        return {**super().__getitem__(index), "spk": self.speakers[spk_id]}


def valid_loader(
    utterances: Mapping[str, Utterance],
    speakers: Mapping[str, int],
    num_workers: int = 0,
) -> SaveableDataLoader:
    """Whole utterances one by one, so that no padding touches a score."""
    return SaveableDataLoader(
        LabelledUtterances(utterances, speakers),
        batch_size=1,
        collate_fn=PaddedBatch,
        num_workers=num_workers,
    )


def pieces_of(wav: torch.Tensor, piece_samples: int) -> torch.Tensor:
    """Cut an utterance into pieces, one after the other.

    Arguments
    ---------
    wav : torch.Tensor
        Samples, [time].
    piece_samples : int
        Length of a piece; what is left over at the end is not used. A shorter
        utterance is one piece of its own length.

    Returns
    -------
    torch.Tensor
        [pieces, piece_samples], or [1, time].
    """
    count = len(wav) // piece_samples
    if not count:
        return wav[None]
    return wav[: count * piece_samples].view(count, piece_samples)


@dataclass
class ValidScores:
    """What a validation found, utterance by utterance.

    Attributes
    ----------
    vectors : list of numpy.ndarray
        Unit vectors of the pieces of each utterance, float32, [pieces, dim].
    utt_ids, classes : list
        Of each utterance.
    losses, hits : list of float
        Cross-entropy without margin, and whether the class was found (1 or 0).
    """

    vectors: list = field(default_factory=list)
    utt_ids: list = field(default_factory=list)
    classes: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    hits: list = field(default_factory=list)

    def add(self, utt_id, label, vectors, logits) -> float:
        """Note one utterance, and return its loss.

        Arguments
        ---------
        utt_id : str
            The utterance.
        label : int
            Its class.
        vectors : torch.Tensor
            Embeddings of its pieces, [pieces, dim].
        logits : torch.Tensor
            Scaled cosines of the pieces, [pieces, classes].

        Returns
        -------
        float
            NaN if anything is not finite: such an utterance is left out.
        """
        logits = logits.float().mean(dim=0, keepdim=True)
        target = torch.tensor([label], device=logits.device)
        loss = torch.nn.functional.cross_entropy(logits, target).item()
        vectors = torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy()
        if not (math.isfinite(loss) and np.isfinite(vectors).all()):
            return math.nan
        self.utt_ids.append(utt_id)
        self.classes.append(label)
        self.vectors.append(vectors)
        self.losses.append(loss)
        self.hits.append(float(logits.argmax().item() == label))
        return loss

    def stats(self, seed: int) -> dict[str, float]:
        """Return ``loss``, ``accuracy`` and ``eer``; NaN if there is nothing.

        The equal error rate is that of all pairs of pieces, by cosine; NaN where
        these are all of one speaker, or no two of the same.
        """
        if not self.losses:
            return dict.fromkeys(("loss", "accuracy", "eer"), math.nan)
        return {
            "loss": float(np.mean(self.losses)),
            "accuracy": float(np.mean(self.hits)),
            "eer": self._eer(seed),
        }

    def why_no_eer(self) -> str:
        """Say what the utterances lack for an equal error rate; empty: nothing."""
        classes = np.repeat(self.classes, [len(v) for v in self.vectors])
        heard, counts = np.unique(classes, return_counts=True)
        if not heard.size:
            return "no valid utterance has a finite embedding"
        if heard.size == 1:
            return "all valid utterances are of one speaker"
        if counts.max() == 1:
            return "no speaker has two valid utterances"
        return ""

    def _eer(self, seed: int) -> float:
        vectors = np.concatenate(self.vectors)
        counts = [len(v) for v in self.vectors]
        classes = np.repeat(self.classes, counts)
        if len(vectors) > MAX_PIECES:
            names = np.repeat(self.utt_ids, counts)
            draws = [
                generator_for(seed, place, name, "valid pieces").random()
                for place, name in enumerate(names)
            ]
            kept = np.sort(np.argsort(draws)[:MAX_PIECES])
            vectors, classes = vectors[kept], classes[kept]
        first, second = np.triu_indices(len(vectors), k=1)
        labels = classes[first] == classes[second]
        if labels.all() or not labels.any():
            return math.nan
        scores = (vectors @ vectors.T)[first, second]
        return float(equal_error_rate(scores, labels)[0])
