"""Labels out of range are found on the host, with ranges given or learned."""

import pytest
import torch
from torch.nn import functional

from speechbrain_ext.brain.labels import LabelCheck


def batch(labels):
    return {"wav": torch.zeros(len(labels), 4), "spk": torch.tensor(labels)}


@pytest.mark.parametrize("labels", [[0, 3, 7], [1, 9, 0], [2, -1, 0]])
def test_the_value_and_the_number_of_classes_are_named(labels):
    fault = LabelCheck({"spk": 5}).fault(batch(labels))
    bad = next(label for label in labels if not 0 <= label < 5)
    assert f"spk holds {bad}" in fault
    assert "5 classes" in fault


def test_good_labels_and_the_ignored_one_pass():
    check = LabelCheck({"spk": 5})
    assert check.fault(batch([0, 4, 2])) is None
    assert check.fault(batch([0, -100, 4])) is None
    assert check.fault({"wav": torch.zeros(2)}) is None


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, t: functional.cross_entropy(x, t),
        lambda x, t: functional.cross_entropy(x, target=t),
        lambda x, t: functional.nll_loss(x.log_softmax(1), t.squeeze()),
        lambda x, t: (functional.one_hot(t.long(), num_classes=5) * x).sum(),
        lambda x, t: functional.embedding(t, torch.ones(5, 2)).sum() + x.sum() * 0,
    ],
)
def test_ranges_are_learned_from_how_the_first_batch_is_used(loss):
    check = LabelCheck(None)
    first = batch([0, 3, 1])
    with check.learning(first):
        loss(torch.randn(3, 5), first["spk"])
    assert check.ranges == {"spk": 5}
    assert check.fault(batch([0, 5, 1])) is not None


def test_integers_that_are_not_class_labels_are_not_compared():
    check = LabelCheck(None)
    first = batch([0, 3, 1]) | {"length": torch.tensor([7000, 8000, 6000])}
    with check.learning(first):
        functional.cross_entropy(torch.randn(3, 5), first["spk"])
    assert check.ranges == {"spk": 5}


def test_watching_the_first_batch_changes_no_bit():
    torch.manual_seed(0)
    x, t = torch.randn(4, 6, requires_grad=True), torch.tensor([0, 5, 2, 3])
    plain = functional.cross_entropy(x, t)
    (gradient,) = torch.autograd.grad(plain, x)
    with LabelCheck(None).learning({"t": t}):
        watched = functional.cross_entropy(x, t)
    assert torch.equal(watched, plain)
    assert torch.equal(torch.autograd.grad(watched, x)[0], gradient)


def test_an_ignored_index_that_was_seen_is_allowed_beside_good_labels():
    check = LabelCheck(None)
    first = batch([0, 3, -1])
    with check.learning(first):
        functional.cross_entropy(torch.randn(3, 5), first["spk"], ignore_index=-1)
    assert check.fault(batch([-1, -1, -1])) is None
    assert check.fault(batch([4, -1, -100])) is None
    assert check.fault(batch([4, -1, 5])) is not None


def test_one_value_all_over_teaches_no_range():
    check = LabelCheck(None)
    first = batch([2, 2]) | {"channels": torch.tensor([2, 2])}
    with check.learning(first):
        functional.cross_entropy(torch.randn(2, 5), first["spk"])
    assert check.ranges == {}


def test_a_learned_range_is_in_doubt_and_can_be_forgotten_and_a_given_one_not():
    check = LabelCheck(None)
    first = batch([0, 3, 1])
    with check.learning(first):
        functional.cross_entropy(torch.randn(3, 5), first["spk"])
    assert check.fault(batch([9])) is not None
    assert check.doubted == "spk"
    check.forget("spk")
    assert check.fault(batch([9])) is None
    given = LabelCheck({"spk": 5})
    assert given.fault(batch([9])) is not None
    assert given.doubted is None
