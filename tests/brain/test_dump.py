"""A rejected batch can be read again, and names its file and its layer."""

import collections
import json
import math
import os
import random

import numpy as np
import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch, PaddedData
from torch import nn

from speechbrain_ext.brain import NaNSafeBrain, NonFinitePolicy
from speechbrain_ext.brain.forensics.dump import (
    DumpError,
    dumps_in,
    read_dump,
    rebuild_batch,
    write_dump,
)
from speechbrain_ext.brain.forensics.packing import LeftOut
from speechbrain_ext.brain.forensics.statistics import (
    gradient_statistics,
    tensor_statistics,
)
from speechbrain_ext.brain.verdict import Verdict
from tests.brain.test_transaction import batches, deliver, make, poisoned


def dumped(tmp_path, data, **policy):
    guard = NonFinitePolicy(quarantine=False, dump_folder=str(tmp_path), **policy)
    brain = make(NaNSafeBrain, extra={"nan_guard": guard})
    brain.fit(range(1), deliver(data))
    return brain


def test_dump_loads_with_weights_only_and_holds_the_batch(tmp_path):
    bad = poisoned("nan sample")
    dumped(tmp_path, [*batches(2), bad, *batches(1)])
    dump = torch.load(tmp_path / "nan_batch_3_epoch_0.pt", weights_only=True)
    assert dump["utt_ids"] == bad["id"]
    assert torch.equal(dump["items"]["x"], bad["x"]) is False  # NaN is not itself
    assert torch.equal(dump["items"]["x"].isnan(), bad["x"].isnan())
    facts = json.loads((tmp_path / "nan_batch_3_epoch_0.json").read_text())
    assert facts["cause"] == "loss"
    assert facts["loss"] == "nan"
    assert facts["statistics"]["x"]["nan"] == 1
    assert facts["inputs"] == ["x of utterance 'utt0_2' holds 1 NaN and 0 Inf"]


def test_report_names_the_first_bad_layer(caplog):
    class Broken(nn.Module):
        def forward(self, x):
            return x.sum() * torch.inf * 0 + x if (x > 50).any() else x

    brain = make(NaNSafeBrain)
    brain.modules.net.last = nn.Sequential(brain.modules.net.last, Broken())
    spike = batches(1, seed=5)[0]
    with torch.no_grad():
        brain.modules.net.last[0].weight.mul_(0.01)
    brain.modules.net.drop = nn.Identity()
    brain.modules.net.norm = nn.Identity()
    spike["x"] = spike["x"] * 1e5
    brain.fit(range(1), deliver([*batches(1), spike]))
    assert brain.health.rejected == 1
    assert "net.last.1 (Broken)" in caplog.text


def test_number_of_dumps_is_bounded(tmp_path):
    data = [*batches(2), poisoned("nan"), *batches(2), poisoned("nan"), *batches(1)]
    brain = dumped(tmp_path, data, max_dumps=1)
    assert brain.health.rejected == 2
    assert len(list(tmp_path.glob("nan_batch_*.pt"))) == 1


def test_a_large_batch_is_dumped_without_its_tensors_and_says_so(tmp_path):
    dumped(tmp_path, [*batches(1), poisoned("nan")], max_dump_megabytes=1e-6)
    facts = json.loads((tmp_path / "nan_batch_2_epoch_0.json").read_text())
    assert ["limit" in line for line in facts["left_out"]] == [True, True]
    assert facts["statistics"]["x"]["shape"] == [5, 6]


