"""Slots, shadows and watched parameters: put back to the bit, whatever forward did."""

import copy
import operator

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from speechbrain_ext.brain.memory.finite import nonfinite_flag
from speechbrain_ext.brain.memory.shadow import TensorShadow
from speechbrain_ext.brain.memory.slots import Slots, module_names
from speechbrain_ext.brain.memory.transaction import Transaction

NAN = float("nan")


class Visited(nn.Module):
    """Runs ``visit(self)`` in forward; ``start(self)`` at construction."""

    def __init__(self, start, visit):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        start(self)
        self.visit = visit

    def forward(self, x):
        self.visit(self)
        return self.layer(x)


def bits(value):
    """Anything as something that ``==`` compares to the bit, NaN included."""
    if isinstance(value, torch.Tensor):
        dense = (
            value.detach().to_dense() if value.layout is not torch.strided else value
        )
        raw = dense.detach().contiguous().view(-1)
        return ("tensor", str(value.dtype), tuple(value.shape), raw.numpy().tobytes())
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(item) for item in value]
    if isinstance(value, torch.Generator):
        return bits(value.get_state())
    if isinstance(value, np.random.RandomState):
        return str(value.get_state())
    return value


def register(name, tensor):
    return lambda m: m.register_buffer(name, tensor)


def attribute(name, value):
    return lambda m: setattr(m, name, copy.deepcopy(value))


def parameter(name, requires_grad=True):
    return lambda m: setattr(m, name, nn.Parameter(torch.ones(3), requires_grad))


def swap_data(m):
    m.b.data = m.b.data * 5


def grow_data(m):
    m.b.data = torch.zeros(7)


def swap_parameter(m):
    m.p = nn.Parameter(m.p.detach() * 0.5)


@torch.no_grad()
def scale_parameter(m):
    m.p.mul_(0.5)


def scale_parameter_by_data(m):
    m.p.data.mul_(0.5)


CASES = {
    "buffer in place": (register("b", torch.ones(3)), lambda m: m.b.mul_(NAN)),
    "buffer replaced": (
        register("b", torch.ones(3)),
        lambda m: setattr(m, "b", torch.zeros(9)),
    ),
    "buffer through data": (register("b", torch.ones(3)), swap_data),
    "buffer of another size": (register("b", torch.ones(3)), grow_data),
    "buffer of strides": (register("b", torch.ones(4, 3).t()), lambda m: m.b.mul_(3)),
    "buffer complex": (
        register("b", torch.ones(3, dtype=torch.complex64)),
        lambda m: m.b.mul_(NAN),
    ),
    "buffer bool": (register("b", torch.ones(3).bool()), lambda m: m.b.logical_not_()),
    "buffer half": (register("b", torch.ones(3).half()), lambda m: m.b.mul_(NAN)),
    "buffer born": (lambda m: None, lambda m: m.register_buffer("n", torch.ones(1))),
    "buffer set to None": (
        register("b", torch.ones(3)),
        lambda m: setattr(m, "b", None),
    ),
    "number": (attribute("count", 10**9), lambda m: setattr(m, "count", m.count + 1)),
    "list": (attribute("log", []), lambda m: m.log.append(1)),
    "list of tensors in place": (
        attribute("kept", [torch.ones(2)]),
        lambda m: m.kept[0].mul_(3),
    ),
    "dict in dict": (
        attribute("kept", {"a": {"b": torch.ones(2)}}),
        lambda m: m.kept["a"].update(c=m.kept["a"].pop("b").mul_(2)),
    ),
    "tuple of tensors in place": (
        attribute("kept", (torch.ones(2), torch.ones(1))),
        lambda m: m.kept[1].mul_(2),
    ),
    "attribute deleted": (attribute("kept", 3), lambda m: delattr(m, "kept")),
    "dropout annealed": (
        attribute("drop", nn.Dropout(0.5)),
        lambda m: setattr(m.drop, "p", m.drop.p * 0.9),
    ),
    "number born in a stock module": (
        attribute("norm", nn.BatchNorm1d(2)),
        lambda m: setattr(m.norm, "seen", 1),
    ),
    "module put to eval": (
        attribute("norm", nn.BatchNorm1d(2)),
        lambda m: m.norm.eval(),
    ),
    "generator": (
        attribute("random", torch.Generator()),
        lambda m: torch.rand(3, generator=m.random),
    ),
    "numpy generator": (
        attribute("random", np.random.RandomState(3)),
        lambda m: m.random.randn(),
    ),
    "trainable parameter in place": (parameter("p"), scale_parameter),
    "trainable parameter through data": (parameter("p"), scale_parameter_by_data),
    "trainable parameter replaced": (parameter("p"), swap_parameter),
    "frozen parameter": (parameter("p", False), scale_parameter_by_data),
}


