"""AAM-softmax is ArcFace's formula, and finite where that formula is not."""

import math

import pytest
import torch
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper

from speechbrain_ext.brain.labels import LabelCheck
from speechbrain_ext.losses import AAMSoftmax
from speechbrain_ext.losses.aam import unit_rows

DIM, CLASSES = 16, 7


def make(seed=0, **settings):
    torch.manual_seed(seed)
    return AAMSoftmax(DIM, CLASSES, **settings)


def batch(size=12, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(size, DIM, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return embeddings.to(dtype), labels


def gradients(classifier, embeddings, labels):
    """Loss, and gradients of embeddings and weights."""
    leaf = embeddings.clone().requires_grad_()
    classifier.zero_grad()
    loss, _ = classifier(leaf, labels)
    loss.backward()
    return loss.detach(), leaf.grad, classifier.weight.grad


def arcface(embeddings, weight, labels, margin, scale):
    """Eq. 3 word by word, in float64, one row after the other."""
    losses = []
    for row, label in zip(embeddings.double(), labels, strict=True):
        cosines = [torch.dot(row, w) / (row.norm() * w.norm()) for w in weight.double()]
        angle = torch.acos(cosines[label])
        moved = torch.cos(angle + margin)
        if angle > math.pi - margin:
            moved = cosines[label] - margin * math.sin(margin)
        terms = [math.exp(scale * float(c)) for c in cosines]
        terms[label] = math.exp(scale * float(moved))
        losses.append(-math.log(terms[label] / sum(terms)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("scale", [8.0, 30.0])
def test_the_loss_is_eq_3_of_arcface(margin, scale):
    classifier = make(margin=margin, scale=scale)
    embeddings, labels = batch()
    loss, logits = classifier(embeddings, labels)
    weight = classifier.weight.detach()
    expected = arcface(embeddings, weight, labels, margin, scale)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    cosines = torch.nn.functional.cosine_similarity(
        embeddings[:, None], weight[None], dim=-1
    )
    assert torch.allclose(logits, scale * cosines, atol=1e-4)


@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
def test_loss_and_gradient_equal_speechbrains_on_usual_inputs(margin, easy_margin):
    classifier = make(margin=margin, easy_margin=easy_margin)
    stock = LogSoftmaxWrapper(AdditiveAngularMargin(margin, 30.0, easy_margin))
    embeddings, labels = batch(64)
    loss, of_rows, of_weight = gradients(classifier, embeddings, labels)
    rows = embeddings.clone().requires_grad_()
    weight = classifier.weight.detach().clone().requires_grad_()
    normalize = torch.nn.functional.normalize
    cosines = torch.nn.functional.linear(normalize(rows), normalize(weight))
    theirs = stock(cosines.unsqueeze(1), labels.unsqueeze(1))
    theirs.backward()
    assert torch.allclose(loss, theirs, rtol=1e-5)
    assert torch.allclose(of_rows, rows.grad, rtol=1e-4, atol=1e-5)
    assert torch.allclose(of_weight, weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sub_centers", [1, 3])
def test_gradients_equal_finite_differences(sub_centers):
    classifier = make(margin=0.3, scale=4.0, sub_centers=sub_centers).double()
    embeddings, labels = batch(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda rows: classifier(rows, labels)[0], embeddings.requires_grad_()
    )


def aligned(cosine_sign):
    """Weights, and embeddings that point exactly at or against their class."""
    classifier = AAMSoftmax(4, 4)
    with torch.no_grad():
        classifier.weight.copy_(torch.eye(4))
    return classifier, cosine_sign * torch.eye(4), torch.arange(4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("easy_margin", [False, True])
def test_value_and_gradient_are_finite_at_cosines_of_one(dtype, sign, easy_margin):
    classifier, embeddings, labels = aligned(sign)
    classifier.easy_margin = easy_margin
    loss, of_rows, of_weight = gradients(classifier, embeddings.to(dtype), labels)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(of_rows).all()
    assert torch.isfinite(of_weight).all()
    # sum over classes of |softmax - target| <= 2, times scale, over 4 rows
    assert of_rows.abs().max() <= 2 * 30 / 4


@pytest.mark.parametrize("cosine", [-1.0000002, -1.0, -0.9999999, 0.9999999, 1.0000002])
@pytest.mark.parametrize("margin", [0.0, 0.2, math.pi / 2])
def test_rounding_beyond_one_is_finite_and_next_to_the_value_at_one(cosine, margin):
    classifier = make(margin=margin)
    cosines = torch.zeros(1, CLASSES)
    cosines[0, 2] = cosine
    cosines.requires_grad_()
    loss = classifier._loss(cosines, torch.tensor([2]))
    loss.backward()
    assert torch.isfinite(cosines.grad).all()
    edge = torch.zeros(1, CLASSES)
    edge[0, 2] = math.copysign(1.0, cosine)
    assert loss.item() == pytest.approx(
        classifier._loss(edge, torch.tensor([2])).item(), abs=0.02
    )


@pytest.mark.parametrize("margin", [0.1, 0.2, 0.5, 1.0, math.pi / 2])
def test_the_targets_logit_falls_with_the_angle_up_to_pi(margin):
    angles = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    moved = make(margin=margin)._with_margin(angles.cos())
    assert (moved.diff() <= 1e-9).all()
    before = angles < math.pi - margin - 1e-9
    usual = before & (angles > 2e-3)
    assert torch.allclose(moved[usual], (angles[usual] + margin).cos(), atol=1e-9)


def test_an_easy_margin_asks_nothing_where_the_cosine_is_negative():
    classifier = make(margin=0.2, easy_margin=True)
    cosines = torch.tensor([-0.9, -0.1, 0.5])
    moved = classifier._with_margin(cosines)
    assert moved[:2].tolist() == cosines[:2].tolist()
    assert moved[2].item() == pytest.approx(math.cos(math.acos(0.5) + 0.2))


@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-20, 1e-8, 1e-3, 0.09, 0.11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_short_embeddings_have_a_bounded_gradient(size, dtype):
    classifier = make(min_norm=0.1)
    embeddings, labels = batch(4)
    embeddings = (size * unit_rows(embeddings, 1e-6)).to(dtype)
    loss, of_rows, of_weight = gradients(classifier, embeddings, labels)
    assert torch.isfinite(loss)
    assert torch.isfinite(of_weight).all()
    assert of_rows.float().norm(dim=-1).max() <= 1.01 * 2 * 30 / 0.1 / 4
    if size == 0:
        assert of_rows.any(), "a zero embedding must be able to leave"


def test_a_silent_batch_has_the_loss_of_equal_logits():
    classifier = make(margin=0.0)
    loss, logits = classifier(torch.zeros(3, DIM), torch.tensor([0, 1, 2]))
    assert loss.item() == pytest.approx(math.log(CLASSES))
    assert not logits.any()


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(6e4, torch.float16), (1e38, torch.bfloat16), (1e38, torch.float32)],
)
def test_huge_embeddings_keep_their_direction(size, dtype):
    classifier = make()
    embeddings, labels = batch(8)
    embeddings = embeddings / embeddings.abs().amax(-1, keepdim=True)
    loss, of_rows, _ = gradients(classifier, (size * embeddings).to(dtype), labels)
    small, _ = classifier(embeddings.to(dtype), labels)
    assert loss.item() == pytest.approx(small.item(), rel=2e-2)
    assert torch.isfinite(of_rows).all()


def test_a_zero_weight_row_is_finite_in_value_and_gradient():
    classifier = make()
    with torch.no_grad():
        classifier.weight[3] = 0
    loss, of_rows, of_weight = gradients(classifier, *batch())
    for tensor in (loss, of_rows, of_weight):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_embedding_is_not_hidden(value):
    embeddings, labels = batch()
    embeddings[2, 5] = value
    loss, logits = make()(embeddings, labels)
    assert torch.isnan(loss)
    assert torch.isnan(logits[2]).all()
    assert torch.isfinite(logits[torch.arange(len(logits)) != 2]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_around_it_changes_nothing(dtype):
    classifier = make()
    embeddings, labels = batch()
    plain, _ = classifier(embeddings.to(dtype), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, logits = classifier(embeddings.to(dtype), labels)
    assert loss == plain
    assert logits.dtype == torch.float32
    assert classifier.double()(embeddings.double(), labels)[0].dtype == torch.float64


def test_the_nearest_sub_center_counts():
    classifier = AAMSoftmax(2, 2, margin=0.0, scale=1.0, sub_centers=2)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
    angles = torch.tensor([0.3, 1.2, 3.0])
    rows = torch.stack([angles.cos(), angles.sin()], -1)
    _, logits = classifier(rows, torch.zeros(3, dtype=torch.long))
    expected = [[max(math.cos(a), math.sin(a)), max(-math.cos(a), -math.sin(a))]
                for a in angles.tolist()]  # fmt: skip
    assert torch.allclose(logits, torch.tensor(expected), atol=1e-6)


def test_label_smoothing_is_that_of_cross_entropy():
    embeddings, labels = batch()
    loss, logits = make(margin=0.0, label_smoothing=0.1)(embeddings, labels)
    target = torch.full_like(logits, 0.1 / CLASSES)
    target[torch.arange(len(labels)), labels] += 0.9
    expected = -(target * logits.log_softmax(-1)).sum(-1).mean()
    assert torch.allclose(loss, expected)


def test_the_margin_changes_between_two_forwards_and_raises_the_loss():
    classifier = make(margin=0.0)
    losses = []
    for margin in (0.0, 0.1, 0.2):
        classifier.set_margin(margin)
        assert classifier.margin == margin
        losses.append(classifier(*batch())[0].item())
    assert losses == sorted(losses)
    assert losses[0] < losses[2]
    with pytest.raises(ValueError, match=r"margin must be an angle .* got -0.1"):
        classifier.set_margin(-0.1)
    with pytest.raises(ValueError, match="got nan"):
        classifier.set_margin(math.nan)


@pytest.mark.parametrize("label", [-100, -1, CLASSES, 10**6])
def test_a_label_out_of_range_names_its_utterance(label):
    embeddings, labels = batch(3)
    labels[1] = label
    with pytest.raises(ValueError, match=f"spk7-b: label {label} is not in .*7 cl"):
        make()(embeddings, labels, ["a", "spk7-b", "c"])
    with pytest.raises(ValueError, match=f"row 1: label {label} "):
        make()(embeddings, labels)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_wrong_label_where_it_is_not_read_makes_loss_and_gradient_nan(
    monkeypatch, label
):
    classifier = make()
    monkeypatch.setattr(classifier, "_is_on_host", lambda labels: False)
    embeddings, labels = batch(3)
    assert torch.isfinite(gradients(classifier, embeddings, labels)[0])
    labels[1] = label
    loss, of_rows, _ = gradients(classifier, embeddings, labels)
    assert torch.isnan(loss)
    assert torch.isnan(of_rows).all()


def test_the_brains_label_check_learns_the_number_of_classes_from_it():
    embeddings, labels = batch(12)
    check = LabelCheck(None)
    with check.learning({"wav": embeddings, "spk": labels}):
        make()(embeddings, labels)
    assert check.ranges == {"spk": CLASSES}


def test_shapes_and_settings_that_do_not_fit_are_refused():
    classifier = make()
    with pytest.raises(ValueError, match=r"must be \[batch, 16\], got \[2, 1, 16\]"):
        classifier(torch.zeros(2, 1, DIM), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="labels must be integers"):
        classifier(torch.zeros(2, DIM), torch.zeros(2))
    with pytest.raises(ValueError, match="batch is empty"):
        classifier(torch.zeros(0, DIM), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="num_classes must be >= 2.*; scale must be"):
        AAMSoftmax(DIM, 1, scale=0.0)


def test_weights_are_equally_long_whatever_the_number_of_classes():
    for classes in (2, 20000):
        torch.manual_seed(0)
        norms = AAMSoftmax(192, classes).weight.norm(dim=-1)
        assert norms.mean().item() == pytest.approx(1, abs=0.1)
