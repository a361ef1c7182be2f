"""A journal gives back what was delivered, whatever happened to it since."""

import collections
import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_ext.brain.memory.journal import Journal


@dataclass
class Record:
    """A batch of a user's own make."""

    wav: torch.Tensor
    names: list


Pair = collections.namedtuple("Pair", "wav lengths")


def padded(length=5):
    return PaddedBatch(
        [
            {"id": "a", "wav": torch.rand(length), "n": 1},
            {"id": "b", "wav": torch.rand(length + 2), "n": 2},
        ]
    )


BATCHES = {
    "tensor": lambda: torch.rand(3, 4),
    "dict": lambda: {"id": ["a", "b"], "x": torch.rand(2, 5), "n": 3, "none": None},
    "tuple": lambda: (torch.rand(2), [torch.rand(3), "text"], 5.0),
    "named tuple": lambda: Pair(torch.rand(2, 3), torch.ones(2)),
    "padded": padded,
    "record": lambda: Record(torch.rand(2), ["a"]),
    "arrays": lambda: {
        "x": np.random.rand(3, 2),
        "backwards": np.arange(5)[::-1],
        "text": np.array(["a", "bc"]),
        "objects": np.array([{"a": 1}, None], dtype=object),
        "unsigned": np.arange(4, dtype=np.uint16),
    },
    "odd tensors": lambda: [
        torch.zeros(0, 4),
        torch.tensor(3.0),
        torch.rand(4).bool(),
        torch.rand(3, 2).t(),
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(1).expand(7),
        torch.rand(100, 100)[:3, 5:9],
        torch.rand(9)[1:],
        torch.rand(3, dtype=torch.complex128).conj(),
        torch.rand(3).bfloat16(),
        torch.eye(3).to_sparse(),
        torch.tensor([float("nan"), -0.0, float("inf")]),
    ],
    "deque": lambda: collections.deque([torch.rand(2), 1], maxlen=3),
    "empty": lambda: {},
}


def flat(value):
    """All of a batch as plain values; tensors and arrays as their bytes."""
    if isinstance(value, torch.Tensor):
        dense = value.detach().to_dense() if value.is_sparse else value.detach()
        raw = dense.resolve_conj().contiguous().view(-1).view(torch.uint8)
        return [str(value.dtype), tuple(value.shape), raw.numpy().tobytes()]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, repr(value.tolist())]
    if isinstance(value, dict):
        return [type(value), *((key, flat(item)) for key, item in value.items())]
    if isinstance(value, (list, tuple, collections.deque)):
        return [type(value), *map(flat, value)]
    if isinstance(value, (PaddedBatch, Record)):
        return [type(value), flat(vars(value))]
    return value


def spoil(value):
    """Write over every tensor and array in a batch."""
    if isinstance(value, torch.Tensor) and not value.is_sparse:
        if 0 not in value.stride():
            value.detach().zero_()
    elif isinstance(value, np.ndarray) and value.dtype != object:
        value[...] = value[::-1].copy()
    elif isinstance(value, dict):
        for item in list(value.values()):
            spoil(item)
        value.clear()
    elif isinstance(value, (list, tuple, collections.deque)):
        for item in value:
            spoil(item)
        if isinstance(value, list):
            value.append("more")
    elif isinstance(value, (PaddedBatch, Record)):
        for item in vars(value).values():
            spoil(item)


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_comes_back_as_it_was_delivered(name):
    journal = Journal(2**20)
    batches = [BATCHES[name]() for _ in range(3)]
    before = [flat(copy.deepcopy(batch)) for batch in batches]
    for batch in batches:
        assert journal.record(batch)
        spoil(batch)
    assert [flat(batch) for batch in journal] == before
    for batch in journal:
        spoil(batch)  # what is handed out is the caller's own
    assert [flat(batch) for batch in journal] == before
    assert [type(batch) for batch in journal] == [type(b) for b in batches]


def test_a_padded_batch_can_still_be_used():
    batch = padded()
    journal = Journal(2**20)
    journal.record(batch)
    (again,) = journal
    assert again.id == ["a", "b"]
    assert torch.equal(again.wav.data, batch.wav.data)
    assert torch.equal(again.wav.lengths, batch.wav.lengths)
    assert again.to("cpu").at_position(0) == ["a", "b"]


def test_strides_and_the_place_in_a_cache_line_are_kept():
    batch = [torch.rand(4, 6).t(), torch.rand(64)[3:40], torch.rand(8, 10)[:, :8]]
    journal = Journal(2**20)
    journal.record(batch)
    (again,) = journal
    assert [t.stride() for t in again] == [t.stride() for t in batch]
    for before, after in zip(batch, again, strict=True):
        assert before.data_ptr() % 64 // 16 == after.data_ptr() % 64 // 16


def test_one_tensor_in_two_places_stays_one():
    shared = torch.rand(3, requires_grad=True)
    journal = Journal(2**20)
    journal.record({"a": shared, "b": [shared]})
    (again,) = journal
    assert again["a"] is again["b"][0]
    assert again["a"].requires_grad


def test_memory_is_bounded_and_a_batch_too_much_is_refused_whole():
    batch = torch.rand(1000)
    journal = Journal(20_000)
    kept = 0
    while journal.fits(batch):
        assert journal.record(batch)
        kept += 1
    assert 3 <= kept <= 5
    assert not journal.record(batch)
    assert len(journal) == kept
    assert journal.nbytes <= 20_000
    assert not Journal(0).fits(batch)
    with pytest.raises(ValueError, match="max_bytes must be >= 0, got -1"):
        Journal(-1)


def test_memory_is_used_again_for_batches_of_any_length():
    journal = Journal(2**22)
    held = None
    for round_number in range(5):
        for length in torch.randint(1000, 2000, (10,)).tolist():
            assert journal.record({"x": torch.rand(8, length)})
        chunks = [c for cs in journal._chunks.values() for c in cs]
        addresses = [chunk.memory.data_ptr() for chunk in chunks]
        if round_number == 2:
            held = addresses
        journal.clear()
        assert len(journal) == 0
    assert addresses[: len(held)] == held
    assert len(addresses) <= len(held) + 1


def test_the_last_batch_can_be_dropped_and_its_room_is_free_again():
    journal = Journal(2**20)
    journal.record(torch.ones(100))
    for _ in range(200):
        journal.record(torch.zeros(1000))
        journal.drop_last()
    journal.record(torch.full((2,), 2.0))
    assert [batch.tolist()[:2] for batch in journal] == [[1, 1], [2, 2]]
    assert journal.nbytes < 20_000
    journal.drop_last()
    journal.drop_last()
    with pytest.raises(IndexError, match="no batch recorded"):
        journal.drop_last()
