"""Advice fits the cause; every symptom and remedy of the seed document is reachable."""

import pytest

from speechbrain_ext.brain.forensics.causes import CAUSES, PRESETS, recommend
from speechbrain_ext.checkout import project_root

#: The list of the issue; "output of module" and "loss spike" are of this project.
NAMED = {
    "input non-finite",
    "input extreme",
    "input silent",
    "label out of range",
    "loss term",
    "output of module",
    "gradient of module",
    "norm overflow",
    "parameter corrupted",
    "moment corrupted",
    "buffer corrupted",
    "statistics corrupted",
    "mixed precision overflow",
    "exception",
    "loss spike",
    "not reproducible",
    "other rank",
}


def test_the_list_is_closed_and_documented():
    assert set(CAUSES) == NAMED
    for key, cause in CAUSES.items():
        assert cause.key == key
        for text in (cause.meaning, cause.recognised, cause.remedy):
            assert text
            assert text.isascii()
        assert bool(cause.command) != bool(cause.presets)
        assert set(cause.presets) <= set(PRESETS)


@pytest.mark.parametrize("cause", sorted(NAMED))
def test_every_cause_has_a_command_that_exists(cause):
    words = recommend(cause).command.split()
    if words[0] == "./run.sh":
        assert words[1:3] == ["--stage", "train"]
        assert words[3:] in ([], *(["--preset", name] for name in PRESETS))
    else:
        assert words[0] == "speechbrain-ext"
        assert words[1] in ("analyze-nan", "replay")


@pytest.mark.parametrize(
    "cause", ["input non-finite", "input silent", "label out of range"]
)
def test_no_learning_rate_is_blamed_for_bad_data(cause):
    advice = recommend(cause, {"utt_ids": ["a", "b"], "precision": "fp16"})
    assert "learning rate" not in advice.text
    assert "preset" not in advice.command
    assert advice.command_for("d.pt") == "speechbrain-ext analyze-nan d.pt"


def test_a_bad_file_is_named():
    advice = recommend("input non-finite", {"paths": [f"{i}.wav" for i in range(5)]})
    assert advice.text.startswith("Look at 0.wav, 1.wav, 2.wav and 2 more. Check the")


@pytest.mark.parametrize(
    ("cause", "facts", "preset"),
    [
        ("mixed precision overflow", {"precision": "fp16"}, "no_amp"),
        ("norm overflow", {}, "tight_clip"),
        ("gradient of module", {}, "tight_clip"),
        ("loss spike", {}, "tight_clip"),
        ("loss term", {}, "low_lr"),
        ("loss term", {"module": "classifier (AAMSoftmax)"}, "low_scale"),
        ("gradient of module", {"source": "aam.py:30: cosine.sqrt()"}, "low_scale"),
    ],
)
def test_the_preset_fits_the_cause(cause, facts, preset):
    advice = recommend(cause, facts, presets=PRESETS)
    assert advice.preset == preset
    assert advice.command == f"./run.sh --stage train --preset {preset}"


def test_what_was_tried_is_not_proposed_again():
    tried = []
    for expected in ("tight_clip", "low_lr", "ultrasafe"):
        advice = recommend("norm overflow", tried=tried)
        assert advice.preset == expected
        tried.append(advice.preset)
    assert recommend("norm overflow", tried=tried).command == "speechbrain-ext replay"


def test_only_presets_that_exist_are_proposed():
    assert recommend("norm overflow", presets=["ultrasafe"]).preset == "ultrasafe"


def test_an_unknown_cause_is_refused():
    with pytest.raises(ValueError, match="no cause 'cosmic'"):
        recommend("cosmic")


#: Symptom of the seed document -> causes that it may be, and each of its solutions.
SEED = [
    ("Input data contains NaN", ["input non-finite"], "audio file for corruption"),
    ("Input data contains NaN", ["input non-finite"], "augmentation"),
    ("Input data contains NaN", ["input non-finite"], "audio loading"),
    ("Very large values", ["input extreme"], "input normalization"),
    ("Very large values", ["input extreme"], "reduce the learning rate"),
    ("Very large values", ["input extreme"], "augmentation"),
    ("NaN in loss", ["loss term", "output of module"], "0.0005 instead of 0.001"),
    ("NaN in loss", ["loss term", "output of module"], "scale 20 instead of 30"),
    ("NaN in loss", ["loss term", "output of module"], "margin 0.1 instead of 0.2"),
    ("NaN in loss", ["mixed precision overflow"], "Disable mixed precision"),
    (
        "Label out of range",
        ["label out of range"],
        "number of classes matches the data",
    ),
    ("Label out of range", ["label out of range"], "indexes labels"),
    ("clip harder", ["norm overflow", "gradient of module"], "1.0 instead of 5.0"),
]


@pytest.mark.parametrize(("symptom", "causes", "solution"), SEED)
def test_every_solution_of_the_seed_document_is_reached(symptom, causes, solution):
    for cause in causes:
        texts = [
            recommend(cause, {"module": module}).text
            for module in ("net (Linear)", "classifier (AAMSoftmax)")
        ]
        assert any(solution in text for text in texts), symptom


def test_the_documentation_lists_every_cause_in_these_words():
    text = (project_root() / "docs" / "nan_safety.md").read_text(encoding="utf-8")
    for cause in CAUSES.values():
        assert f"| {cause.key} | {cause.meaning} | {cause.recognised} |" in text