def test_an_unwritable_dump_folder_does_not_end_the_run(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    brain = dumped(blocked / "debug_nan", [*batches(1), poisoned("nan")])
    assert brain.health.rejected == 1
    assert "could not be dumped" in caplog.text


class Staged(nn.Module):
    """A module that learns by statistics, as a quantizer does."""

    statistics_mode = "forward"

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("staged", torch.zeros(()))
        self.register_buffer("learned", torch.zeros(()))

    def forward(self, x):
        self.staged += x.detach().mean()
        return x * self.scale

    def commit_statistics(self):
        self.learned += self.staged
        self.staged.zero_()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_staged_statistics_commit_with_the_step_and_only_then(accumulation):
    def learned(data):
        brain = make(NaNSafeBrain, grad_accumulation_factor=accumulation)
        brain.modules.net.first = nn.Sequential(Staged(), brain.modules.net.first)
        brain.fit(range(1), deliver(data))
        assert brain.modules.net.first[0].statistics_mode == "forward"
        return brain.modules.net.first[0].learned

    data = batches(4)
    clean = learned(data)
    assert clean != 0
    assert torch.equal(clean, learned([*data[:1], poisoned("nan sample"), *data[1:]]))


NAN = float("nan")
Pair = collections.namedtuple("Pair", ["left", "right"])


def wave_batch():
    return {"id": ["a", "b"], "wav": torch.arange(8.0).reshape(2, 4)}


def write(folder, batch=None, verdict=None, **options):
    options = {"batch_index": 3, "epoch": 1, **options}
    batch = wave_batch() if batch is None else batch
    return write_dump(folder, batch, verdict or Verdict("loss", NAN, 1.0), **options)


def same(a, b):
    """Compare two batches: kinds, keys, dtypes and bits."""
    if isinstance(a, (torch.Tensor, np.ndarray)):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, PaddedBatch):
        return vars(a).keys() == vars(b).keys() and all(
            same(value, vars(b)[key]) for key, value in vars(a).items()
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        fields = getattr(a, "_fields", type(a))
        return (
            fields == getattr(b, "_fields", type(b))
            and len(a) == len(b)
            and all(map(same, a, b))
        )
    return type(a) is type(b) and a == b


X = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
BATCHES = {
    "tensor": X,
    "dict": {"id": ["a", "b"], "wav": X, "none": None, "gain": 0.5, "on": True},
    "tuple": (X, torch.tensor([1, 2])),
    "list": [X.half(), X.bfloat16(), X.to(torch.complex64), X > 2],
    "nested": {"a.b": X, "a": {"b": (X + 1, [["deep", 1], []])}, ("k", 2): {}},
    "padded": PaddedBatch(
        [
            {"id": "a", "wav": X[0], "spk": 3, "text": ["x"], "n": 1},
            {"id": "b", "wav": X[1, :1], "spk": 4, "text": ["y", "z"], "n": 2},
        ]
    ),
    "padded data in a dict": {"wav": PaddedData(X, torch.tensor([1.0, 0.5]))},
    "named tuple": Pair(X, "b"),
    "arrays": {"x": np.arange(3, dtype=np.int16), "s": np.zeros((), np.float32)},
    "empty": {"x": torch.zeros(0, 3), "scalar": torch.tensor(2.0)},
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_comes_back_as_the_same_kind_with_the_same_bits(tmp_path, name):
    dump = read_dump(write(tmp_path, BATCHES[name]))
    assert same(BATCHES[name], rebuild_batch(dump))
    assert dump.left_out == []


def test_a_rebuilt_padded_batch_works_as_one(tmp_path):
    batch = rebuild_batch(read_dump(write(tmp_path, BATCHES["padded"])))
    assert batch.to(dtype=torch.float64).wav.data.dtype == torch.float64
    assert len(batch) == batch.batchsize == 2
    assert batch["id"] == batch.at_position(0) == ["a", "b"]


def test_what_is_no_plain_data_is_named_and_stands_in_the_batch(tmp_path):
    batch = {"x": X, "model": nn.Linear(1, 1), "words": np.array(["a"], object)}
    dump = read_dump(write(tmp_path, batch))
    assert [line.split(":")[0] for line in dump.left_out] == ["model", "words"]
    assert rebuild_batch(dump)["model"] == LeftOut("model", "Linear")


def test_everything_the_guide_lists_is_in_it_and_loads_with_weights_only(tmp_path):
    random.seed(1)
    streams = {
        "torch_cpu": torch.get_rng_state(),
        "torch_cuda": [],
        "python": random.getstate(),
        "numpy": np.random.get_state(),
    }
    batch = {"id": ["a"], "path": ["/x/a.wav"], "wav": X[:1], "spk": torch.tensor([7])}
    path = write(
        tmp_path,
        batch,
        diagnosis={"cause": "loss term", "loss_terms": {"aam": NAN}},
        report={"inputs": [], "gradient_statistics": {"nonfinite": 0}},
        random=streams,
        context={"precision": "bf16", "config_hash": "abc", "recipe": tmp_path},
        weights={"w": X, "count": 3},
        incident="epoch 1/step 3",
    )
    dump = read_dump(path)
    assert torch.load(path, weights_only=True)["schema"] == dump.schema == 2
    assert (dump.batch, dump.epoch, dump.cause) == (3, 1, "loss")
    assert math.isnan(dump.loss)
    assert (dump.precision, dump.context["config_hash"]) == ("bf16", "abc")
    assert (dump.utt_ids, dump.paths) == (["a"], ["/x/a.wav"])
    assert dump.random["python"] == random.getstate()
    assert dump.statistics["spk"]["counts"] == {"7": 1}
    assert dump.load_weights()["count"] == 3
    assert dump.weights_name == "state_epoch_1_step_3.pt"
    text = json.loads(path.with_suffix(".json").read_text())
    assert text["diagnosis"]["loss_terms"]["aam"] == "nan"
    assert text["versions"]["torch"] == torch.__version__
    assert not {"items", "random", "structure"} & text.keys()


def test_a_batch_without_paths_says_so(tmp_path):
    assert read_dump(write(tmp_path)).paths is None


def test_weights_are_written_once_for_each_state_of_an_incident(tmp_path):
    weights = {"w": X}
    first = write(tmp_path, weights=weights, incident="i")
    second = write(tmp_path, weights=weights, incident="i", batch_index=4)
    other = write(tmp_path, weights={"w": X + 1}, incident="i", batch_index=5)
    names = [read_dump(p).weights_name for p in (first, second, other)]
    assert names == ["state_i.pt", "state_i.pt", "state_i_2.pt"]
    assert torch.equal(read_dump(other).load_weights()["w"], X + 1)


def test_weights_count_towards_the_limit_and_go_first(tmp_path):
    weights = {"w": torch.zeros(1000, 1000)}  # 4 MB
    dump = read_dump(write(tmp_path, weights=weights, max_megabytes=3.9))
    assert torch.equal(rebuild_batch(dump)["wav"], wave_batch()["wav"])
    assert dump.left_out == ["the weights before the batch: 4 MB (limit 3.9 MB)"]
    assert not list(tmp_path.glob("state_*"))
    with pytest.raises(DumpError, match="max_dump_megabytes"):
        dump.load_weights()


def test_a_batch_that_was_too_large_keeps_its_statistics(tmp_path):
    dump = read_dump(write(tmp_path, max_megabytes=1e-6))
    assert dump.statistics["wav"]["max"] == 7
    assert dump.items == {"id": ["a", "b"]}
    with pytest.raises(DumpError, match="wav.*max_dump_megabytes"):
        rebuild_batch(dump)


def test_a_resumed_run_that_meets_the_same_batch_again_writes_nothing(tmp_path):
    first = write(tmp_path, weights={"w": X}, incident="i")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert write(tmp_path, weights={"w": X}, incident="other") == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"batch": {"id": ["a", "b"], "wav": torch.arange(8.0).reshape(2, 4) + 1}},
        {"verdict": Verdict("gradient", 1.0, NAN)},
        {"context": {"config_hash": "other"}},
        {"random": {"torch_cpu": torch.ones(5, dtype=torch.uint8)}},
    ],
    ids=["batch", "cause", "settings", "streams"],
)
def test_another_incident_at_the_same_place_never_overwrites(tmp_path, change):
    first = write(tmp_path)
    bits = first.read_bytes()
    second = write(tmp_path, **change)
    assert second.name == "nan_batch_3_epoch_1_2.pt"
    assert first.read_bytes() == bits
    assert dumps_in(tmp_path) == [first, second]


