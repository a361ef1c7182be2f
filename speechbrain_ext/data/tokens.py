"""Tokens of a codec, for a language model of speech to learn from.

::

    train = TokenDataset("exp/mine", "train")
    blocks = TokenBlocks(train, block_size=256)
    loader = DataLoader(blocks, batch_size=16, shuffle=True)
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from speechbrain_ext.codec.pieces import TokenError
from speechbrain_ext.codec.tokens import CodeTokenizer
from speechbrain_ext.data.sampler import generator_for
from speechbrain_ext.data.token_files import (
    LINES,
    MODEL,
    TokenLine,
    read_folder,
    read_lines,
)


class TokenDataset(Dataset):
    """Utterances as tokens, with begin and end.

    Items are dicts ``{"id": str, "tokens": int64 tensor [time]}``; `collate` makes a
    batch of them, and so does SpeechBrain's ``PaddedBatch``, since padding is 0.

    Arguments
    ---------
    source : str or PathLike
        An experiment after its stage tokenize, or the folder ``tokens`` in it.
    split : str
        train, valid or test.
    bos, eos : bool
        Whether begin and end stand around each utterance.

    Attributes
    ----------
    tokenizer : CodeTokenizer
        With ``vocab_size``, ``pad_id``, ``bos_id`` and ``eos_id``.
    record : dict
        What ``tokens.json`` holds: the model, the figures.

    Raises
    ------
    TokenError
        If there are no tokens, or none of this split, or they were changed.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        split: str = "train",
        *,
        bos: bool = True,
        eos: bool = True,
    ):
        folder, self.record = read_folder(source)
        self.tokenizer = CodeTokenizer.load(folder / MODEL, self.record["tokenizer"])
        self.split = split
        self._before = [self.tokenizer.bos_id] * bos
        self._behind = [self.tokenizer.eos_id] * eos
        self._lines: list[TokenLine] = []
        self._tokens: list[np.ndarray] = []
        splits = set()
        for line in read_lines(folder / LINES, self.record["tokens_sha256"]):
            splits.add(line.split)
            if line.split == split:
                # As a list they would take eight times as much.
                self._tokens.append(np.array(line.tokens, np.int32))
                line.tokens.clear()
                self._lines.append(line)
        if not self._lines:
            raise TokenError(
                f"{folder}: there are no tokens of '{split}', but of "
                f"{', '.join(sorted(splits)) or 'nothing'}"
            )

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict:
        return {
            "id": self._lines[index].utt_id,
            "tokens": torch.from_numpy(self.sequence(index)),
        }

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, the special ones included."""
        return self.tokenizer.vocab_size

    def facts(self, index: int) -> TokenLine:
        """Return what is known of an utterance beside its tokens."""
        return self._lines[index]

    def sequence(self, index: int) -> np.ndarray:
        """Tokens of an utterance with begin and end, int64 [time]."""
        parts = [self._before, self._tokens[index], self._behind]
        return np.concatenate([np.asarray(part, np.int64) for part in parts])

    def collate(self, items: Sequence[dict]) -> dict:
        """Pad items to a batch.

        Returns
        -------
        dict
            ``id`` (list of str), ``tokens`` (int64 [batch, time], filled up with
            ``pad_id``) and ``lengths`` (int64 [batch], in tokens).
        """
        lengths = [len(item["tokens"]) for item in items]
        shape = len(items), max(lengths)
        tokens = torch.full(shape, self.tokenizer.pad_id, dtype=torch.int64)
        for row, item in zip(tokens, items, strict=True):
            row[: len(item["tokens"])] = item["tokens"]
        return {
            "id": [item["id"] for item in items],
            "tokens": tokens,
            "lengths": torch.tensor(lengths),
        }

    def decode(
        self, tokens: Sequence[int] | np.ndarray | torch.Tensor, *, repair: bool = False
    ) -> np.ndarray:
        """Turn tokens into codes, see `CodeTokenizer.decode`.

        Arguments
        ---------
        tokens : sequence of int
            Of one utterance, [time].
        repair : bool
            For what a language model made up.

        Returns
        -------
        np.ndarray
            int64, [num_codebooks, num_frames].
        """
        if isinstance(tokens, torch.Tensor):
            tokens = tokens.cpu().numpy()
        return self.tokenizer.decode(tokens, repair=repair)

    def to_wav(
        self, tokens, codec, length: int | None = None, *, repair: bool = False
    ) -> np.ndarray:
        """Turn tokens into a waveform.

        Arguments
        ---------
        tokens, repair
            As `decode` takes them.
        codec : SpeechCodec
            Of the experiment that the tokens are from:
            ``SpeechCodec.from_hparams("exp/mine")``.
        length : int or None
            Samples wanted, such as ``facts(index).num_samples``; None: as many as the
            frames hold.

        Returns
        -------
        np.ndarray
            float32, [time], at the codec's ``sample_rate``; empty if there is no frame.

        Raises
        ------
        TokenError
            If the tokens are of another codec.
        """
        self._check_codec(codec)
        codes = self.decode(tokens, repair=repair)
        if not codes.size:
            return np.zeros(0, np.float32)
        return codec.decode(codes, length=length)

    def _check_codec(self, codec) -> None:
        """Refuse a codec that the tokens are not of, as far as it can be told."""
        module = getattr(codec, "codec", codec)
        model = self.record["model"]
        mine = {
            "name": type(module).__name__,
            "sample_rate": module.sample_rate,
            "hop_samples": module.hop_samples,
            "codebook_size": module.quantizer.codebook_size,
        }
        told = {**model, "codebook_size": self.tokenizer.codebook_size}
        wrong = [key for key, value in mine.items() if told.get(key) != value]
        if not wrong and model.get("digest") and hasattr(module, "digest"):
            mine["digest"] = module.digest().hex()
            wrong = ["digest"] * (mine["digest"] != model["digest"])
        if wrong:
            key = wrong[0]
            raise TokenError(
                f"TokenDataset: the tokens are of another codec: {key} "
                f"{told.get(key)}, this one has {mine[key]}; take that of their "
                "experiment, or make them again: ./run.sh --stage tokenize --force"
            )


class TokenBlocks(Dataset):
    """All utterances one behind the other, cut into blocks of equal length.

    No token is lost: what follows the last whole block is filled up with ``pad_id``.
    The order of the utterances is drawn for each epoch (`set_epoch`), from nothing but
    seed, epoch and names. A block may hold the end of one utterance and the beginning
    of the next; begin and end tell them apart.

    Items are dicts of int64 tensors [block_size]: ``input``, and ``target``, which is
    one token ahead. The loss is ``cross_entropy(..., ignore_index=pad_id)``.

    Arguments
    ---------
    dataset : TokenDataset
        What to cut.
    block_size : int
        Tokens in a block (>= 1).
    seed : int
        Draws the order.
    shuffle : bool
        False: always in the order of the dataset.

    Raises
    ------
    ValueError
        If ``block_size`` is less than 1.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        block_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
    ):
        if block_size < 1:
            raise ValueError(f"TokenBlocks: block_size must be >= 1, got {block_size}")
        self.dataset = dataset
        self.block_size = block_size
        self.seed = seed
        self.shuffle = shuffle
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch."""
        order = range(len(self.dataset))
        if self.shuffle:
            names = [self.dataset.facts(index).utt_id for index in order]
            order = sorted(
                order,
                key=lambda i: generator_for(
                    self.seed, epoch, names[i], "tokens"
                ).random(),
            )
        stream = np.concatenate([self.dataset.sequence(index) for index in order])
        # One more than the blocks hold: the last target.
        size = self.block_size
        number = max(1, -(-(len(stream) - 1) // size))
        padded = np.full(number * size + 1, self.dataset.tokenizer.pad_id, np.int64)
        padded[: len(stream)] = stream
        self._stream = torch.from_numpy(padded)

    def __len__(self) -> int:
        return (len(self._stream) - 1) // self.block_size

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.block_size
        block = self._stream[start : start + self.block_size + 1]
        return {"input": block[:-1], "target": block[1:]}
