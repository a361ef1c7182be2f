"""The cause of an incident is named right, at no cost to the run it happened in."""

import math
import time

import pytest
import torch
from torch import nn

from speechbrain_ext.brain.forensics.diagnose import Incident, diagnose
from speechbrain_ext.brain.memory.transaction import Transaction
from speechbrain_ext.brain.verdict import Verdict
from speechbrain_ext.losses import ReconstructionLoss, WaveformL1Loss

NAN, INF = math.nan, math.inf
BATCH = 8


class SpeakerModel(nn.Module):
    """Features, convolution, BatchNorm, pooling, embedding: what ECAPA is made of."""

    def __init__(self):
        super().__init__()
        self.front = nn.Conv1d(1, 12, 16, 8)
        self.norm = nn.BatchNorm1d(12)
        self.conv = nn.Conv1d(12, 12, 3)
        self.norm2 = nn.BatchNorm1d(24)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(24, 8)
        self.out = nn.Linear(8, 5)
        self.register_buffer("mask", torch.zeros(5).index_fill(0, torch.tensor(4), 0))

    def forward(self, wav):
        power = self.front(wav.unsqueeze(1)).square()
        x = self.conv(self.norm(power.clamp(min=1e-6).log()))
        x = torch.cat([x.mean(2), (x.var(2) + 1e-4).sqrt()], 1)
        return self.out(self.fc(self.drop(self.norm2(x))))


class Codebook(nn.Module):
    """EMA codebook as plain buffers."""

    def __init__(self, dim, size):
        super().__init__()
        self.register_buffer("codes", torch.randn(size, dim))
        self.register_buffer("counts", torch.ones(size))

    def forward(self, x):
        flat = x.detach().reshape(-1, x.shape[-1])
        chosen = torch.cdist(flat, self.codes).argmin(1)
        if self.training:
            one_hot = nn.functional.one_hot(chosen, len(self.codes)).to(flat)
            self.counts.mul_(0.9).add_(one_hot.sum(0), alpha=0.1)
            self.codes.mul_(0.9).add_(one_hot.T @ flat * 0.1 / len(flat))
        quantized = self.codes[chosen].view_as(x)
        return x + (quantized - x).detach(), (x - quantized.detach()).square().mean()