def test_other_ranks_have_names_of_their_own(tmp_path):
    context = {"rank": 1}
    path = write(tmp_path, context=context, weights={"w": X}, incident="i")
    assert path.name == "nan_batch_3_epoch_1_rank1.pt"
    assert read_dump(path).weights_name == "state_i_rank1.pt"


def test_dumps_are_listed_in_the_order_of_training(tmp_path):
    for batch, epoch in ((10, 1), (9, 1), (1, 2)):
        write(tmp_path, batch_index=batch, epoch=epoch, weights={"w": X})
    (tmp_path / "nan_batch_notes.pt").write_text("")
    names = [p.stem for p in dumps_in(tmp_path)]
    assert names == [
        "nan_batch_9_epoch_1",
        "nan_batch_10_epoch_1",
        "nan_batch_1_epoch_2",
    ]


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch, call, error):
    calls, save = [], torch.save

    def interrupted(value, path):
        calls.append(path)
        save(value, path)
        if len(calls) == call:
            raise error

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(error):
        write(tmp_path, weights={"w": X})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_away_later(tmp_path):
    old, young = tmp_path / ".nan_batch_1_epoch_1.x.pt", tmp_path / ".state_i.y.pt"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    write(tmp_path)
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_dump_that_is_cut_off_says_so(tmp_path, share):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DumpError, match="is cut off"):
        read_dump(path)


