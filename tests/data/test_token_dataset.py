"""Tokens for a language model: padded, packed, decoded, and learned from."""

import json
import math

import numpy as np
import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch
from torch import nn
from torch.utils.data import DataLoader

from speechbrain_ext.codec.pieces import TokenError
from speechbrain_ext.codec.token_figures import count_tokens, entropy_bits
from speechbrain_ext.codec.tokens import CodeTokenizer
from speechbrain_ext.data.token_files import (
    LINES,
    MODEL,
    RECORD,
    TokenLine,
    load_tokenizer,
    write_lines,
)
from speechbrain_ext.data.tokens import TokenBlocks, TokenDataset
from speechbrain_ext.inference import SpeechCodec
from speechbrain_ext.models import TransformCodec
from speechbrain_ext.quantization import ResidualVectorQuantizer

SIZE, HOP = 16, 160


@pytest.fixture(scope="module")
def codes():
    """Codes in which what comes next follows from what was: a walk over the codes."""
    rng = np.random.default_rng(0)
    found = []
    for length in (90, 41, 1, 120, 77, 60):
        steps = rng.choice([0, 1, 1, 3], (2, length))
        found.append(np.cumsum(steps, axis=1) % SIZE)
    return found


@pytest.fixture(scope="module")
def folder(codes, tmp_path_factory):
    """What the stage tokenize leaves, of a codec of two codebooks."""
    folder = tmp_path_factory.mktemp("exp") / "tokens"
    folder.mkdir()
    tokenizer = CodeTokenizer.train(codes, codebook_size=SIZE, vocab_size=64)
    tokenizer.save(folder / MODEL)
    lines = [
        TokenLine(
            f"utt{index}",
            "valid" if index == 5 else "train",
            "anna",
            one.shape[1] * HOP / 16000,
            max(1, (one.shape[1] - 1) * HOP - 7),
            one.size,
            tokenizer.encode(one).tolist(),
        )
        for index, one in enumerate(codes)
    ]
    record = {
        "tokenizer": tokenizer.facts(),
        "tokens_sha256": write_lines(folder / LINES, lines),
        "model": {"name": "TransformCodec", "sample_rate": 16000, "hop_samples": HOP},
    }
    (folder / RECORD).write_text(json.dumps(record))
    return folder


def test_items_are_utterances_between_begin_and_end(folder, codes):
    dataset = TokenDataset(folder.parent, "train")
    assert len(dataset) == 5
    item = dataset[1]
    assert item["id"] == "utt1"
    assert item["tokens"].dtype == torch.int64
    assert item["tokens"][[0, -1]].tolist() == [1, 2]
    assert np.array_equal(dataset.decode(item["tokens"]), codes[1])
    bare = TokenDataset(folder, "train", bos=False, eos=False)
    assert torch.equal(bare[1]["tokens"], item["tokens"][1:-1])
    assert dataset.facts(1).spk_id == "anna"
    assert load_tokenizer(folder.parent).digest == dataset.tokenizer.digest


def test_batches_are_padded_as_speechbrain_pads_them(folder, codes):
    dataset = TokenDataset(folder, "train")
    items = [dataset[index] for index in (0, 2, 4)]
    batch = dataset.collate(items)
    stock = PaddedBatch(items)
    assert torch.equal(batch["tokens"], stock.tokens.data)
    longest = batch["tokens"].shape[1]
    assert torch.allclose(batch["lengths"] / longest, stock.tokens.lengths)
    assert batch["id"] == ["utt0", "utt2", "utt4"]
    for row, index in zip(batch["tokens"], (0, 2, 4), strict=True):
        assert np.array_equal(dataset.decode(row), codes[index])


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_blocks_hold_every_token_once_and_its_target_is_the_next(folder, size):
    dataset = TokenDataset(folder, "train")
    blocks = TokenBlocks(dataset, size, shuffle=False)
    items = [blocks[index] for index in range(len(blocks))]
    joined = torch.cat([dataset[i]["tokens"] for i in range(len(dataset))])
    found = torch.cat([item["input"] for item in items])
    target = torch.cat([item["target"] for item in items])
    assert all(item["input"].shape == (size,) for item in items)
    kept = found[: len(joined) - 1]
    assert torch.equal(kept, joined[:-1])
    assert torch.equal(target[target != 0], joined[1:])
    assert (target == 0).sum() < size


