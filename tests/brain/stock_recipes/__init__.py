"""Recipes as people write them against ``speechbrain.Brain``, base class open.

Each function takes the base class and an experiment folder and returns a Brain; what
it does besides is what SpeechBrain's templates, tutorials and larger recipes do with
the hooks of stock Brain. None of them knows anything of this project.
"""

from tests.brain.stock_recipes.hooks import (
    autoencoder,
    classification,
    frozen_at_first,
    hooks_and_counters,
    logs_from_the_loss,
    no_optimizer,
    noam,
    own_evaluate_batch,
    own_optimizers_step,
    tensor_rate,
)
from tests.brain.stock_recipes.own_fit_batch import (
    closure,
    pretraining,
    separation,
    sharpness,
    two_steps,
)
from tests.brain.stock_recipes.parts import (
    PER_BATCH,
    adam,
    as_dicts,
    dataset,
    here,
    make,
    poisoned,
    run,
    utterances,
)
from tests.brain.stock_recipes.templates import (
    ctc,
    ctc_of_version_05,
    enhancement,
    speaker,
)

__all__ = [
    "PER_BATCH",
    "adam",
    "as_dicts",
    "dataset",
    "here",
    "make",
    "poisoned",
    "run",
]
__all__ += ["utterances"]

#: Every batch steps at most once.
ONE_STEP = {
    made.__name__: made
    for made in (
        speaker,
        enhancement,
        ctc,
        ctc_of_version_05,
        autoencoder,
        classification,
        noam,
        frozen_at_first,
        own_evaluate_batch,
        own_optimizers_step,
        logs_from_the_loss,
        tensor_rate,
        no_optimizer,
        hooks_and_counters,
        separation,
        pretraining,
        sharpness,
    )
}
#: Batches that step more than once.
MORE_STEPS = {made.__name__: made for made in (two_steps, closure)}
#: Recipes that honour ``grad_accumulation_factor``.
ACCUMULATING = [
    "speaker",
    "ctc",
    "ctc_of_version_05",
    "noam",
    "frozen_at_first",
    "hooks_and_counters",
    "pretraining",
]
