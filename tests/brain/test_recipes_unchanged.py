"""Recipes written for stock Brain run with only the base class changed: same bits."""

import doctest
import functools
import random
import tempfile
from pathlib import Path

import numpy
import pytest
import speechbrain
import speechbrain.core
import torch

from speechbrain_ext.brain import NaNSafeBrain, NonFinitePolicy
from tests.brain import stock_recipes as recipes
from tests.brain.same_bits import differences, files_of, state_of

ALL = recipes.ONE_STEP | recipes.MORE_STEPS
GOOD = recipes.utterances(5 * recipes.PER_BATCH)


class Guarded(NaNSafeBrain):
    """As NaNSafeBrain, but the second epoch delivers the bad utterances again."""

    def __init__(self, modules, opt_class, hparams, run_opts, checkpointer):
        hparams = {**(hparams or {}), "nan_guard": NonFinitePolicy(quarantine=False)}
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)


def seed_everything():
    torch.manual_seed(3)
    random.seed(3)
    numpy.random.seed(3)


def left_by(base, name, items, *, kind="padded", epochs=2, **options):
    """Run a recipe; return its Brain and all that the run has left."""
    seed_everything()
    with tempfile.TemporaryDirectory() as folder:
        brain = ALL[name](base, Path(folder), **options)
        recipes.run(brain, items, kind=kind, epochs=epochs)
        return brain, state_of(brain) | files_of(brain, Path(folder))


@functools.cache
def stock(name, **options):
    """What stock Brain leaves after the good batches alone."""
    return left_by(speechbrain.Brain, name, GOOD, **options)[1]


def with_bad_batches(*places):
    """Insert a poisoned batch before the good batches of these indices."""
    batches = [
        GOOD[start : start + recipes.PER_BATCH]
        for start in range(0, len(GOOD), recipes.PER_BATCH)
    ]
    for count, place in enumerate(places):
        batches.insert(place + count, recipes.poisoned(seed=90 + count))
    return [item for batch in batches for item in batch]


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_of_stock_brain_ends_with_the_same_bits(name):
    ours, left = left_by(NaNSafeBrain, name, GOOD)
    assert differences(stock(name), left) == []
    assert ours.health.rejected == 0


@pytest.mark.parametrize("places", [(0,), (5,), (3, 3)], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_a_bad_batch_leaves_no_trace_in_a_recipe_of_stock_brain(name, places):
    ours, left = left_by(Guarded, name, with_bad_batches(*places))
    assert ours.health.rejected == 2 * len(places)  # two epochs
    assert differences(stock(name), left) == []


@pytest.mark.parametrize("name", ALL)
def test_nothing_has_to_be_set_for_that(name):
    ours, left = left_by(NaNSafeBrain, name, with_bad_batches(2), epochs=1)
    assert ours.health.rejected == 1
    assert differences(stock(name, epochs=1), left) == []


@pytest.mark.parametrize("name", recipes.ACCUMULATING)
@pytest.mark.parametrize("place", [None, 0, 3, 5])
def test_a_window_of_four_goes_on_without_the_bad_micro_batch(name, place):
    options = {"grad_accumulation_factor": 4}
    items = GOOD if place is None else with_bad_batches(place)
    ours, left = left_by(Guarded, name, items, **options)
    assert ours.health.rejected == (0 if place is None else 2)
    assert differences(stock(name, **options), left) == []


@pytest.mark.parametrize("name", ["speaker", "ctc", "noam", "two_steps"])
def test_batches_that_are_plain_dicts_do_as_well(name):
    ours, left = left_by(Guarded, name, with_bad_batches(2), kind="dict")
    assert ours.health.rejected == 2
    assert differences(stock(name, kind="dict"), left) == []


@pytest.mark.parametrize("name", ["speaker", "ctc", "closure"])
def test_bfloat16_is_no_exception(name):
    options = {"precision": "bf16"}
    ours, left = left_by(Guarded, name, with_bad_batches(2), **options)
    assert ours.health.rejected == 2
    assert differences(stock(name, **options), left) == []


@pytest.mark.smoke
@pytest.mark.parametrize("base", [speechbrain.Brain, NaNSafeBrain])
def test_the_example_of_the_brain_class_itself_runs(base):
    examples = doctest.DocTestFinder(recurse=False).find(
        speechbrain.Brain, globs={**vars(speechbrain.core), "Brain": base}
    )
    results = [doctest.DocTestRunner().run(example) for example in examples]
    assert sum(result.attempted for result in results) >= 5
    assert sum(result.failed for result in results) == 0


def test_batches_may_be_shuffled_and_loaded_by_name():
    def shuffled(base):
        seed_everything()
        brain = recipes.classification(base, None)
        loader = {"batch_size": 2, "shuffle": True, "num_workers": 0}
        data = recipes.dataset(GOOD)
        brain.fit(range(1, 4), data, train_loader_kwargs=loader)
        return state_of(brain)

    assert differences(shuffled(speechbrain.Brain), shuffled(NaNSafeBrain)) == []


def test_a_run_resumed_in_mid_epoch_ends_as_stock(tmp_path):
    def interrupted(base, items, folder):
        for limit in (2, None):
            seed_everything()
            brain = recipes.ctc(base, folder, ckpt_interval_steps=1)
            brain.optimizer_step_limit = limit
            if limit:  # as if killed: the epoch has no end
                brain.on_stage_end = lambda *args: None
            recipes.run(brain, items)
        return brain, state_of(brain)

    _, reference = interrupted(speechbrain.Brain, GOOD, tmp_path / "stock")
    ours, left = interrupted(Guarded, with_bad_batches(1), tmp_path / "ours")
    assert ours.health.committed == 2 + 3 + 5  # resumed, not begun again
    assert differences(reference, left) == []
