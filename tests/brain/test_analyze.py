"""What analyze-nan says of a dump is true, and it says it to a tired person."""

import contextlib
import io
import json
import math
import os

import numpy as np
import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_ext.brain.forensics.analyze import (
    analyze_dump,
    analyze_nan,
    find_dumps,
)
from speechbrain_ext.brain.forensics.causes import CAUSES
from speechbrain_ext.brain.forensics.dump import read_dump, write_dump
from speechbrain_ext.brain.forensics.evidence import bad_rows, level
from speechbrain_ext.brain.forensics.issues import find_patterns
from speechbrain_ext.brain.forensics.statistics import gradient_statistics
from speechbrain_ext.brain.verdict import Verdict
from speechbrain_ext.cli import run as run_command
from tests.brain.test_dump import write_schema_1

NAN, INF = float("nan"), float("inf")
RATE = 16000


def tone(seconds=0.25, amplitude=0.5):
    return amplitude * torch.sin(torch.arange(int(seconds * RATE)) * 0.3)


def utterances(**changed):
    wavs = {"a": tone(), "b": tone(0.2), "c": tone(), **changed}
    return PaddedBatch(
        [{"id": k, "path": f"/x/{k}.wav", "wav": w} for k, w in wavs.items()]
    )


def write(folder, batch=None, cause="loss", *, batch_index=3, epoch=1, **options):
    options.setdefault("context", {"precision": "fp32", "sample_rate": RATE})
    batch = utterances() if batch is None else batch
    verdict = Verdict(cause, NAN, NAN)
    return write_dump(
        folder, batch, verdict, batch_index=batch_index, epoch=epoch, **options
    )


def analysis(folder, *args, **options):
    return analyze_dump(read_dump(write(folder, *args, **options)))


