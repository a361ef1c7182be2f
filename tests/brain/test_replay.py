"""A dump replayed in a fresh process shows the same verdict, and says why."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speechbrain_ext.brain.forensics.dump import read_dump
from speechbrain_ext.brain.forensics.replay import replay, replay_dump
from speechbrain_ext.brain.forensics.untrained import script_brain
from speechbrain_ext.cli import run
from speechbrain_ext.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

#: A training script as a user has it: its own Brain, its own arguments.
SCRIPT = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader
from speechbrain_ext.brain import NaNSafeBrain, NonFinitePolicy


class Tagger(NaNSafeBrain):
    def compute_forward(self, batch, stage):
        x = self.modules.front(batch["x"]).relu()
        return self.modules.head(self.modules.drop(self.modules.norm(x)))

    def compute_objectives(self, predictions, batch, stage):
        loss = nn.functional.cross_entropy(predictions, batch["y"])
        if batch["poison"] == "loss":
            loss = loss + torch.tensor(torch.nan)
        if batch["poison"] == "gradient":
            predictions.register_hook(lambda grad: grad * torch.inf)
        if batch["poison"] == "norm":
            loss = loss + 1e25 * self.modules.head.weight.sum()
        if batch["poison"] == "raise":
            raise ValueError("too short")
        if batch["poison"] == "once" and self.optimizer_step == 2:
            loss = loss * torch.nan
        return loss


def batches(fault):
    generator = torch.Generator().manual_seed(3)
    for index in range(4):
        batch = {
            "id": [f"utt{index}_{row}" for row in range(4)],
            "x": torch.randn(4, 6, generator=generator),
            "y": torch.randint(3, (4,), generator=generator),
            "poison": fault if index == 2 else "",
        }
        if index == 2 and fault == "nan":
            batch["x"][1, 2] = torch.nan
        if index == 2 and fault == "huge":
            batch["x"][1] = 1e30
        if index == 2 and fault == "label":
            batch["y"][3] = 9
        yield batch


def main(folder, fault, classes=3):
    torch.manual_seed(5)
    modules = {
        "front": nn.Linear(6, 8),
        "norm": nn.BatchNorm1d(8),
        "drop": nn.Dropout(0.3),
        "head": nn.Linear(8, int(classes)),
    }
    brain = Tagger(
        modules,
        lambda p: torch.optim.Adam(p, 1e-2),
        hparams={"nan_guard": NonFinitePolicy(dump_folder=folder)},
        run_opts={"noprogressbar": True, "device": "cpu"},
    )
    print("this goes to stdout")
    brain.fit(range(1), DataLoader(list(batches(fault)), batch_size=None))
    assert brain.health.rejected == 1
    print("trained")


if __name__ == "__main__":
    if sys.argv[1] == "never":
        sys.exit(3)
    if sys.argv[1] == "idle":
        raise SystemExit
    if sys.argv[1] != "nothing":
        main(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "train.py"
    path.write_text(SCRIPT)
    return path


FRESH = (
    "import sys; from speechbrain_ext.brain.forensics.replay import replay; "
    "from speechbrain_ext.cli import run; sys.exit(run(replay, sys.argv[1:], 'replay'))"
)
FAULTS = {
    "nan": ("loss", "data"),
    "huge": (None, "data"),
    "label": (None, "data"),
    "loss": ("loss", "model"),
    "gradient": ("gradient", "model"),
    "norm": ("norm overflow", "model"),
    "raise": ("exception", "model"),
}


@pytest.fixture(scope="module")
def dumps(script, tmp_path_factory):
    """One process trains all: what matters is that the replay is another one."""
    space = {}
    exec(compile(SCRIPT, str(script), "exec"), space)  # noqa: S102
    folder = tmp_path_factory.mktemp("dumps")
    for fault in [*FAULTS, "once"]:
        space["main"](str(folder / fault / "debug_nan"), fault)
    return folder


def dump_of(dumps, fault):
    return dumps / fault / "debug_nan" / "nan_batch_3_epoch_0.pt"


def replayed(dumps, script, fault, capsys):
    file = dump_of(dumps, fault)
    torch.manual_seed(99)  # whatever this process did before
    words = [str(file), "--json", "--script", str(script), str(dumps / fault), fault]
    code = run(replay, words, "replay")
    out = capsys.readouterr().out
    return code, json.loads(out)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_verdict_comes_again_to_the_bit(dumps, script, fault, capsys):
    code, facts = replayed(dumps, script, fault, capsys)
    cause, conclusion = FAULTS[fault]
    assert code == 0
    assert facts["reproduced"]
    assert facts["verdict"]["cause"] == facts["recorded"]["cause"]
    assert cause in (None, facts["verdict"]["cause"])
    assert facts["conclusion"] == conclusion
    if facts["verdict"]["cause"] not in ("label", "exception"):
        assert facts["same_bits"]
    recorded = read_dump(dump_of(dumps, fault)).diagnosis
    assert facts["diagnosis"]["cause"] == recorded["cause"]


def test_layers_and_gradients_are_listed_and_the_first_bad_one_marked(
    dumps, script, capsys
):
    _, facts = replayed(dumps, script, "nan", capsys)
    layers = facts["layers"]
    assert [layer["name"] for layer in layers] == ["front", "norm", "drop", "head"]
    assert [layer["first"] for layer in layers] == [True, False, False, False]
    assert layers[0]["nan"] == 8
    _, facts = replayed(dumps, script, "gradient", capsys)
    assert not any(layer["bad"] for layer in facts["layers"])
    first = [entry["name"] for entry in facts["gradients"] if entry["first"]]
    assert first == ["head.bias"]


def test_a_fault_that_does_not_come_again_is_said_so(dumps, script, capsys):
    code, facts = replayed(dumps, script, "once", capsys)
    assert code == 1
    assert facts["verdict"]["cause"] == "accepted"
    assert facts["conclusion"] == "not reproducible"


def test_a_fresh_process_says_the_same_and_writes_nothing(dumps, script):
    file, folder = dump_of(dumps, "nan"), dumps / "nan"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    words = [str(file), "--script", str(script), str(folder), "nan"]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *words],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "<- first bad" in text
    assert "(same bits)" in text
    assert "conclusion: data: input non-finite: x of utterance 'utt2_1'" in text
    assert "this goes to stdout" not in text
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_nothing_of_the_user_is_left_changed(dumps, script, capsys):
    before = (list(sys.path), list(sys.argv))
    replayed(dumps, script, "nan", capsys)
    assert (list(sys.path), list(sys.argv)) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.py"], "no such file"),
        (["{script}", "never"], "exit code 3"),
        (["{script}"], "IndexError"),
        (["{script}", "nothing"], "never called fit"),
    ],
)
def test_a_script_that_does_not_train_is_told(script, words, message):
    with pytest.raises(UserError, match=message):
        script_brain([word.format(script=script) for word in words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/none.pt"], "no such file"),
        (["{tmp}/broken.pt"], "is no dump"),
        (["{file}"], "no hyperparams.yaml"),
        (["{file}", "--script"], "--script needs"),
        (["{file}", "--bogus"], "No such option"),
    ],
)
def test_usage_errors_are_2_and_say_what_to_do(dumps, tmp_path, words, message, capsys):
    (tmp_path / "broken.pt").write_bytes(b"not a dump")
    file = dump_of(dumps, "nan")
    words = [word.format(tmp=tmp_path, file=file) for word in words]
    assert run(replay, words, "replay") == 2
    assert message in capsys.readouterr().err


def test_weights_of_another_model_are_refused(dumps, script):
    file = dump_of(dumps, "nan")
    brain = script_brain([str(script), str(dumps), "nan", "7"])
    with pytest.raises(UserError, match="does not belong to this model"):
        replay_dump(read_dump(file), brain)


def test_a_dump_without_weights_is_refused(dumps, script, tmp_path):
    source = dump_of(dumps, "nan")
    copied = tmp_path / source.name
    copied.write_bytes(source.read_bytes())
    brain = script_brain([str(script), str(dumps), "nan"])
    with pytest.raises(UserError, match="weights are missing"):
        replay_dump(read_dump(copied), brain)


# -- a recipe of this project ----------------------------------------------------------

RECIPE = ROOT / "recipes" / "codec" / "transform.yaml"
TINY = {
    "crop_seconds": 0.2,
    "codec.width": 16,
    "codec.decoder_blocks": 1,
    "codec.quantizer.dim": 16,
    "codec.quantizer.num_quantizers": 8,
    "codec.quantizer.codebook_size": 16,
    "codec.quantizer.group_sizes": [8, 8],
    "codec.quantizer.depth": 6,
    "valid_kbps": [0.8],
    "eval_kbps": [0.8],
}


def test_an_experiment_of_ours_is_replayed_without_its_corpus(tmp_path, capsys):
    from speechbrain.dataio.batch import PaddedBatch

    from speechbrain_ext.config import load_recipe
    from speechbrain_ext.tasks.codec.train import make_brain

    experiment = tmp_path / "exp"
    recipe = load_recipe(
        RECIPE,
        {
            **TINY,
            "output_folder": str(experiment),
            "train_manifest": "gone.json",
            "valid_manifest": "gone.json",
        },
        run_opts={"device": "cpu", "noprogressbar": True},
    )
    experiment.mkdir(exist_ok=True)
    (experiment / "hyperparams.yaml").write_text(recipe.resolved_yaml)
    brain = make_brain(recipe)
    brain.init_optimizers()
    brain._guard.start()
    generator = torch.Generator().manual_seed(1)
    wav = 0.1 * torch.randn(3, 3200, generator=generator)
    wav[1, 100] = torch.nan
    batch = PaddedBatch([{"id": f"utt{i}", "wav": w} for i, w in enumerate(wav)])
    assert torch.isnan(brain.fit_batch(batch))
    (file,) = (experiment / "debug_nan").glob("nan_batch_*.pt")
    before = {p: p.stat().st_mtime_ns for p in experiment.rglob("*")}
    assert run(replay, [str(file), "--json"], "replay") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["conclusion"] == "data"
    assert facts["diagnosis"]["utt_ids"] == ["utt1"]
    assert {p: p.stat().st_mtime_ns for p in experiment.rglob("*")} == before