class Own:
    """Nothing that weights_only would load."""


BROKEN = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "text": (lambda p: p.write_text("hello"), "no dump of the guard, or damaged"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "missing": (lambda p: None, "no such file"),
    "checkpoint": (lambda p: torch.save({"w": X}, p), "is no dump of the guard"),
    "list": (lambda p: torch.save([X], p), "is no dump of the guard"),
    "object": (lambda p: torch.save(Own(), p), "holds Python objects"),
    "future": (
        lambda p: torch.save({"schema": 9, "items": {}, "cause": "loss"}, p),
        "has schema 9",
    ),
    "half a dict": (
        lambda p: torch.save({"schema": 2, "items": {}, "cause": "loss"}, p),
        "is damaged, it lacks",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_dump_is_refused_in_a_sentence_that_names_it(tmp_path, name):
    make_it, message = BROKEN[name]
    make_it(tmp_path / "some.pt")
    with pytest.raises(DumpError, match=message) as caught:
        read_dump(tmp_path / "some.pt")
    assert str(tmp_path / "some.pt") in str(caught.value)


def test_weights_are_not_taken_for_a_dump(tmp_path):
    write(tmp_path, weights={"w": X}, incident="i")
    with pytest.raises(DumpError, match="weights before a batch"):
        read_dump(tmp_path / "state_i.pt")


def test_missing_companions_are_told(tmp_path):
    path = write(tmp_path, weights={"w": X}, incident="i")
    (tmp_path / "state_i.pt").unlink()
    with pytest.raises(DumpError, match=r"put state_i.pt back"):
        read_dump(path).load_weights()
    text = path.with_suffix(".json")
    assert read_dump(text).name == path.stem
    text.unlink()
    assert "is missing" in read_dump(path).notes[0]
    write(tmp_path)
    path.unlink(missing_ok=True)
    text.write_text("{}")
    with pytest.raises(DumpError, match="holds only the text"):
        read_dump(text)


def write_schema_1(folder):
    """A dump as version 0.1.0 wrote it."""
    facts = {
        "schema": 1,
        "batch": 2,
        "epoch": 0,
        "cause": "loss",
        "loss": NAN,
        "grad_norm": NAN,
        "utt_ids": ["a", "b"],
    }
    wav = torch.zeros(2, 4000)
    wav[1, 10:20] = NAN
    items = {"id": ["a", "b"], "wav": wav}
    whole = {**facts, "items": items, "lengths": {}, "random": {}}
    torch.save(whole, folder / "nan_batch_2_epoch_0.pt")
    report = {"precision": "fp32", "first_bad_module": "net.0 (Conv1d)", "inputs": []}
    text = {**facts, "loss": "nan", "grad_norm": "nan", **report, "statistics": {}}
    (folder / "nan_batch_2_epoch_0.json").write_text(json.dumps(text))
    return folder / "nan_batch_2_epoch_0.pt"


def test_schema_1_is_read_with_what_it_had_and_not_replayed(tmp_path):
    path = write_schema_1(tmp_path)
    dump = read_dump(path)
    assert (dump.schema, dump.precision, dump.utt_ids) == (1, "fp32", ["a", "b"])
    assert dump.report["first_bad_module"] == "net.0 (Conv1d)"
    assert math.isnan(dump.loss)
    with pytest.raises(DumpError, match="not replayed"):
        rebuild_batch(dump)
    path.with_suffix(".json").unlink()
    assert "not known" in read_dump(path).notes[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_statistics_are_those_of_numpy(dtype, monkeypatch):
    monkeypatch.setattr("speechbrain_ext.brain.forensics.statistics._CHUNK", 7)
    x = torch.randn(5, 13, generator=torch.Generator().manual_seed(1)).to(dtype) + 3
    x[0, 1], x[2, 2], x[3, 3] = NAN, float("inf"), -float("inf")
    found = tensor_statistics(x)
    array = x.numpy().astype(np.float64)
    kept = array[np.isfinite(array)]
    assert (found["nan"], found["inf"]) == (1, 2)
    for name in ("min", "max", "mean", "std"):
        assert found[name] == pytest.approx(getattr(np, name)(kept), rel=1e-12)


@pytest.mark.parametrize(
    "x",
    [torch.zeros(0, 3), torch.full((2,), NAN), torch.zeros(0, dtype=torch.int64)],
    ids=["empty", "all NaN", "no labels"],
)
def test_statistics_of_nothing_have_no_mean(x):
    assert "mean" not in tensor_statistics(x)


def test_statistics_of_labels_count_each_value():
    labels = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(1))
    found = tensor_statistics(labels)
    values, counts = np.unique(labels.numpy(), return_counts=True)
    assert found["counts"] == {
        str(v): c for v, c in zip(values.tolist(), counts.tolist(), strict=True)
    }
    assert list(found["counts"].values()) == sorted(counts.tolist(), reverse=True)


def test_gradient_statistics_name_the_bad_and_measure_the_largest():
    net = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("a", "b", "c")})
    net["a"].weight.grad = torch.tensor([[NAN, 1.0], [float("inf"), NAN]])
    net["b"].weight.grad = torch.full((2, 2), 3e38)  # its norm overflows in float32
    net["c"].weight.grad = torch.zeros(2, 2)
    found = gradient_statistics(net.named_parameters())
    assert (found["parameters"], found["with_gradient"], found["nonfinite"]) == (
        6,
        3,
        1,
    )
    assert found["bad"] == [{"name": "a.weight", "shape": [2, 2], "nan": 2, "inf": 1}]
    first, last = found["largest"]
    assert first["name"] == "b.weight"
    assert first["norm"] == pytest.approx(6e38, rel=1e-6)
    assert (last["max_abs"], last["norm"]) == (0, 0)


def test_a_dump_names_the_recipe_that_the_run_came_from(tmp_path):
    guard = NonFinitePolicy(quarantine=False, dump_folder=str(tmp_path / "debug_nan"))
    brain = make(NaNSafeBrain, extra={"nan_guard": guard})
    brain.origin = {"config_hash": "abc", "presets": ["tight_clip"], "recipe": "x.yaml"}
    brain.fit(range(1), deliver([*batches(2), poisoned("inf")]))
    context = read_dump(next((tmp_path / "debug_nan").glob("nan_batch_*.pt"))).context
    assert context["config_hash"] == "abc"
    assert context["presets"] == ["tight_clip"]
    assert "--preset tight_clip" not in brain._guard.last_report  # tried already
