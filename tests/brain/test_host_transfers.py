"""The guard waits for the device no oftener than stock Brain does."""

import collections
import copy
import warnings

import pytest
import speechbrain
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from speechbrain_ext.brain import NaNSafeBrain, NonFinitePolicy, verdict
from tests.brain import stock_recipes as recipes
from tests.brain.test_clean_runs import codec

#: Calls from Python that hand values of a tensor to the host.
HOST_CALLS = {
    "__bool__",
    "__float__",
    "__index__",
    "__int__",
    "__contains__",
    "cpu",
    "equal",
    "item",
    "numpy",
    "tolist",
}
#: Operators whose result, or whose shape, the host has to know.
HOST_OPERATORS = {
    "_local_scalar_dense",
    "_unique2",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "unique_consecutive",
}


class HostTransfers(TorchFunctionMode):
    """Counts what would make the host wait, were the tensors on a GPU.

    On a CPU nothing waits and ``cpu()`` and ``tolist()`` run no operator at all, so
    calls from Python are counted by name, and operators that run outside of such calls
    beside them.
    """

    def __init__(self):
        super().__init__()
        self.seen = collections.Counter()
        self._inside = False
        self._operators = _Operators(self)

    def __enter__(self):
        self._operators.__enter__()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self._operators.__exit__(*exception)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        # A device that is taken from another tensor is a GPU, on a machine with one.
        to_host = name == "to" and any(
            isinstance(given, str) and given == "cpu"
            for given in (*args[1:], *kwargs.values())
        )
        host = name in HOST_CALLS or to_host
        if not host or self._inside:
            return function(*args, **kwargs)
        self.seen[name] += 1
        self._inside = True
        try:
            return function(*args, **kwargs)
        finally:
            self._inside = False


class _Operators(TorchDispatchMode):
    def __init__(self, counts):
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not self._counts._inside:
            packet = function.overloadpacket.__name__
            masks = args[1] if packet in ("index", "index_put", "index_put_") else ()
            boolean = any(
                mask is not None and mask.dtype in (torch.bool, torch.uint8)
                for mask in masks
            )
            if packet in HOST_OPERATORS or boolean:
                self._counts.seen[packet] += 1
        return function(*args, **(kwargs or {}))


def transfers(call) -> collections.Counter:
    """Count the host transfers of one call, by kind."""
    with HostTransfers() as transfers:
        call()
    return transfers.seen


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool(x.isnan().any()), 1),
        (lambda x: x.detach().cpu(), 1),
        (lambda x: x.to("cpu"), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.masked_select(x > 0), 1),
        (lambda x: (x > 0).nonzero(), 1),
        (lambda x: torch.equal(x, x), 1),
        (lambda x: float(x.sum()) + int(x.sum()), 2),
        (lambda x: torch.where(x > 0, x, -x).clamp(min=0).sum(), 0),
        (lambda x: x.masked_fill(x > 0, 0.0).to(torch.float64), 0),
    ],
)
def test_the_counter_sees_each_way_to_the_host(call, expected):
    assert sum(transfers(lambda: call(torch.arange(3.0) - 1)).values()) == expected


class NoLabels(NaNSafeBrain):
    """Labels are compared while they are on the host, which is no transfer there."""

    policy = NonFinitePolicy(label_ranges={})

    def __init__(self, modules, opt_class, hparams, run_opts, checkpointer):
        hparams = {**(hparams or {}), "nan_guard": self.policy}
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)


def prepared(base, recipe, device, folder, **options):
    """A Brain in the middle of an epoch, and its next batch."""
    torch.manual_seed(0)
    if base is NaNSafeBrain:
        base = NoLabels
    brain = recipe(base, folder, device=device, **options)
    batches = list(recipes.as_dicts(recipes.utterances(9 * recipes.PER_BATCH)))
    brain.on_fit_start()
    brain.modules.train()
    brain.on_stage_start(speechbrain.Stage.TRAIN, 1)
    for batch in batches[:5]:  # what is made once is not the step's
        brain.step += 1
        brain.fit_batch(on(batch, device))
    brain.step += 1
    return brain, on(batches[5], device)


def on(batch, device):
    """Move the tensors of a plain dict, as a recipe's ``batch.to()`` would."""
    return {
        key: [part.to(device) for part in item]
        if isinstance(item[0], torch.Tensor)
        else item
        for key, item in copy.deepcopy(batch).items()
    }


BOTH = (speechbrain.Brain, NaNSafeBrain)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """On a CPU the verdict reads its numbers one by one, since none of them waits."""
    monkeypatch.setattr(verdict, "on_host", lambda tensor: False)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", [recipes.speaker, codec])
def test_a_step_waits_no_oftener_than_stock(recipe, precision, accumulation, tmp_path):
    options = {"precision": precision, "grad_accumulation_factor": accumulation}
    seen = {}
    for base in BOTH:
        folder = tmp_path / base.__module__
        brain, batch = prepared(base, recipe, "cpu", folder, **options)
        seen[base] = transfers(lambda brain=brain, batch=batch: brain.fit_batch(batch))
    stock, ours = seen[speechbrain.Brain], seen[NaNSafeBrain]
    assert ours.total() <= stock.total()
    # The verdict is one list of numbers, in the place of stock's isfinite(loss).
    assert ours - stock == {"tolist": 1}
    assert stock - ours == {"__bool__": 1}


@pytest.mark.usefixtures("as_on_a_gpu")
def test_snapshots_wait_once_each(tmp_path):
    """What is verified every N steps costs one transfer then, and none in between."""

    def epoch(every):
        class Often(NoLabels):
            policy = NonFinitePolicy(label_ranges={}, snapshot_every=every)

        brain, batch = prepared(Often, codec, "cpu", tmp_path)
        return transfers(lambda: [brain.fit_batch(batch) for _ in range(20)]).total()

    assert epoch(every=5) - epoch(every=0) <= 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("recipe", [recipes.speaker, codec])
def test_cuda_itself_sees_no_more_synchronisations(recipe, precision, tmp_path):
    counts = {}
    for base in BOTH:
        folder = tmp_path / base.__module__
        brain, batch = prepared(base, recipe, "cuda", folder, precision=precision)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                brain.fit_batch(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        counts[base] = sum("synchroniz" in str(w.message) for w in caught)
    assert counts[speechbrain.Brain] >= 1  # or the mode sees nothing
    assert counts[NaNSafeBrain] <= counts[speechbrain.Brain]