class CodecModel(nn.Module):
    """Encoder with BatchNorm, EMA codebook, decoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(1, 8, 8, 4, padding=2), nn.BatchNorm1d(8), nn.ELU()
        )
        self.codebook = Codebook(8, 16)
        self.decoder = nn.ConvTranspose1d(8, 1, 8, 4, padding=2)

    def forward(self, wav):
        latents = self.encoder(wav.unsqueeze(1)).transpose(1, 2)
        quantized, loss = self.codebook(latents)
        return self.decoder(quantized.transpose(1, 2)).squeeze(1), loss


class Rig:
    """A task with a state, and the incident that one batch of it makes."""

    def __init__(self, kind, seed=0, model=None):
        torch.manual_seed(seed)
        self.kind = kind
        model = model or {"speaker": SpeakerModel, "codec": CodecModel}[kind]()
        self.modules = nn.ModuleDict({"net": model})
        self.batch = {
            "id": [f"utt{row}" for row in range(BATCH)],
            "path": [f"/data/utt{row}.wav" for row in range(BATCH)],
            "wav": 0.1 * torch.randn(BATCH, 160),
            "label": torch.arange(BATCH) % 5,
        }
        self.poison = lambda loss: loss
        self.calls = 0
        self.context = lambda: torch.autocast("cpu", enabled=False)
        self.transaction = Transaction(self.modules)
        self.transaction.begin()

    def compute_forward(self, batch):
        return self.modules["net"](batch["wav"].clone())

    def compute_objectives(self, output, batch):
        if self.kind == "speaker":
            loss = nn.functional.cross_entropy(output.float(), batch["label"])
        else:
            loss = (output[0] - batch["wav"]).abs().mean() + output[1]
        return self.poison(loss)

    def loss(self, batch):
        self.calls += 1
        with self.context():
            return self.compute_objectives(self.compute_forward(batch), batch)

    def restore(self):
        self.transaction.rollback()

    def seen(self):
        """What the guard would have seen: run once, and judge."""
        error, norm, gradients = None, 0.0, []
        try:
            loss = self.loss(self.batch)
            loss.backward()
        except Exception as raised:
            return Verdict("exception", NAN, NAN), raised, []
        grads = {n: p.grad for n, p in self.modules.named_parameters()}
        grads = {n: g for n, g in grads.items() if g is not None}
        gradients = [n for n, g in grads.items() if not g.isfinite().all()]
        norm = torch.nn.utils.get_total_norm(grads.values()).item()
        buffers = [n for n, b in self.modules.named_buffers() if b.isnan().any()]
        value = loss.item()
        cause = "accepted"
        if not math.isfinite(value):
            cause = "loss"
        elif buffers:
            cause = "buffer"
        elif not math.isfinite(norm):
            cause = "gradient" if gradients else "norm overflow"
        for parameter in self.modules.parameters():
            parameter.grad = None
        return Verdict(cause, value, norm), error, gradients

    def incident(self, **given):
        self.transaction.begin()
        verdict, error, gradients = self.seen()
        facts = {"exception": error, "gradients": gradients, "verdict": verdict}
        return Incident(
            batch=self.batch,
            modules=self.modules,
            forward=lambda batch=self.batch: self.loss(batch),
            restore=self.restore,
            **{**facts, **given},
        )


def net_of(rig):
    return rig.modules["net"]


def hooked(rig, value):
    """Spoil one gradient in the backward pass of this batch."""

    def poison(loss):
        parameter = next(net_of(rig).parameters())
        return loss + rigged(parameter, value) * 0

    def rigged(parameter, value):
        alias = parameter * 1
        alias.register_hook(lambda grad: grad + value)
        return alias.sum()

    rig.poison = poison


def set_first(tensor, value):
    with torch.no_grad():
        tensor.view(-1)[0] = value


def label(rig):
    rig.batch["label"][3] = 77


def spoil_row(value):
    def spoil(rig):
        rig.batch["wav"][2, 30] = value

    return spoil


def silent_batch(rig):
    """Silence under a norm: finite gradients of 1e30."""
    rig.batch["wav"].zero_()
    rig.poison = lambda loss: (
        loss + 1e25 * sum(p.sum() for p in net_of(rig).parameters())
    )


def silent_row(rig):
    rig.batch["wav"][5].zero_()
    batch = rig.batch
    rig.compute_forward = lambda b: net_of(rig)(
        b["wav"] / b["wav"].square().mean(1, keepdim=True).sqrt()
    )
    assert batch["wav"][5].sum() == 0


def nan_in_loss(rig):
    rig.poison = lambda loss: loss + NAN


#: fault -> (what it does to the rig, right causes, utterances, state names)
BATCH_FAULTS = {
    "nan sample": (spoil_row(NAN), {"input non-finite"}, ["utt2"]),
    "inf sample": (spoil_row(INF), {"input non-finite"}, ["utt2"]),
    "1e30 sample": (spoil_row(1e30), {"input extreme"}, ["utt2"]),
    "label": (label, {"label out of range"}, ["utt3"]),
    "silent utterance": (silent_row, {"input silent"}, ["utt5"]),
    "silent batch": (silent_batch, {"input silent"}, None),
    "nan in loss": (nan_in_loss, {"loss term"}, []),
    "nan gradient": (lambda rig: hooked(rig, NAN), {"gradient of module"}, []),
    "inf gradient": (lambda rig: hooked(rig, INF), {"gradient of module"}, []),
}
CELLS = [
    (kind, name)
    for kind in ("speaker", "codec")
    for name in BATCH_FAULTS
    if (kind, name) != ("codec", "label")
]


@pytest.mark.smoke
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("kind", "fault"), CELLS)
def test_the_cause_and_the_utterance_of_each_fault_are_named(kind, fault, seed):
    spoil, causes, who = BATCH_FAULTS[fault]
    rig = Rig(kind, seed)
    spoil(rig)
    found = diagnose(rig.incident())
    assert found.cause in causes, found
    if who is not None:
        assert found.utt_ids == who, found
        assert found.paths == [f"/data/{name}.wav" for name in who]
    assert found.recommendation.command


def test_a_finite_gain_that_spikes_is_an_extreme_input():
    rig = Rig("codec")
    rig.batch["wav"][4] *= 1e6
    found = diagnose(rig.incident(verdict=Verdict("spike", 1e4, 1e4)))
    assert (found.cause, found.utt_ids) == ("input extreme", ["utt4"])


def test_a_spike_of_ordinary_inputs_is_a_loss_spike_of_one_row():
    rig = Rig("codec")
    weights = torch.ones(BATCH)
    weights[6] = 1e4
    rig.batch["weights"] = weights

    def objectives(output, batch):
        error = (output[0] - batch["wav"]).abs().mean(1)
        return (error * batch["weights"]).mean()

    rig.compute_objectives = objectives
    found = diagnose(rig.incident(verdict=Verdict("spike", 1e4, 1e4)))
    assert (found.cause, found.utt_ids) == ("input extreme", ["utt6"])
    weights[6] = 5.0  # within the range of an item, yet most of the loss
    rig.batch["wav"][6] *= 50
    found = diagnose(rig.incident(verdict=Verdict("spike", 1e4, 1e4)))
    assert (found.cause, found.utt_ids) == ("loss spike", ["utt6"])


STATES = {
    "net.fc.weight": ("parameter corrupted", "net.fc (Linear)"),
    "net.norm.running_var": ("buffer corrupted", "net.norm (BatchNorm1d)"),
    "net.glob_mean": ("statistics corrupted", "net (SpeakerModel)"),
    "opt_class: exp_avg of net.fc.weight": ("moment corrupted", "net.fc (Linear)"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_corrupted_state_is_no_fault_of_the_batch(name):
    rig = Rig("speaker")
    net_of(rig).glob_mean = torch.zeros(3)
    found = diagnose(rig.incident(state=[name], verdict=Verdict("state", 1.0, 1.0)))
    assert (found.cause, found.module) == STATES[name]
    assert found.names == [name]
    assert found.utt_ids == []
    assert found.runs == 0


@pytest.mark.parametrize(
    ("kind", "name"), [("speaker", "net.fc.weight"), ("codec", "net.codebook.codes")]
)
def test_a_corrupted_state_is_found_by_the_run_where_nobody_said_so(kind, name):
    rig = Rig(kind)
    set_first(dict(rig.modules.state_dict())[name], NAN)
    rig.transaction.begin()
    found = diagnose(rig.incident())
    assert found.cause == (
        "parameter corrupted" if kind == "speaker" else "buffer corrupted"
    )
    assert found.names == [name]


def test_a_moment_explains_a_parameter_but_not_the_other_way_round():
    rig = Rig("speaker")
    state = ["net.fc.weight", "adam: exp_avg of net.fc.weight"]
    found = diagnose(rig.incident(state=state))
    assert found.cause == "moment corrupted"


class Overflows(nn.Module):
    def forward(self, x):
        return x + (x * 1e20).exp().mean()


def test_the_layer_and_the_line_that_made_the_first_bad_number_are_named():
    rig = Rig("codec")
    net_of(rig).encoder.append(Overflows())
    found = diagnose(rig.incident())
    assert found.cause == "output of module"
    assert found.module == "net.encoder.3 (Overflows)"
    assert found.operation == "aten.exp"
    assert found.phase == "forward"
    assert found.source.startswith("test_diagnose.py:")
    assert found.source.endswith("return x + (x * 1e20).exp().mean()")


def test_only_the_row_that_overflows_is_named():
    rig = Rig("codec")
    net_of(rig).codebook = nn.Identity()
    net_of(rig).encoder = nn.Sequential(
        nn.Conv1d(1, 8, 8, 4, padding=2), Explodes(), nn.ELU()
    )
    net_of(rig).forward = lambda wav: (
        net_of(rig).decoder(net_of(rig).encoder(wav.unsqueeze(1))).squeeze(1),
        0.0,
    )
    rig.batch["wav"][6] *= 30
    found = diagnose(rig.incident())
    assert (found.cause, found.utt_ids) == ("output of module", ["utt6"])
    assert found.proven


class Explodes(nn.Module):
    def forward(self, x):
        return (x * 20).exp().square()


def test_an_attention_mask_of_minus_infinity_is_no_fault():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(4, 4)
            self.register_buffer("causal", torch.full((5, 5), -INF).triu(1))

        def forward(self, x):
            scores = self.query(x) @ x.transpose(1, 2) + self.causal
            padding = torch.zeros(5, dtype=torch.bool)
            padding[-1] = True
            scores = scores.masked_fill(padding, -INF)
            return (scores.softmax(-1) @ x).mean((1, 2)).log()

    rig = Rig("speaker", model=Attention())
    rig.compute_forward = lambda b: net_of(rig)(
        b["wav"].reshape(BATCH, 8, 4, 5)[:, 0].transpose(1, 2)
    )
    rig.compute_objectives = lambda out, b: out.mean()
    found = diagnose(rig.incident())
    assert found.cause == "output of module"
    assert found.operation == "aten.log"


def test_a_row_that_is_masked_whole_is_the_fault_of_softmax():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(160, 160)

        def forward(self, x):
            masked = self.query(x).masked_fill(x.abs() >= 0, -INF)
            return masked.softmax(-1)

    rig = Rig("speaker", model=Attention())
    rig.compute_objectives = lambda out, b: out.mean()
    found = diagnose(rig.incident())
    assert found.operation.startswith("aten._softmax")


def test_the_loss_term_that_is_bad_is_named():
    class Log(nn.Module):
        def forward(self, prediction, target):
            return (prediction.abs() * 0).log().mean().square() * 0

    rig = Rig("codec")
    rig.modules["recon"] = ReconstructionLoss(
        {"l1": WaveformL1Loss(), "log": Log()}, {"l1": 1.0, "log": 1.0}
    )

    def compute_objectives(out, batch):
        return rig.modules["recon"](out[0], batch["wav"]).total

    rig.compute_objectives = compute_objectives
    found = diagnose(rig.incident())
    assert found.cause == "loss term"
    assert found.phase == "objective"
    assert found.module == "recon.terms.log (Log)"
    assert "loss term log" in found.detail
    assert math.isfinite(found.loss_terms["l1"])


def test_the_backward_of_a_layer_is_named_by_its_forward_line():
    class Norm(nn.Module):
        def forward(self, x):
            return x.relu().mul(0).square().sum(1).sqrt().sum() * 0 + x

    rig = Rig("codec")
    net_of(rig).encoder.append(Norm())
    found = diagnose(rig.incident())
    assert found.cause == "gradient of module"
    assert found.phase == "backward"
    assert found.module == "net.encoder.3 (Norm)"
    assert ".sqrt()" in found.source


def test_finite_gradients_whose_norm_overflows_name_the_largest():
    rig = Rig("codec")

    def poison(loss):
        return loss + 1e25 * net_of(rig).decoder.weight.sum()

    rig.poison = poison
    found = diagnose(rig.incident())
    assert found.cause == "norm overflow"
    assert found.names == ["net.decoder.weight"]
    assert found.module == "net.decoder (ConvTranspose1d)"
    assert found.recommendation.preset == "tight_clip"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_float32_can_hold_is_a_fault_of_mixed_precision(dtype):
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = nn.Linear(160, 5)
            self.gain = 1e4 if dtype == torch.float16 else 1e38

        def forward(self, x):
            y = self.wide(x) * self.gain
            limit = 100.0 if dtype == torch.float16 else 100.0
            y = y * limit
            return y / y.detach().abs().amax() if y.dtype == dtype else self.wide(x)

    rig = Rig("speaker", model=Sums())
    context = torch.autocast("cpu", dtype=dtype)
    rig.context = lambda: context
    found = diagnose(rig.incident(precision=str(dtype)[6:]))
    assert found.cause == "mixed precision overflow"
    assert found.recommendation.preset == "no_amp"
    with context:  # the Brain's own autocast goes on working
        assert net_of(rig).wide(torch.ones(1, 160)).dtype == dtype


def test_an_exception_names_layer_line_and_utterance():
    class Checks(nn.Module):
        def forward(self, x):
            if (x.abs().amax((1, 2)) > 0.9).any():
                raise ValueError("clipped")
            return x

    rig = Rig("speaker")
    net_of(rig).front = nn.Sequential(Checks(), net_of(rig).front)
    rig.batch["wav"][1] *= 8
    found = diagnose(rig.incident())
    assert found.cause == "exception"
    assert found.detail == "ValueError: clipped"
    assert found.module == "net.front.0 (Checks)"
    assert found.source.endswith('raise ValueError("clipped")')
    assert found.utt_ids == ["utt1"]


def test_an_operation_that_raises_is_named():
    rig = Rig("speaker")
    net_of(rig).fc = nn.Linear(23, 8)
    found = diagnose(rig.incident())
    assert found.cause == "exception"
    assert found.module == "net.fc (Linear)"
    assert found.operation == "aten.addmm"
    assert found.utt_ids == []


@pytest.mark.parametrize("rule", [{"label": 5}, {}])
def test_an_impossible_label_is_told_with_its_value(rule):
    rig = Rig("speaker")
    label(rig)
    found = diagnose(rig.incident(label_ranges=rule))
    assert found.cause == "label out of range"
    assert "'utt3' is label 77" in found.detail
    assert found.utt_ids == ["utt3"]


def test_an_index_error_that_is_no_label_stays_an_exception():
    rig = Rig("speaker")
    rig.poison = lambda loss: loss + torch.arange(3)[torch.tensor(500)]
    assert diagnose(rig.incident()).cause == "exception"


def test_a_label_that_is_checked_before_forward_never_runs():
    rig = Rig("speaker")
    label(rig)
    incident = rig.incident(verdict=Verdict("label", NAN, NAN), exception=None)
    incident.label_ranges = {"label": 5}
    rig.calls = 0
    assert diagnose(incident).utt_ids == ["utt3"]
    assert rig.calls == 0


@pytest.mark.parametrize("stable", [True, False])
def test_only_clean_repeats_make_a_fault_not_reproducible(stable):
    rig = Rig("speaker")
    if not stable:
        rig.poison = lambda loss: loss * (1 + rig.calls * 1e-3)
    found = diagnose(rig.incident(verdict=Verdict("loss", NAN, 0.0)))
    assert found.cause == "not reproducible"
    assert ("hardware" if stable else "non-deterministic") in found.detail
    assert found.runs == 3


def test_a_fit_batch_that_is_not_repeated_is_never_called_irreproducible():
    rig = Rig("speaker")
    incident = rig.incident(verdict=Verdict("gradient", 1.0, NAN), faithful=False)
    incident.gradients = ["net.fc.weight"]
    found = diagnose(incident)
    assert found.cause == "gradient of module"
    assert found.module == "net.fc (Linear)"


def test_where_ranks_wait_nothing_is_run_again():
    rig = Rig("speaker")
    rig.batch["wav"][2, 3] = NAN
    incident = rig.incident(can_rerun=False)
    rig.calls = 0
    found = diagnose(incident)
    assert (found.cause, found.utt_ids, rig.calls) == ("input non-finite", ["utt2"], 0)
    assert diagnose(rig.incident(verdict=Verdict("other rank", 1.0, 1.0))).cause == (
        "other rank"
    )


def test_a_broken_item_that_is_never_used_is_not_blamed():
    rig = Rig("speaker")
    rig.batch["snr"] = torch.full((BATCH, 1), 1.0)
    rig.batch["snr"][0] = NAN
    nan_in_loss(rig)
    assert diagnose(rig.incident()).cause == "loss term"


def test_two_bad_rows_are_both_found():
    rig = Rig("speaker")

    def objectives(output, batch):
        rows = nn.functional.cross_entropy(output, batch["label"], reduction="none")
        bad = torch.tensor([name in ("utt1", "utt6") for name in batch["id"]])
        return rows.mean() + torch.where(bad, rows * 1e30 * 1e30, 0.0).sum()

    rig.compute_objectives = objectives
    found = diagnose(rig.incident())
    assert found.utt_ids == ["utt1", "utt6"]
    assert found.proven


@pytest.mark.parametrize("fault", ["nan in loss", "1e30 sample", "nan gradient"])
def test_the_number_of_runs_is_bounded(fault):
    rig = Rig("speaker")
    BATCH_FAULTS[fault][0](rig)
    found = diagnose(rig.incident())
    assert found.runs <= 2 * math.log2(BATCH) + 4 + 4


def fingerprint(rig):
    state = {n: v.clone() for n, v in rig.modules.state_dict().items()}
    state["random"] = torch.get_rng_state()
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks))
        for m in rig.modules.modules()
    ]
    grads = [p.grad for p in rig.modules.parameters()]
    return state, hooks, grads


def assert_untouched(rig, before):
    state, hooks, grads = fingerprint(rig)
    for name, value in before[0].items():
        assert torch.equal(state[name], value), name
    assert hooks == before[1]
    assert all(a is b for a, b in zip(grads, before[2], strict=True))
    assert not torch.is_anomaly_enabled()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


@pytest.mark.parametrize("kind", ["speaker", "codec"])
def test_it_leaves_state_hooks_and_gradients_as_they_were(kind):
    rig = Rig(kind)
    for parameter in rig.modules.parameters():  # of an accumulation window
        parameter.grad = torch.ones_like(parameter)
    rig.transaction.begin()
    kept = [p.grad for p in rig.modules.parameters()]
    spoil_row(NAN)(rig)
    incident = rig.incident()
    for parameter, grad in zip(rig.modules.parameters(), kept, strict=True):
        parameter.grad = grad
    rig.restore()
    before = fingerprint(rig)
    diagnose(incident)
    assert_untouched(rig, before)


def test_ctrl_c_leaves_no_hook_behind():
    rig = Rig("speaker")
    spoil_row(NAN)(rig)
    incident = rig.incident()
    rig.restore()
    before = fingerprint(rig)

    def interrupted(loss):
        raise KeyboardInterrupt

    rig.poison = interrupted
    with pytest.raises(KeyboardInterrupt):
        diagnose(incident)
    assert_untouched(rig, before)


@pytest.mark.parametrize("odd", ["forward", "restore", "batch", "modules"])
def test_it_never_raises(odd):
    rig = Rig("speaker")
    nan_in_loss(rig)
    incident = rig.incident()

    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    setattr(incident, odd, broken)
    found = diagnose(incident)
    assert found.cause in ("loss term", "exception")
    assert found.recommendation.command


def test_an_own_backward_of_the_user_is_the_line_that_is_named():
    class Mine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad / 0 * 0

    class Layer(nn.Module):
        def forward(self, x):
            return Mine.apply(x)

    rig = Rig("codec")
    net_of(rig).encoder.append(Layer())
    found = diagnose(rig.incident())
    assert found.module == "net.encoder.3 (Layer)"
    assert found.source.endswith("return grad / 0 * 0")


def test_the_facts_are_plain_data():
    import json

    rig = Rig("codec")
    spoil_row(NAN)(rig)
    facts = diagnose(rig.incident()).as_dict()
    assert json.loads(json.dumps(facts))["recommendation"]["command"]


def test_a_diagnosis_takes_seconds_not_minutes():
    rig = Rig("codec")
    nan_in_loss(rig)
    incident = rig.incident()
    start = time.process_time()
    diagnose(incident)
    assert time.process_time() - start < 5
