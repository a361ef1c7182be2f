"""What is flagged leaves no trace, and stock is told apart from it."""

import dataclasses
import json

import pytest
import speechbrain
import torch

from speechbrain_ext.brain import NonFinitePolicy
from speechbrain_ext.chaos import plan
from speechbrain_ext.chaos.faults import FAULTS
from speechbrain_ext.chaos.reference import ReferenceModel
from speechbrain_ext.chaos.survival import (
    OURS,
    POSITIONS,
    Outcome,
    Row,
    Survey,
    chaos_policy,
)
from speechbrain_ext.chaos.tables import as_markdown
from speechbrain_ext.errors import UserError

#: Two epochs of six: enough for moments, one snapshot, and batches after the fault.
SMALL = 12


def survey(name, position="middle", **options):
    model = ReferenceModel(name, batches=SMALL, **options)
    policy = dataclasses.replace(chaos_policy(), snapshot_every=3)
    return Survey(model, POSITIONS[position], policy)


@pytest.fixture(scope="module")
def speaker():
    return survey("speaker")


@pytest.fixture(scope="module")
def codec():
    return survey("codec", dropout=0.1)


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["speaker", "codec"])
def test_clean_runs_are_those_of_stock(name, request):
    checks = request.getfixturevalue(name).checks
    assert checks.sound
    assert checks.clean_as_stock, checks.different
    assert checks.reference == "stock"


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("speaker", "nan_sample"),
        ("speaker", "label"),
        ("speaker", "nan_loss"),
        ("speaker", "inf_gradient"),
        ("speaker", "nan_parameter"),
        ("speaker", "inf_exp_avg_sq"),
        ("codec", "huge_sample"),
        ("codec", "nan_gradient"),
        ("codec", "nan_exp_avg"),
        ("codec", "nan_buffer"),
    ],
)
def test_a_fault_leaves_no_trace_and_its_cause_is_named(name, fault, request):
    row = request.getfixturevalue(name).row(FAULTS[fault])
    ours = row.outcomes[OURS]
    assert ours.flagged
    assert not ours.died
    assert ours.finite
    assert ours.identical, ours.different
    assert ours.cause_right, ours.causes


@pytest.mark.parametrize("fault", ["silent_utterance", "gain"])
def test_what_nobody_needs_to_see_passes_as_under_stock(fault, speaker):
    row = speaker.row(FAULTS[fault])
    assert row.outcomes[OURS].as_stock
    assert row.as_expected


@pytest.mark.parametrize(
    ("name", "position"),
    [("codec", "first"), ("codec", "last"), ("codec", "twice"), ("speaker", "window")],
)
def test_it_holds_wherever_the_fault_strikes(name, position):
    found = survey(name, position, scheduler=True, batch_kind="dict")
    assert found.checks.clean_as_stock, found.checks.different
    for fault in ("inf_sample", "nan_gradient", "nan_parameter"):
        outcome = found.row(FAULTS[fault]).outcomes[OURS]
        assert outcome.flagged
        assert outcome.identical, (fault, outcome.died, outcome.different)
        if FAULTS[fault].kind == "batch":
            assert outcome.rejected == len(found.places)


@pytest.mark.parametrize("fault", ["nan_sample", "label"])
def test_mode_off_fails_exactly_as_stock_does(fault, speaker):
    row = speaker.row(FAULTS[fault], ["stock", "off"])
    stock, off = row.outcomes["stock"], row.outcomes["off"]
    assert stock.died or not stock.finite
    assert off.died == stock.died
    assert off.as_stock


def test_skipping_a_step_poisons_the_buffers(speaker):
    skip = speaker.row(FAULTS["nan_sample"], ["skip"]).outcomes["skip"]
    assert not skip.identical
    assert not skip.finite


def test_a_fault_that_finds_nothing_to_spoil_is_no_survival_and_no_failure(codec):
    row = codec.row(FAULTS["label"])
    assert (row.applies, row.outcomes, row.survived) == (False, {}, True)


def test_the_reference_models_stand_on_stock_itself_where_that_is_asked(tmp_path):
    model = ReferenceModel("speaker", batches=4)
    stock = model.brain("stock", NonFinitePolicy(), tmp_path)
    assert not hasattr(stock, "health")
    assert isinstance(stock, speechbrain.Brain)
    ours = model.brain(OURS, NonFinitePolicy(), tmp_path)
    assert ours.health.rejected == 0
    a, b = (brain.modules.state_dict() for brain in (stock, ours))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_epochs_that_are_too_short_for_the_position_are_refused():
    with pytest.raises(UserError, match="too short for position 'twice'"):
        Survey(
            ReferenceModel("codec", batches=2), POSITIONS["twice"], NonFinitePolicy()
        )


def outcome(guard=OURS, **changes):
    plain = {"died": "", "finite": True, "identical": True, "flagged": True}
    return Outcome(guard, **{**plain, "causes": ["input extreme"], **changes})


@pytest.mark.parametrize(
    ("changes", "survived"),
    [
        ({}, True),
        ({"identical": False}, False),
        ({"identical": False, "flagged": False}, True),
        ({"finite": False, "flagged": False, "identical": False}, False),
        ({"died": "ValueError: x"}, False),
    ],
)
def test_survival_needs_a_finite_end_and_no_trace_of_what_was_flagged(
    changes, survived
):
    assert outcome(**changes).survived is survived


def made_up():
    checks = survey_checks()
    first = Row("toy", "middle", "huge_sample", "rejected", True)
    first.outcomes = {
        "stock": outcome("stock", died="ValueError: x", finite=False, identical=False),
        OURS: outcome(cause_right=True, rejected=1),
    }
    second = Row("toy", "middle", "label", "rejected", False)
    third = Row("toy", "middle", "gain", "none", True)
    third.outcomes = {
        "stock": outcome("stock", flagged=False, identical=False),
        OURS: outcome(flagged=False, identical=False, as_stock=True),
    }
    return [plan.Result("middle", checks, [first, second, third])]


def survey_checks():
    from speechbrain_ext.chaos.survival import Checks

    return Checks("toy", "middle", True, True, 0, "stock")


def test_tables_and_figures_say_the_same():
    results = made_up()
    text = as_markdown("toy", results)
    stock = "died (ValueError), poisoned"
    assert f"| 1e30 sample | {stock} | **identical** | input extreme |" in text
    assert "| label out of range | - | - | - |" in text
    assert "| gain 1e6 | finite | as stock | - |" in text
    assert "| ours, middle | 2 of 2 | 1 of 2 | 1 of 1 | 1 of 1 |" in text
    report = plan.as_json("toy", results)
    assert report["survived"] is True
    assert report["totals"][OURS]["identical"] == 1
    assert report["totals"]["stock"]["finite"] == 1
    json.dumps(report, allow_nan=False)
