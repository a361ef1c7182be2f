"""From a loaded recipe to a trained codec."""

from __future__ import annotations

import sys
import time

import torch
from speechbrain.utils.distributed import get_rank, if_main_process

from speechbrain_ext.config import Recipe
from speechbrain_ext.data.loader import crop_loader, read_samples, utterance_loader
from speechbrain_ext.errors import UserError
from speechbrain_ext.next_command import tells_own_commands
from speechbrain_ext.resume import changes
from speechbrain_ext.tasks.brain import brain_of
from speechbrain_ext.tasks.codec.adversarial import AdversarialCodecBrain
from speechbrain_ext.tasks.codec.brain import CodecBrain
from speechbrain_ext.tasks.codec.rates import check_rates, check_snrs
from speechbrain_ext.tasks.initialize import load_initial_weights
from speechbrain_ext.tasks.progress import shown_progress
from speechbrain_ext.tasks.settings import (
    enough,
    manifests,  # noqa: F401  (chaos asks the task for it)
    refuse,
    setting_faults,
    world_size,
)
from speechbrain_ext.tasks.training import carry_out

#: First weights need no more speech than this, and it has to fit into memory.
ENOUGH_SECONDS = 1800.0

#: Settings that may change between two runs in one experiment -> what happens then.
HARMLESS = changes.HARMLESS | {
    "eval_kbps": "only what is scored afterwards",
    "eval_snr": "only what is scored afterwards",
    "code_steps": "only how small files of codes are",
}


@tells_own_commands
def train(recipe: Recipe, *, force_resume: bool = False) -> CodecBrain:
    """Train a codec as its recipe says; goes on where an earlier run stopped.

    Arguments
    ---------
    recipe : Recipe
        Of ``recipes/codec``; see ``transform.yaml`` for the keys.
    force_resume : bool
        See `carry_out`.

    Returns
    -------
    CodecBrain
        After its last epoch.

    Raises
    ------
    ManifestError, UserError, DivergenceError
        See `carry_out`.
    """
    return carry_out(recipe, sys.modules[__name__], force_resume=force_resume)


def make_brain(recipe: Recipe) -> CodecBrain:
    """Build the Brain of a recipe; reads no data and writes nothing.

    Every task module has this function: ``replay`` and ``chaos`` call it.
    """
    hparams = recipe.hparams
    if hparams["num_threads"]:
        torch.set_num_threads(hparams["num_threads"])
    for name in ("valid_kbps", "eval_kbps"):
        check_rates(hparams["modules"]["codec"], hparams[name], name)
    check_snrs(hparams["modules"]["codec"], hparams.get("eval_snr") or (), "eval_snr")
    adversarial = "discriminator" in hparams["modules"]
    kind = AdversarialCodecBrain if adversarial else CodecBrain
    return brain_of(kind, recipe, hparams["modules"])


def make_loaders(recipe: Recipe, train_set: dict, valid_set: dict) -> tuple:
    """Make the loaders of training crops and of whole validation utterances."""
    hparams = recipe.hparams
    train_loader = crop_loader(
        train_set,
        crop_samples=round(hparams["crop_seconds"] * hparams["sample_rate"]),
        crops_per_epoch=hparams["crops_per_epoch"],
        batch_size=hparams["batch_size"],
        seed=hparams["seed"],
        num_workers=hparams["num_workers"],
        rank=get_rank() or 0,
        world_size=world_size(),
    )
    return train_loader, utterance_loader(valid_set, hparams["num_workers"])


def check_settings(hparams: dict, run_opts: dict) -> None:
    """Refuse values of the right type with which no epoch could be trained.

    Raises
    ------
    UserError
        Naming all of them.
    """
    faults = setting_faults(hparams, run_opts)
    if hparams.get("choose_by", "snr") not in ("snr", "loss"):
        faults.append(f"choose_by is snr or loss, got {hparams['choose_by']!r}")
    if hasattr(hparams["modules"]["codec"], "quantizer") and "vq_weight" not in hparams:
        faults.append("vq_weight is missing: the weight of the quantizer's own loss")
    if not any(p.requires_grad for p in hparams["modules"]["codec"].parameters()):
        faults.append(
            "codec has nothing to train; post_filter_channels of a WaveCodec is >= 1"
        )
    for name in ("valid_kbps", "eval_kbps"):
        if not hparams[name]:
            faults.append(f"{name} must name at least one bitrate, got []")
    refuse(faults)


def first_weights(brain: CodecBrain, train_set: dict) -> None:
    """Give a new run its first weights: from a checkpoint, or from the train files."""
    hparams = vars(brain.hparams)
    codec = brain.modules.codec
    if hparams["init_from"]:
        report = load_initial_weights(codec, hparams["init_from"], "codec")
        if if_main_process():
            print(report)
        brain.starts_trained = True
        return
    if hparams["data_init"]:
        started = time.monotonic()
        chosen = enough(train_set, hparams["seed"], ENOUGH_SECONDS)
        if if_main_process():
            print(
                f"first weights from {len(chosen)} of {len(train_set)} train files ...",
                file=sys.stderr,
            )
        waves = [torch.from_numpy(read_samples(u)) for u in chosen]
        try:
            steps = getattr(codec, "initialization_steps", 0)
            with shown_progress("learn contexts", steps) as options:
                codec.initialize(waves, seed=hparams["seed"], **options)
        except ValueError as error:
            raise UserError(
                f"{hparams['train_manifest']}: too little to start from: {error}"
            ) from error
        brain.seconds_before = time.monotonic() - started
        brain.starts_trained = True
