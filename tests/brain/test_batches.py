"""Rows of a batch can be taken out as if the others had never been collated."""

import threading
from collections import OrderedDict, namedtuple
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_ext.brain.batches import copy_batch, select_rows, utterance_ids


def same(a, b):
    """Bit for bit the same batch: kinds, dtypes, shapes, NaN and signs included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, PaddedBatch):
        return same(vars(a), vars(b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def example(index, draw, bad):
    length = draw(st.integers(0 if index else 1, 40))
    wav = torch.linspace(-1, 1, 40)[:length] * (index + 1)
    return {
        "id": f"utt{index}",
        "wav": torch.full_like(wav, torch.nan) if bad else wav,
        "features": torch.randn(draw(st.integers(1, 5)), 3, dtype=torch.float64),
        "tokens": np.arange(draw(st.integers(1, 6))),
        "spk": index,
        "snr": 0.5 * index,
        "text": "word " * index,
        "words": ["word"] * draw(st.integers(0, 3)),
        "embedding": torch.ones(draw(st.integers(2, 3))) * index,
        "meta": {"path": f"{index}.wav"},
    }


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_padded_batch_is_what_collating_the_rest_gives(data):
    rows = data.draw(st.integers(1, 5))
    keep = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, unique=True))
    examples = [example(row, data.draw, row not in keep) for row in range(rows)]
    options = data.draw(
        st.sampled_from(
            [
                {},
                {"padding_kwargs": {"value": -100}},
                {"padded_keys": ["wav", "features", "tokens"]},
            ]
        )
    )
    rest = [examples[row] for row in keep]
    if len(rest) > 1 and not max(len(one["wav"]) for one in rest):
        return  # stock divides by zero
    batch = PaddedBatch(examples, **options)
    before = copy_batch(batch)
    assert same(select_rows(batch, keep), PaddedBatch(rest, **options))
    assert same(batch, before)


@pytest.mark.parametrize("stack", [True, False])
def test_lists_are_stacked_as_the_collate_function_would(stack):
    examples = [
        {"id": "a", "label": 1, "x": torch.ones(2)},
        {"id": "b", "label": 2, "x": torch.ones(3)},
        {"id": "c", "label": 3, "x": torch.zeros(3)},
    ]
    options = {"padded_keys": [], "nonpadded_stack": stack}
    rest = select_rows(PaddedBatch(examples, **options), [1, 2])
    assert same(rest, PaddedBatch(examples[1:], **options))
    assert isinstance(rest.x, torch.Tensor) == stack


def test_a_second_cut_is_exact_too_and_moving_still_works():
    examples = [{"wav": torch.randn(n), "id": str(n)} for n in (31, 17, 7, 3)]
    once = select_rows(PaddedBatch(examples), [1, 2, 3])
    twice = select_rows(once, [1, 2])
    assert same(twice, PaddedBatch(examples[2:]))
    assert twice.to(dtype=torch.float64).wav.data.dtype == torch.float64


def left_padded(tensors):
    longest = max(map(len, tensors))
    padded = [torch.cat([t.new_zeros(longest - len(t)), t]) for t in tensors]
    return torch.stack(padded), torch.tensor([len(t) / longest for t in tensors])


def test_padding_that_is_not_at_the_end_stays_as_it_was():
    examples = [{"wav": torch.rand(n) + 0.1} for n in (9, 4, 3)]
    batch = PaddedBatch(examples, padding_func=left_padded)
    rest = select_rows(batch, [1, 2])
    assert same(rest.wav.data, batch.wav.data[1:])
    assert same(rest.wav.lengths, batch.wav.lengths[1:])


def test_lengths_too_coarse_to_count_samples_keep_their_padding():
    batch = PaddedBatch([{"wav": torch.ones(n)} for n in (9000, 4001, 3)])
    batch.to(dtype=torch.half)
    rest = select_rows(batch, [1, 2])
    assert rest.wav.data.shape == (2, 9000)
    assert same(rest.wav.lengths, batch.wav.lengths[1:])


Pair = namedtuple("Pair", ["wav", "label"])
WAV, LABEL = torch.arange(12.0).reshape(4, 3), torch.arange(4)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (WAV, WAV[[0, 3]]),
        ((WAV, LABEL), (WAV[[0, 3]], LABEL[[0, 3]])),
        ([WAV, LABEL, 7, None], [WAV[[0, 3]], LABEL[[0, 3]], 7, None]),
        (Pair(WAV, LABEL), Pair(WAV[[0, 3]], LABEL[[0, 3]])),
        (WAV.numpy(), WAV.numpy()[[0, 3]]),
        (
            OrderedDict(id=list("abcd"), wav=WAV, rate=torch.tensor(16000)),
            OrderedDict(id=["a", "d"], wav=WAV[[0, 3]], rate=torch.tensor(16000)),
        ),
        (
            {"utt_id": tuple("abcd"), "x": {"wav": WAV}, "window": torch.ones(7)},
            {"utt_id": ("a", "d"), "x": {"wav": WAV[[0, 3]]}, "window": torch.ones(7)},
        ),
        (
            {"id": list("abcd"), "views": [WAV, -WAV], "names": ["x", "y"]},
            {
                "id": ["a", "d"],
                "views": [WAV[[0, 3]], -WAV[[0, 3]]],
                "names": ["x", "y"],
            },
        ),
        (
            {"id": list("abcd"), "ragged": [torch.ones(n) for n in (1, 2, 3, 5)]},
            {"id": ["a", "d"], "ragged": [torch.ones(1), torch.ones(5)]},
        ),
        (
            {"id": np.array(list("abcd")), "wav": WAV},
            {"id": np.array(["a", "d"]), "wav": WAV[[0, 3]]},
        ),
        (MappingProxyType({"wav": WAV}), {"wav": WAV[[0, 3]]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_batches_lose_only_rows(batch, expected):
    assert same(select_rows(batch, [0, 3]), expected)


@pytest.mark.parametrize(
    "batch",
    [
        {"wav": WAV, "window": torch.ones(7)},  # which size counts utterances?
        {"id": ["a", "b"], "views": [torch.ones(2, 3), torch.ones(2, 3)]},
        {"id": list("abc"), "wav": torch.ones(50, 3)},  # time first
        {"id": list("ab"), "wav": torch.ones(9), "lengths": torch.tensor([4, 5])},
        {"id": list("abcd"), "wav": WAV.to_sparse()},
        ({"wav": WAV}, {"wav": WAV}),
        {"rate": 16000},
        "text",
        None,
        threading.Lock(),
        torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_where_rows_can_not_be_told_it_says_so(batch):
    assert select_rows(batch, [0]) is None


def test_rows_that_are_not_there_are_refused():
    for keep in ([], [4], [-1]):
        with pytest.raises(ValueError, match="rows from 0 to 3"):
            select_rows(WAV, keep)


def test_all_rows_are_a_copy():
    assert same(select_rows(WAV, range(4)), WAV)
    assert select_rows(WAV, range(4)).data_ptr() != WAV.data_ptr()
    one = {"id": ["a"], "wav": torch.ones(50, 1)}  # time first, but nothing to cut
    assert same(select_rows(one, [0]), one)


@pytest.mark.parametrize(
    "make",
    [
        lambda wav: PaddedBatch([{"id": "a", "wav": wav, "n": 1, "t": ["x"]}] * 2),
        lambda wav: {"id": ["a"], "wav": wav, "nested": [(wav + 1, {"x": wav + 2})]},
        lambda wav: (wav, wav.numpy().copy(), "text", 3, None),
        lambda wav: Pair(wav, np.array(["a", {"x": 1}], dtype=object)),
        lambda wav: torch.nn.utils.rnn.pack_sequence([wav, wav[:2]]),
    ],
)
def test_a_copy_is_equal_and_shares_nothing(make):
    batch, reference = make(torch.arange(4.0)), make(torch.arange(4.0))
    copied = copy_batch(batch)
    assert same(copied, reference)
    destroy(batch)
    assert same(copied, reference)


def destroy(item):
    """Overwrite all that can be written to, in place."""
    if isinstance(item, torch.Tensor):
        item.fill_(9)
    elif isinstance(item, np.ndarray):
        item[...] = 9
    elif isinstance(item, PaddedBatch):
        destroy([getattr(item, key) for key in ("id", "wav", "n", "t")])
    elif isinstance(item, dict):
        destroy(list(item.values()))
        item.clear()
    elif isinstance(item, (tuple, list)):
        for part in item:
            destroy(part)
        if isinstance(item, list):
            item.clear()


def test_a_copy_of_a_view_does_not_bring_the_whole_storage():
    view = torch.zeros(1_000_000)[:4]
    copied = copy_batch([view, view])
    assert copied[0].untyped_storage().nbytes() == 16
    assert copied[0] is copied[1]


def test_a_copy_keeps_strides_and_gradients_and_what_can_not_be_copied():
    lock = threading.Lock()
    batch = {
        "x": torch.ones(2, 3).t(),
        "w": torch.ones(2, requires_grad=True),
        "l": lock,
    }
    copied = copy_batch(batch)
    assert copied["x"].stride() == (1, 3)
    assert copied["w"].requires_grad
    assert copied["w"].is_leaf
    assert copied["l"] is lock


def test_ids_are_read_in_each_kind_of_batch():
    assert utterance_ids({"id": "a"}) == ["a"]
    assert utterance_ids({"id": (1, 2)}) == ["1", "2"]
    assert utterance_ids({"id": ["x"], "utt_id": ["a"]}) == ["a"]
    assert utterance_ids({"id": np.array(["a", "b"])}) == ["a", "b"]
    assert utterance_ids(PaddedBatch([{"id": "a"}])) == ["a"]
    assert utterance_ids((WAV, LABEL)) == utterance_ids(None) == []