def run(*words):
    """Type a command; return its exit code and all that was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = run_command(analyze_nan, list(map(str, words)), "analyze-nan")
    return code, printed.getvalue()


def spoiled(*places, value=NAN):
    wav = tone()
    for start, stop in places:
        wav[start:stop] = value
    return wav


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_percentiles_and_extremes_are_those_of_numpy(tmp_path, dtype):
    x = torch.randn(4, 30, 5, generator=torch.Generator().manual_seed(2)).to(dtype)
    x[1, 2, 3], x[0, 0, 0] = NAN, INF
    facts = analysis(tmp_path, {"feats": x})["items"]["feats"]
    array = x.numpy().astype(np.float64)
    kept = np.sort(array[np.isfinite(array)])
    for rank, value in facts["percentiles"].items():
        assert value == pytest.approx(np.percentile(kept, float(rank)), rel=1e-12)
    assert [e["value"] for e in facts["largest"]] == kept[::-1][:10].tolist()
    assert [e["value"] for e in facts["smallest"]] == kept[:10].tolist()
    for entry in facts["largest"] + facts["smallest"]:
        assert array[tuple(entry["place"])] == entry["value"]


@pytest.mark.parametrize("shape", [(2, 3000), (2, 3000, 2), (2, 2, 3000)])
def test_places_in_audio_are_those_of_the_tensor_whatever_its_axes(tmp_path, shape):
    wav = torch.zeros(shape)
    place = {(2, 3000): (1, 40), (2, 3000, 2): (1, 40, 1), (2, 2, 3000): (1, 1, 40)}
    wav[place[shape]] = 0.7
    facts = analysis(tmp_path, {"wav": wav})["items"]["wav"]
    assert facts["largest"][0]["place"] == list(place[shape])
    assert facts["largest"][0]["place"][facts["time_axis"]] == 40
    assert [e["samples"] for e in facts["levels"]] == [3000, 3000]


def test_neighbouring_bad_samples_fold_into_ranges_as_counted_one_by_one():
    draw = np.random.default_rng(3)
    array = np.zeros((6, 200, 2))
    array[draw.random(array.shape) < 0.1] = np.nan
    array[draw.random(array.shape) < 0.1] = np.inf
    array[2] = 0
    found = {e["row"]: e for e in bad_rows(array, [None] * 6, [200] * 6)}
    assert set(found) == {0, 1, 3, 4, 5}
    for row, entry in found.items():
        steps = [s for s in range(200) if not np.isfinite(array[row, s]).all()]
        starts = [s for s in steps if s - 1 not in steps]
        assert entry["num_ranges"] == len(starts)
        ranges = entry["ranges"]
        assert [part["start"] for part in ranges] == starts[: len(ranges)]
        for part in ranges:
            inside = array[row, part["start"] : part["stop"]]
            assert not np.isfinite(inside).all(-1).any()
            kinds = (np.isnan(inside).any(), np.isinf(inside).any())
            names = {(True, False): "NaN", (False, True): "Inf"}
            assert part["what"] == names.get(kinds, "NaN and Inf")
        assert entry["nan"] == sum(math.isnan(v) for v in array[row].flat)


@pytest.mark.parametrize("amplitude", [1e-3, 0.5, 1e30])
def test_level_of_a_sine_is_3_db_below_its_peak(amplitude):
    wav = amplitude * np.sin(2 * np.pi * np.arange(16000) / 160)
    found = level(wav)
    assert found["peak"] == pytest.approx(amplitude, rel=1e-6)
    assert found["rms_db"] == pytest.approx(
        20 * math.log10(amplitude) - 3.0103, abs=1e-3
    )
    assert found["dc"] == pytest.approx(0, abs=1e-9 * amplitude)


def test_levels_tell_silence_clipping_offset_and_nothing_left():
    square = np.where(np.arange(100) % 4 == 0, 1.0, 0.1)
    assert level(square)["clipped"] == 0.25
    assert level(np.full(10, -0.25))["dc"] == -0.25
    assert level(np.zeros(10))["silent"] is True
    assert level(np.zeros(10))["rms_db"] == -INF
    assert level(np.full(10, 1e-5))["silent"] is True  # -100 dBFS
    assert level(np.full(10, 2e-4))["silent"] is False  # -74 dBFS
    assert level(np.full(10, NAN))["peak"] is None
    assert level(np.zeros(0))["samples"] == 0
    assert level(np.array([0.5, NAN, INF]))["peak"] == 0.5


def test_padding_is_not_part_of_an_utterance(tmp_path):
    batch = utterances(b=torch.full((1000,), 0.1))
    batch.wav.data[1, 2000:2010] = NAN
    facts = analysis(tmp_path, batch)
    assert facts["items"]["wav"]["levels"][1]["rms_db"] == pytest.approx(-20, abs=1e-4)
    assert facts["items"]["wav"]["bad"][0]["ranges"][0]["padding"] is True
    assert "in the padding only" in facts["issues"][0]["text"]


def test_nan_is_placed_by_utterance_and_in_seconds(tmp_path):
    path = write(tmp_path, utterances(c=spoiled((1600, 1760), (3000, 3001))))
    code, text = run(path)
    assert code == 0
    assert "utterance 'c': 161 NaN, 0 Inf" in text
    assert "NaN at samples 1600-1759 (0.1000-0.1100 s)" in text
    assert "NaN at sample 3000 (0.1875 s)" in text


DATA_FAULTS = {
    "nan": ({"b": spoiled((5, 9))}, "input non-finite"),
    "inf": ({"b": spoiled((5, 9), value=INF)}, "input non-finite"),
    "gain": ({"b": tone() * 1e6}, "input extreme"),
    "loud against its batch": (
        {"a": tone() * 1e-3, "b": tone() * 4, "c": tone() * 1e-3},
        "input extreme",
    ),
    "silent": ({"b": tone() * 0}, "input silent"),
}


@pytest.mark.parametrize("name", DATA_FAULTS)
def test_the_utterance_is_blamed_without_any_diagnosis(tmp_path, name):
    changed, cause = DATA_FAULTS[name]
    found = analysis(tmp_path, utterances(**changed))
    blamed = [(i["cause"], i["utt_ids"]) for i in found["issues"] if i["cause"]]
    assert blamed == [(cause, ["b"])]
    assert (found["likely_cause"], found["culprits"]) == (cause, ["b"])
    assert "/x/b.wav" in found["recommendations"][0]["text"]


def test_a_silent_batch_is_called_one(tmp_path):
    batch = utterances(**{k: torch.zeros(4000) for k in "abc"})
    found = analysis(tmp_path, batch, "norm overflow")
    assert found["issues"][0]["text"] == "wav: the whole batch is silent"


def test_clipping_offset_and_shortness_are_remarks_and_not_causes(tmp_path):
    batch = utterances(a=tone() * 9, b=tone() * 0.1 + 0.2, c=tone(0.05))
    batch.wav.data.clamp_(-1, 1)
    issues = analysis(tmp_path, batch, "gradient")["issues"]
    assert issues[0]["cause"] == "gradient of module"
    texts = [issue["text"] for issue in issues if issue["cause"] is None]
    assert ["clipped" in texts[0], "DC offset" in texts[1]] == [True, True]
    assert "very short (down to 50 ms): utterance 'c'" in texts[2]


@pytest.mark.parametrize("verdict", ["loss", "gradient", "norm overflow", "buffer"])
def test_normal_data_leave_the_model_the_loss_or_the_state(tmp_path, verdict):
    found = analysis(tmp_path, None, verdict)
    assert found["issues"][0]["cause"] in CAUSES
    assert "the data look normal" in found["issues"][0]["text"]
    assert found["recommendations"][0]["command"]
    assert found["culprits"] == []


@pytest.mark.parametrize("as_list", [True, False])
def test_labels_out_of_range_are_named_with_their_utterance(tmp_path, as_list):
    labels = [0, 140, -3]
    batch = {"id": ["a", "b", "c"], "spk": labels if as_list else torch.tensor(labels)}
    context = {"label_ranges": {"spk": 140}}
    found = analysis(tmp_path, batch, "exception", context=context)
    assert found["items"]["spk"]["out_of_range"] == [
        {"value": 140, "place": [1], "utt_id": "b"},
        {"value": -3, "place": [2], "utt_id": "c"},
    ]
    assert found["culprits"] == ["b", "c"]
    assert found["likely_cause"] == "label out of range"


def test_ignored_and_padded_labels_are_in_order(tmp_path):
    batch = PaddedBatch(
        [
            {"id": "a", "tokens": torch.tensor([1, 2, -100])},
            {"id": "b", "tokens": torch.tensor([3])},
        ],
        per_key_padding_kwargs={"tokens": {"value": -1}},
    )
    assert analysis(tmp_path, batch)["items"]["tokens"]["num_out_of_range"] == 0


def test_the_number_of_classes_can_be_given(tmp_path):
    path = write(tmp_path, {"id": ["a", "b"], "spk": torch.tensor([1, 5])})
    assert "out of range 5 at [1] (b)" in run(path, "--classes", "spk=5")[1]
    code, text = run(path, "--classes", "spk")
    assert (code, "must be ITEM=NUMBER" in text) == (2, True)


def test_label_distribution_is_drawn_to_scale(tmp_path):
    labels = torch.tensor([7] * 8 + [2] * 4 + [5] * 2)
    text = run(write(tmp_path, {"spk": labels}))[1]
    bars = [line.count("#") for line in text.splitlines() if "#" in line]
    assert bars == [40, 20, 10]
    assert "8 (57.1%)" in text


DIAGNOSIS = {
    "cause": "loss term",
    "detail": "the term 'aam' is NaN",
    "utt_ids": ["b"],
    "module": "classifier (AAMSoftmax)",
    "operation": "div",
    "phase": "objective",
    "source": "aam.py:87: x / y",
    "loss_terms": {"aam": NAN, "vq": 0.5},
    "recommendation": {"text": "Do this.", "command": "./run.sh --preset low_scale"},
}


def test_the_diagnosis_of_the_dump_comes_first(tmp_path):
    batch = utterances(c=tone() * 0)
    found = analysis(tmp_path, batch, diagnosis=DIAGNOSIS)
    assert [a["cause"] for a in found["recommendations"]] == [
        "loss term",
        "input silent",
    ]
    assert found["recommendations"][0]["command"] == "./run.sh --preset low_scale"
    assert (found["likely_cause"], found["culprits"]) == ("loss term", ["b", "c"])
    text = run(tmp_path)[1]
    assert "aam nan, vq 0.5" in text
    assert "aam.py:87: x / y" in text


def test_a_plain_fault_outweighs_a_diagnosis_that_found_nothing(tmp_path):
    batch = utterances(b=spoiled((5, 9)))
    found = analysis(tmp_path, batch, diagnosis={"cause": "not reproducible"})
    assert found["likely_cause"] == "input non-finite"


def test_schema_1_is_analyzed_by_its_data_alone(tmp_path):
    code, text = run(write_schema_1(tmp_path), "--sample-rate", 8000)
    assert code == 0
    assert "NaN at samples 10-19 (0.0013-0.0025 s)" in text
    assert "net.0 (Conv1d)" in text
    assert (
        "input non-finite: wav contains 10 NaN and 0 Inf values in utterance 'b'"
        in (" ".join(text.split()))
    )


def test_the_sample_rate_of_the_experiment_is_used(tmp_path):
    (tmp_path / "hyperparams.yaml").write_text("seed: 1\nsample_rate: 8000\n")
    found = analysis(tmp_path / "debug_nan", context={})
    assert found["sample_rate"] == 8000


@pytest.mark.parametrize("old", [True, False])
def test_gradients_are_told_by_name_in_dumps_of_any_age(tmp_path, old):
    net = torch.nn.Linear(2, 2)
    net.weight.grad, net.bias.grad = torch.full((2, 2), NAN), torch.ones(2)
    found = ["weight"] if old else gradient_statistics(net.named_parameters())
    write(tmp_path, cause="gradient", report={"gradients": found, "buffers": ["b"]})
    text = run(tmp_path)[1]
    assert ("    weight\n" in text) == old
    assert ("    weight: 4 NaN, 0 Inf\n" in text) != old
    assert ("1 of 2 tensors" in text) != old
    assert "spoiled by forward: b" in text


def test_what_dumps_share_is_found_and_counted(tmp_path):
    for index, changed in enumerate(("b", "b", "c", "b")):
        batch = utterances(**{changed: spoiled((5, 9))})
        write(tmp_path, batch, batch_index=5, epoch=index, diagnosis=DIAGNOSIS)
    found = find_patterns([analyze_dump(read_dump(p)) for p in find_dumps(tmp_path)])
    counts = {(p["what"], p["value"]): len(p["dumps"]) for p in found}
    assert counts["blamed utterance", "b"] == 4  # the diagnosis names it each time
    assert counts["layer", "classifier (AAMSoftmax)"] == 4
    assert counts["batch position", 5] == 4
    assert ("epoch", 1) not in counts
    assert counts["utterance", "c"] == 4
    code, text = run(tmp_path)
    assert "blamed utterance b is in all 4 dumps" in text
    assert code == 0


def test_json_is_json_and_holds_everything(tmp_path):
    write(tmp_path, utterances(b=spoiled((5, 9))))
    code, text = run(tmp_path, "--json")

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    whole = json.loads(text, parse_constant=refuse)
    assert code == 0
    assert whole["dumps"][0]["loss"] == "nan"
    assert whole["dumps"][0]["items"]["wav"]["bad"][0]["ranges"][0]["stop"] == 9
    assert whole.keys() == {"schema", "dumps", "patterns", "broken", "plots"}


def test_a_broken_dump_does_not_hide_the_good_ones(tmp_path):
    good = write(tmp_path, batch_index=1)
    bad = write(tmp_path, batch_index=2)
    bad.write_bytes(bad.read_bytes()[:3000])
    (tmp_path / "nan_batch_4_epoch_1.json").write_text("{}")
    code, text = run(tmp_path)
    assert code == 2
    assert f"{good.stem}: rejected" in text
    assert "not readable: 2 of 3" in text
    assert f"{bad}: is cut off" in text
    assert "nan_batch_4_epoch_1.pt: no such file" in text


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda p: None, "there is no"),
        (lambda p: p.mkdir(), "no nan_batch_*.pt in"),
        (lambda p: (p / "debug_nan").mkdir(parents=True), "no nan_batch_*.pt in"),
    ],
    ids=["missing", "empty", "no dump"],
)
def test_a_place_without_dumps_is_a_message(tmp_path, make_it, message):
    make_it(tmp_path / "exp")
    code, text = run(tmp_path / "exp")
    assert code == 2
    assert message in text
    assert str(tmp_path / "exp") in text


def test_the_newest_experiment_is_taken_without_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run()[0] == 2
    for age, name in ((100, "old"), (50, "new")):
        path = write(tmp_path / "exp" / name / "debug_nan")
        for file in path.parent.iterdir():
            stamp = path.stat().st_mtime - age
            os.utime(file, (stamp, stamp))
    assert find_dumps(None)[0].parts[:2] == ("exp", "new")
    assert find_dumps("exp")[0].parts[:2] == ("exp", "new")
    assert find_dumps("exp/old")[0].parts[:2] == ("exp", "old")


def test_a_dump_named_twice_is_shown_once_also_by_its_json(tmp_path):
    path = write(tmp_path)
    text = run(path, path.with_suffix(".json"), tmp_path)[1]
    assert text.count(": rejected") == 1


def test_brief_is_the_overview_alone(tmp_path):
    write(tmp_path)
    text = run(tmp_path, "--brief")[1]
    assert "likely cause" in text
    assert "percentile" not in text


def test_no_colour_reaches_a_pipe_and_no_line_is_broken(tmp_path):
    write(tmp_path, diagnosis={**DIAGNOSIS, "source": "x" * 300})
    text = run(tmp_path)[1]
    assert "\x1b" not in text
    assert "x" * 300 in text


ODD = {
    "tensor": torch.full((3,), NAN),
    "empty": {"wav": torch.zeros(0, 4000), "spk": torch.zeros(0, dtype=torch.int64)},
    "flat": {"wav": torch.zeros(2, 0)},
    "scalar": {"x": torch.tensor(NAN), "n": torch.tensor(-2)},
    "complex": {"spec": torch.full((2, 3), NAN, dtype=torch.complex64)},
    "bfloat16": {"x": torch.full((2, 3), INF, dtype=torch.bfloat16)},
    "sparse": {"x": torch.eye(3).to_sparse()},
    "text": ["a", ["b"]],
    "bool": {"mask": torch.tensor([True, False])},
    "floats": {"seconds": [1.5, NAN]},
    "huge number": {"n": [10**30]},
    "4-d": {"image": torch.zeros(2, 3, 4, 5)},
    "lengths": PaddedBatch([{"wav": torch.ones(3)}, {"wav": torch.ones(1)}]),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("limit", [1e6, 0.0])
def test_a_batch_of_any_make_is_analyzed(tmp_path, name, limit):
    write(tmp_path, ODD[name], max_megabytes=limit)
    code, text = run(tmp_path, "--plot")
    assert code == 0
    assert "nan_batch_3_epoch_1: rejected" in text


@pytest.mark.parametrize("kind", ["audio", "features"])
def test_the_picture_is_a_png_of_the_bad_rows(tmp_path, kind):
    batch = utterances(c=spoiled((1600, 1760)))
    if kind == "features":
        batch = {"feats": torch.randn(2, 50, 20)}
        batch["feats"][1, 3:5] = NAN
    path = write(tmp_path, batch)
    code, text = run(tmp_path, "--plot")
    picture = path.with_suffix(".png")
    assert code == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert f"written: {picture}" in text