def everything(net):
    state = {}
    for name, module in net.named_modules():
        space = dict(vars(module))
        space |= space.pop("_parameters") | space.pop("_buffers")
        space.pop("_modules")
        state |= {f"{name}.{key}": bits(value) for key, value in space.items()}
    return {k: v for k, v in state.items() if not callable(v)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batches_before", [0, 1, 3])
def test_whatever_forward_moves_is_put_back(name, batches_before):
    start, visit = CASES[name]
    learned = name.startswith("trainable")  # on the first batch
    net = Visited(start, visit if learned else lambda m: None)
    transaction = Transaction(net)
    x = torch.ones(2, 2)
    for _ in range(batches_before):
        transaction.begin()
        net(x)
        transaction.forward_state.probe()
    before = everything(net)
    net.visit = visit
    transaction.begin()
    net(x)
    assert everything(net) != before
    transaction.forward_state.probe()
    transaction.rollback()
    after = everything(net)
    assert {k for k in before if before[k] != after.get(k)} == set()
    assert after.keys() == before.keys()


@pytest.mark.parametrize("visit", [scale_parameter, swap_parameter])
def test_a_parameter_that_forward_writes_is_found_later_too(visit):
    net = Visited(parameter("p"), lambda m: None)
    transaction = Transaction(net)
    for step in range(120):
        if step == 30:
            net.visit = visit
        transaction.begin()
        net(torch.ones(2, 2))
        transaction.forward_state.probe()
    assert transaction.forward_state.watch.written == {"Visited.p"}
    before, held = net.p.detach().clone(), net.p
    transaction.begin()
    net(torch.ones(2, 2))
    transaction.rollback()
    assert torch.equal(net.p, before)
    assert net.p is held


def test_an_optimizers_own_steps_are_not_taken_for_writes_of_forward():
    net = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    transaction = Transaction(net)
    for _ in range(60):
        transaction.begin()
        net(torch.ones(1, 2)).sum().backward()
        transaction.forward_state.probe()
        optimizer.step()
        optimizer.zero_grad()
    assert transaction.forward_state.watch.written == set()


def conv_net():
    from speechbrain.nnet.CNN import Conv1d
    from speechbrain.nnet.normalization import BatchNorm1d

    layers = []
    for _ in range(8):
        layers += [Conv1d(8, 3, in_channels=8), BatchNorm1d(input_size=8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.1))


class Counted(TorchDispatchMode):
    """All operations that torch runs."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_batch_costs_few_operations_and_none_that_waits_for_a_device():
    net = conv_net()
    transaction = Transaction(net)
    for _ in range(3):
        transaction.begin()
        net(torch.randn(2, 20, 8)).sum().backward()
        net.zero_grad()
        transaction.forward_state.probe()
    with Counted() as counted:
        transaction.begin()
        transaction.forward_state.probe()
    waits = {"_local_scalar_dense", "nonzero", "masked_select", "index", "item"}
    assert not waits & set(counted.names)
    # 24 buffers: gathered by kind, not one by one.
    assert len(counted.names) < 16


def test_of_library_modules_only_what_can_move_is_read():
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    assert module_names(nn.Conv1d(1, 1, 1)) == []
    assert set(module_names(nn.Dropout(0.1))) == {"p", "training"}
    assert set(module_names(nn.BatchNorm1d(2))) == {"eps", "momentum", "training"}
    assert "training" in module_names(nn.GRU(2, 2))
    ecapa = ECAPA_TDNN(4, channels=[8] * 4 + [24], lin_neurons=4)
    read = sum(len(module_names(module)) for module in ecapa.modules())
    assert read < 1.5 * len(list(ecapa.modules()))
    lazy = nn.LazyLinear(2)
    assert "in_features" in module_names(lazy)


def test_a_recurrent_net_is_covered_without_a_copy_of_its_weights():
    net = nn.GRU(4, 4)
    transaction = Transaction(net)
    transaction.begin()
    state = transaction.forward_state
    assert (len(state._buffers.live), len(state._attributes.live)) == (0, 0)
    torch.random.manual_seed(3)
    transaction.rollback()


def test_weight_norm_is_not_copied_but_computed_anew():
    net = nn.utils.weight_norm(nn.Conv1d(2, 2, 3))
    transaction = Transaction(net)
    for _ in range(2):
        transaction.begin()
        assert transaction.forward_state._attributes.live == []
        net(torch.zeros(1, 2, 5)).sum().backward()
    transaction.rollback()
    assert torch.isfinite(net(torch.zeros(1, 2, 5))).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("numel", [0, 1, 5, 100_000])
@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_the_probe_sees_one_bad_element_of_any_kind(dtype, numel, value):
    tensors = [torch.zeros(numel, dtype=dtype), torch.zeros(3, dtype=torch.int64)]
    shadow = TensorShadow(tensors)
    shadow.take()

    def clean():
        parts = shadow.spoiled_by(tensors) + nonfinite_flag(tensors[:1])
        return all(bool(torch.isfinite(part)) for part in parts)

    assert clean()
    if numel:
        tensors[0][numel // 2] = value
        assert not clean()


def test_the_probe_forgives_what_was_bad_before():
    tensors = [torch.tensor([1.0, NAN]), torch.zeros(2)]
    shadow = TensorShadow(tensors)
    shadow.take()
    assert all(torch.isfinite(part) for part in shadow.spoiled_by(tensors))
    tensors[0][0] = NAN
    assert not all(torch.isfinite(part) for part in shadow.spoiled_by(tensors))


def test_a_shadow_keeps_its_memory_when_objects_change():
    shadow = TensorShadow([torch.ones(3), torch.ones(2)])
    block = next(iter(shadow.blocks.values()))
    live = [torch.full((3,), 7.0), torch.full((2,), 8.0)]
    shadow.follow(live)
    shadow.take()
    assert next(iter(shadow.blocks.values())) is block
    assert block.tolist() == [7, 7, 7, 8, 8]


def test_large_copies_begin_a_cache_line_whatever_lies_beside_them():
    tensors = [
        torch.tensor(True),
        torch.arange(3),
        torch.rand(7),
        torch.rand(4096),
        torch.rand(1000, dtype=torch.float64),
        torch.rand(64, 64),
    ]
    shadow = TensorShadow(tensors)
    before = [tensor.clone() for tensor in tensors]
    shadow.take()
    assert {shadow.copies[place].data_ptr() % 64 for place in (3, 4, 5)} == {0}
    for tensor in tensors:
        tensor.zero_()
    shadow.restore()
    assert all(map(torch.equal, tensors, before))


def test_slots_read_and_write_in_one_order():
    spaces = [{"a": 1}, {"b": 2, "c": 3}, {}]
    slots = Slots([(spaces[0], "a"), (spaces[1], "b"), (spaces[1], "c")])
    values = slots.read()
    assert sorted(values) == [1, 2, 3]
    slots.write(list(map(operator.neg, values)))
    assert spaces == [{"a": -1}, {"b": -2, "c": -3}, {}]
    del spaces[0]["a"]
    with pytest.raises(KeyError):
        slots.read()


def test_a_lazy_module_may_be_guarded():
    net = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    transaction = Transaction(net)
    for _ in range(3):
        transaction.begin()
        net(torch.randn(4, 2))
        transaction.forward_state.probe()
    mean = net[1].running_mean.clone()
    transaction.begin()
    net(torch.randn(4, 2))
    transaction.rollback()
    assert torch.equal(net[1].running_mean, mean)