def test_the_order_follows_from_seed_and_epoch_alone(folder):
    dataset = TokenDataset(folder, "train")
    one, two = TokenBlocks(dataset, 32, seed=1), TokenBlocks(dataset, 32, seed=1)
    first = torch.stack([block["input"] for block in one])
    one.set_epoch(3)
    assert not torch.equal(first, torch.stack([block["input"] for block in one]))
    two.set_epoch(3)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a["input"], b["input"])
    one.set_epoch(0)
    assert torch.equal(first, torch.stack([block["input"] for block in one]))


def test_a_small_language_model_learns_more_than_frequencies(folder):
    dataset = TokenDataset(folder, "train")
    loader = DataLoader(TokenBlocks(dataset, 16), batch_size=4, shuffle=True)
    torch.manual_seed(0)
    embedding = nn.Embedding(dataset.vocab_size, 32)
    network = nn.GRU(32, 64, batch_first=True)
    head = nn.Linear(64, dataset.vocab_size)
    parameters = [*embedding.parameters(), *network.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-2)
    for epoch in range(6):
        loader.dataset.set_epoch(epoch)
        losses = []
        for batch in loader:
            logits = head(network(embedding(batch["input"]))[0])
            loss = nn.functional.cross_entropy(
                logits.transpose(1, 2),
                batch["target"],
                ignore_index=dataset.tokenizer.pad_id,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    sequences = [dataset.sequence(index) for index in range(len(dataset))]
    entropy = entropy_bits(count_tokens(sequences, dataset.vocab_size))
    assert sum(losses) / len(losses) / math.log(2) < 0.8 * entropy


def test_tokens_become_the_codecs_own_waveform(folder, codes):
    torch.manual_seed(0)
    rvq = ResidualVectorQuantizer(8, num_quantizers=4, codebook_size=SIZE)
    codec = SpeechCodec(TransformCodec(rvq, hop_samples=HOP, width=8).eval())
    codec.codec.initialize([torch.randn(4000)])
    dataset = TokenDataset(folder, "train")
    length = dataset.facts(3).num_samples
    wav = dataset.to_wav(dataset[3]["tokens"], codec, length)
    assert wav.shape == (length,)
    assert np.array_equal(wav, codec.decode(codes[3], length))
    assert dataset.to_wav([1, 2], codec, repair=True).shape == (0,)
    dataset.record["model"]["hop_samples"] = 320
    with pytest.raises(TokenError, match="another codec: hop_samples 320, .* has 160"):
        dataset.to_wav(dataset[3]["tokens"], codec)
    dataset.record["model"] |= {"hop_samples": HOP, "digest": "ab"}
    codec.codec.digest = lambda: b"\xcd"
    with pytest.raises(TokenError, match="digest ab, this one has cd"):
        dataset.to_wav(dataset[3]["tokens"], codec)


def test_what_is_not_there_or_changed_is_told(folder, tmp_path):
    with pytest.raises(TokenError, match="no tokens.json.*--stage tokenize"):
        TokenDataset(tmp_path, "train")
    with pytest.raises(TokenError, match="no tokens of 'test', but of train, valid"):
        TokenDataset(folder, "test")
    for name in (MODEL, RECORD):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    lines = (folder / LINES).read_bytes()
    for changed in (
        lines[:-1],
        lines[: len(lines) // 2],
        lines.replace(b"anna", b"eva"),
    ):
        (tmp_path / LINES).write_bytes(changed)
        with pytest.raises(TokenError, match=r"changed or cut off|can't be read"):
            TokenDataset(tmp_path, "train")
    (tmp_path / RECORD).write_text('{"skipped": "WaveCodec has no codes"}')
    with pytest.raises(TokenError, match="no tokens: WaveCodec has no codes"):
        TokenDataset(tmp_path, "train")
    with pytest.raises(ValueError, match="block_size must be >= 1, got 0"):
        TokenBlocks(TokenDataset(folder), 0)
