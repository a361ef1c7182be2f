"""The model card: everything from the results, nothing of the machine, for the Hub."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from speechbrain_ext.data.corpora import open_corpus
from speechbrain_ext.data.corpora.facts import YOURS, facts_of
from speechbrain_ext.report.page import render_markdown
from speechbrain_ext.report.results import ResultsError, read_results
from speechbrain_ext.sharing.card import card_metrics, render_card, without_places
from speechbrain_ext.sharing.front_matter import to_yaml

EGS = Path(__file__).resolve().parents[2] / "egs"
SPEAKER = EGS / "voxceleb_mini" / "results" / "debian_split1_seed1234.json"
CODEC = EGS / "telugu" / "results" / "human_8khz.json"

DATA = {
    "corpus": "openslr66",
    "title": "OpenSLR SLR66",
    "licence": "CC-BY-SA-4.0",
    "language": ["te"],
    "synthetic": False,
    "counts": {"train": 33, "test": 12},
    "seconds": {"train": 124.2, "test": 61.0},
}
FACTS = {
    "cost": {"epochs": 8, "device": "cuda:0", "gpu": "Card X", "threads": 2},
    "resumed": [
        {
            "time": "2026-01-01T00:00:00+00:00",
            "epoch": 3,
            "forced": True,
            "changes": [{"key": "learning_rate", "old": "0.1", "new": "0.2"}],
        }
    ],
}


def load(path, **data):
    results = json.loads(path.read_text(encoding="utf-8"))
    results["conditions"] |= {"data": {**DATA, **data}, **FACTS}
    return results


@pytest.fixture(params=[SPEAKER, CODEC], ids=["speaker", "codec"])
def results(request):
    return load(request.param)


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


# -- what stands in it -----------------------------------------------------------------


def test_the_hub_reads_the_front_matter(results):
    card = ModelCard(render_card(results, name="a-model"))
    assert card.data.language == ["te"]
    assert card.data.license == "cc-by-sa-4.0"
    assert card.data.library_name == "speechbrain"
    assert card.data.datasets == ["openslr66"]
    assert card.data.model_name == "a-model"
    values = {(one.metric_type, one.metric_name): one.metric_value
              for one in card.data.eval_results}  # fmt: skip
    assert len(values) == len(card_metrics(results)) > 3
    revisions = {one.dataset_revision for one in card.data.eval_results}
    assert revisions == {results["conditions"]["split_hash"]}


def test_the_figures_are_those_of_the_results():
    speaker, codec = load(SPEAKER), load(CODEC)
    chosen = next(s for s in speaker["systems"] if s["chosen"])
    metrics = front(render_card(speaker, name="x"))["model-index"][0]["results"][0]
    [main] = [m for m in metrics["metrics"] if m["name"].startswith("EER %, main")]
    assert main["value"] == round(100 * chosen["lists"]["main"]["eer"], 2)
    low, high = (100 * end for end in chosen["lists"]["main"]["eer_interval"])
    assert f"interval {low:.2f} to {high:.2f}" in main["name"]
    ours = max(
        (s for s in codec["systems"] if s["name"] == "ours"), key=lambda s: s["kbps"]
    )
    found = {metric["name"]: metric["value"] for metric in card_metrics(codec)}
    snr = round(ours["mean"]["snr_db"], 2)
    assert found[f"SNR dB at {ours['kbps']:.1f} kbps, mean over files"] == snr


def test_all_facts_are_told(results):
    text = render_card(results, name="x", files=["a.bin: the weights"], usage="Use it.")
    conditions = results["conditions"]
    for part in (
        conditions["split_hash"], conditions["config_hash"],
        f"{conditions['parameters']:,}", f"| seed | {conditions['seed']} |",
        "OpenSLR SLR66", "CC-BY-SA-4.0", "train 33 (2.1 min), test 12",
        f"{conditions['train_seconds']:,.1f} s", "8 epochs",
        "cuda:0, Card X, 2 threads",
        "| rejected batches | 0 |", "| utterances in quarantine | 0 |",
        "learning_rate: 0.1 -> 0.2 (forced, from epoch 3",
        conditions["git"]["commit"], "torch 2.11.0", "- `a.bin`: the weights",
        "## Usage\n\nUse it.", "## Limits",
    ):  # fmt: skip
        assert part in text, part
    assert "the command alone does not make this model again" in text
    if results["task"] == "speaker":
        assert "trials without score | 0 at most" in text
        assert text.count(conditions["caveat"][1:]) == 1  # its first letter is capital


def test_a_card_tells_the_weights_that_are_shared_from_those_that_are_not():
    codec, speaker, sha256 = load(CODEC), load(SPEAKER), "ab" * 32
    codec["conditions"] |= {"parameters": 393_056, "buffers": 4_104_155}
    text = render_card(codec, name="x", weights_sha256=sha256)
    assert f"| model.safetensors, SHA-256 | {sha256} |" in text
    assert "393,056 by gradient, and 4,104,155 in codebooks and buffers |" in text
    private = speaker["conditions"]["checkpoint"]
    text = render_card(speaker, name="x", weights_sha256=sha256)
    assert f"(not shared), SHA-256 begins | {private} |" in text
    speaker["conditions"]["checkpoint"] = sha256[:16]  # unpacked and scored
    text = render_card(speaker, name="x", weights_sha256=sha256)
    assert "not shared" not in text


def test_the_page_of_results_tells_the_same_facts_once(results):
    text = render_markdown(results)
    for part in ("| corpus | openslr66, OpenSLR SLR66 |", "| rejected batches | 0 |",
                 "learning_rate: 0.1 -> 0.2", "| licence of the data | CC-BY-SA-4.0 |",
                 results["command"]):  # fmt: skip
        assert text.count(part) == 1, part


def test_without_front_matter_it_begins_with_the_title(results):
    text = render_card(results, name="x", front_matter=False)
    assert text.startswith("# x\n")
    assert "front matter" not in text
    assert render_card(results, name="x").endswith(text[text.index("## Limits") :])


def test_rendering_twice_gives_the_same_text(results):
    again = json.loads(json.dumps(results))
    assert render_card(again, name="x") == render_card(results, name="x")


# -- what is not known -----------------------------------------------------------------


@pytest.mark.parametrize("path", [SPEAKER, CODEC])
def test_older_results_say_that_it_was_not_recorded(path):
    results = read_results(path)
    for key in ("data", "cost", "resumed"):
        results["conditions"].pop(key, None)
    results["command"] = "./run.sh"
    text = render_card(results, name="x")
    assert "| corpus | not recorded |" in text
    assert "were not recorded" in text
    assert front(text)["license"] == "unknown"
    assert "language" not in front(text)
    assert "datasets" not in front(text)


def test_the_corpus_of_older_results_is_that_of_the_command():
    results = read_results(CODEC)
    results["conditions"].pop("data", None)
    assert "model-index" not in front(render_card(results, name="x"))
    results["command"] = "./run.sh --corpus=festival --tag=festival"
    text = render_card(results, name="x")
    assert "| corpus | festival |" in text
    assert front(text)["datasets"] == ["festival"]
    assert ModelCard(text).data.eval_results[0].dataset_type == "festival"


def test_a_figure_that_is_missing_has_its_reason_and_no_value():
    results = load(CODEC)
    for system in results["systems"]:
        system["mean"]["pesq_wb"] = None
        system["mean"]["not_measured"] = {"pesq_wb": {"needs gcc": 12}}
    results["conditions"]["train_seconds"] = None
    text = render_card(results, name="x")
    assert "PESQ-WB not measured: needs gcc" in text
    assert "not measured: no seconds in the training log" in text
    assert "pesq_wb" not in {metric["type"] for metric in card_metrics(results)}
    speaker = load(SPEAKER)
    for system in speaker["systems"]:
        for figures in system["lists"].values():
            figures.update(eer=None, eer_interval=None, eer_threshold=None)
            figures["not_measured"]["eer"] = "no target trial"
            figures.update({"min_dcf_0.01": None, "min_dcf_0.05": None})
    text = render_card(speaker, name="x")
    assert "EER: no target trial" in text
    assert "model-index" not in front(text)
    ModelCard(text)


@pytest.mark.parametrize(
    ("data", "licence"),
    [
        ({"licence": YOURS}, "unknown"),
        ({"licence": None, "licences": {"a": "GPL-2", "b": "CC-BY-3.0"}}, "other"),
        ({"licence": None, "licences": {"a": "GPL-2", "b": YOURS}}, "unknown"),
        ({"licence": None, "licences": {"a": "GPL-2", "b": "GPL-2+"}}, "gpl-2.0"),
        ({"licence": "My own: 'terms'"}, "other"),
    ],
)
def test_the_licence_is_the_datas_or_not_claimed(data, licence):
    results = load(SPEAKER, **data)
    text = render_card(results, name="x")
    assert front(text)["license"] == licence
    assert ("licence of the data is not known" in text) == (licence == "unknown")


def test_synthetic_speech_is_a_limit():
    assert "speech is synthetic" in render_card(load(CODEC, synthetic=True), name="x")
    assert "synthetic" not in render_card(load(CODEC), name="x")


# -- strangers -------------------------------------------------------------------------

ODD = [
    'a: "b" #c', "no", "1e5", "0x1F", "1:30", "~", "- x", "{a}", "it's", "---", "a\nb",
    "తెలుగు", "|", "<script>alert(1)</script>", "*x", "&a", "!ref <x>", "%", "x: y: z",
    " ", "null", "2026-01-01", "a\tb\x07", "😀", "\\n",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_names_survive(name):
    results = load(SPEAKER, corpus=name, title=name)
    text = render_card(results, name=name)
    found = front(text)
    [index] = found["model-index"]
    assert index["name"] == name
    assert index["results"][0]["dataset"]["type"] == name
    assert found["datasets"] == [name]
    body = text.split("---\n", 2)[2]
    assert "<script" not in body
    # Every line of a table has as many cells as its heading.
    for table in re.findall(r"(?:^\|.*\|\n)+", body, re.M):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1


def test_yaml_11_and_12_read_the_same_values():
    value = {"list": ODD, "number": 1.5, "whole": 3, "empty": [], "none": {}}
    text = to_yaml(value)
    import ruamel.yaml

    assert yaml.safe_load(text) == value
    assert ruamel.yaml.YAML(typ="safe", pure=True).load(text) == value


def test_no_absolute_path_of_the_machine_is_in_it(results):
    results["command"] = (
        "./run.sh --data_folder=/home/somebody/rec --tag='a b' --expdir /secret/place "
        "--url=https://example.org/x/y --python=~/bin/python"
    )
    results["conditions"]["caveat"] = "see /home/somebody/notes.txt, and a/b, 1/2"
    results["left_out"] = [
        {"utt_id": "u", "reason": "NaN in /home/somebody/rec/u.wav", "dump": None}
    ]
    text = render_card(results, name="x", usage="`from_hparams('/home/somebody/m')`")
    assert "somebody" not in text
    assert "secret" not in text
    assert "--data_folder=DATA_FOLDER" in text
    assert "https://example.org/x/y" in text
    assert "ee notes.txt, and a/b, 1/2" in text


def test_a_command_cannot_end_its_block():
    results = load(CODEC)
    results["command"] = "./run.sh --tag='```\n# x'"
    text = render_card(results, name="x")
    assert "````\n./run.sh" in text
    assert without_places("./run.sh 'open") == "./run.sh 'open"


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": []}, {"data": {"language": "te"}}, {"data": {"licences": ["x"]}},
        {"cost": 3}, {"resumed": [{"changes": [1]}]}, {"resumed": "x"},
    ],
)  # fmt: skip
def test_facts_of_a_wrong_shape_are_a_message(wrong, tmp_path):
    results = json.loads(CODEC.read_text())
    results["conditions"] |= wrong
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ResultsError, match=f"conditions.{next(iter(wrong))}"):
        read_results(tmp_path / "results.json")


# -- corpora know what they are --------------------------------------------------------


def test_every_corpus_tells_licence_and_language(tmp_path):
    pytest.importorskip("espeakng_loader")
    sentences = {"sentences": EGS / "telugu" / "local" / "sentences.txt"}
    voices = {"sentences": EGS / "voxceleb_mini" / "local" / "sentences.txt"}
    known = {
        name: facts_of(open_corpus(name, **options), tmp_path, None)
        for name, options in {
            "espeak": sentences, "espeak_voices": voices, "festival": sentences,
            "openslr66": {}, "commonvoice": {"locale": "pt_BR"}, "voxceleb1": {},
            "folder": {}, "debian": {},
        }.items()
    }  # fmt: skip
    assert {name: found["corpus"] for name, found in known.items()} == {
        name: name for name in known
    }
    assert known["espeak"]["licence"] == "Apache-2.0"
    assert known["espeak"]["language"] == ("te",)
    assert known["espeak"]["synthetic"] is True
    assert known["espeak_voices"]["language"] == ("en", "te")
    assert known["festival"]["licences"]["the voice telugu_NSK_diphone"] == "GPL-2+"
    assert known["commonvoice"]["language"] == ("pt",)
    assert known["folder"] == {"corpus": "folder", "title": "a folder of recordings",
                               "licence": YOURS}  # fmt: skip
    json.dumps(known)


def test_debian_tells_the_licence_of_each_package_that_is_there(tmp_path):
    voice = tmp_path / "root/usr/share/klettres/te/alpha/a.ogg"
    voice = Path(str(voice).replace("/te/", "/ml/"))
    voice.parent.mkdir(parents=True)
    voice.write_bytes(b"x")
    found = facts_of(open_corpus("debian"), tmp_path, None)
    assert found["licences"] == {"klettres-data": "GPL-2+"}
    assert found["language"] == ("ml",)
