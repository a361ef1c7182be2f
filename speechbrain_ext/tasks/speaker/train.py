"""From a loaded recipe to a trained speaker encoder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from speechbrain.utils.distributed import get_rank, if_main_process

from speechbrain_ext.config import Recipe
from speechbrain_ext.data.manifest import ManifestError, Utterance, read_manifest
from speechbrain_ext.data.sampler import generator_for
from speechbrain_ext.data.speaker_loader import speaker_loader
from speechbrain_ext.errors import UserError
from speechbrain_ext.next_command import tells_own_commands
from speechbrain_ext.resume.changes import HARMLESS
from speechbrain_ext.tasks.brain import brain_of
from speechbrain_ext.tasks.initialize import load_initial_weights
from speechbrain_ext.tasks.settings import (
    manifests,
    refuse,
    runs_on_cpu,
    setting_faults,
    world_size,
)
from speechbrain_ext.tasks.speaker.brain import SpeakerBrain
from speechbrain_ext.tasks.speaker.validation import valid_loader
from speechbrain_ext.tasks.speaker.weights import load_encoder
from speechbrain_ext.tasks.training import carry_out

__all__ = [
    "EXPERIMENT_FILES",
    "HARMLESS",
    "check_settings",
    "first_weights",
    "load_encoder",
    "make_brain",
    "make_loaders",
    "manifests",
    "speaker_classes",
    "train",
]

#: Files of the experiment folder that `make_brain` reads.
EXPERIMENT_FILES = ("speakers.json",)


@tells_own_commands
def train(recipe: Recipe, *, force_resume: bool = False) -> SpeakerBrain:
    """Train an encoder as its recipe says; goes on where an earlier run stopped.

    Arguments
    ---------
    recipe : Recipe
        Of ``recipes/speaker``; see ``ecapa_mini.yaml`` for the keys.
    force_resume : bool
        See `carry_out`.

    Returns
    -------
    SpeakerBrain
        After its last epoch; with ``average_checkpoints`` its encoder holds the
        averaged weights.

    Raises
    ------
    ManifestError, UserError, DivergenceError
        See `carry_out`.
    """
    return carry_out(recipe, sys.modules[__name__], force_resume=force_resume)


def make_brain(recipe: Recipe) -> SpeakerBrain:
    """Build the Brain of a recipe; of the data it needs the names of the speakers.

    They are those of ``speakers.json`` in the experiment, or else of the train
    manifest. Every task module has this function: ``replay`` and ``chaos`` call it.

    Raises
    ------
    UserError
        If the classifier can't be made for these speakers, or ``speakers.json`` is of
        another number of classes.
    """
    hparams = recipe.hparams
    if hparams["num_threads"]:
        torch.set_num_threads(hparams["num_threads"])
    speakers, known = speakers_of(hparams)
    num_classes = len(speakers) * len(hparams["speeds"])
    if known not in (None, num_classes):
        raise UserError(
            f"{hparams['output_folder']}/speakers.json says {known} classes, but "
            f"{len(speakers)} speakers at {len(hparams['speeds'])} speeds are "
            f"{num_classes}: it was written for other speeds\n"
            "  Next: another --tag, or from nothing: --stage train --force"
        )
    hparams["speakers"] = speakers
    policy = hparams.get("nan_guard")
    if policy is not None and policy.label_ranges is None:
        # Known, so the very first batch is checked too.
        policy.label_ranges = {"spk": num_classes}
    classifier = classifier_for(hparams, num_classes)
    hparams["checkpointer"].add_recoverable("classifier", classifier)
    modules = {**hparams["modules"], "classifier": classifier}
    return brain_of(SpeakerBrain, recipe, modules)


def classifier_for(hparams: Mapping, num_classes: int) -> torch.nn.Module:
    """Make the classifier; its weights depend on the seed and on nothing else."""
    seed = generator_for(hparams["seed"], 0, "classifier").integers(2**31)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        try:
            return hparams["classifier"](num_classes=num_classes)
        except ValueError as error:
            raise UserError(
                f"train: {error}\n  {hparams['train_manifest']} has {num_classes} "
                "classes (speakers times speeds)"
            ) from error


def speakers_of(hparams: Mapping) -> tuple[list[str], int | None]:
    """Return the speakers in the order of their classes, and how many classes.

    Returns
    -------
    list of str
        From ``speakers.json`` of the experiment, or sorted from the train manifest.
    int or None
        Number of classes that ``speakers.json`` says; None without one.
    """
    path = Path(hparams["output_folder"]) / "speakers.json"
    if not path.exists():
        manifest = hparams["train_manifest"]
        return list(speaker_classes(read_manifest(manifest), manifest)), None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [str(name) for name in found["speakers"]], int(found["num_classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a list of speakers ({error}); it is written by training: "
            "--stage train --force"
        ) from error


def speaker_classes(
    utterances: Mapping[str, Utterance], path: str | Path
) -> dict[str, int]:
    """Return spk_id -> class of a manifest's speakers, in sorted order.

    Raises
    ------
    ManifestError
        If an utterance has no speaker; ``path`` is named.
    """
    without = [u.utt_id for u in utterances.values() if u.spk_id is None]
    if without:
        raise ManifestError(
            f"{path}: {len(without)} utterances have no spk_id, first {without[0]}; "
            "prepare data that names its speakers: --stage prepare"
        )
    names = sorted({u.spk_id for u in utterances.values()})
    return {name: index for index, name in enumerate(names)}


def make_loaders(recipe: Recipe, train_set: dict, valid_set: dict) -> tuple:
    """Make the loaders of training crops and of whole validation utterances.

    Raises
    ------
    UserError
        If the manifests have speakers that the classifier does not, crops are longer
        than any utterance, or a folder of noise or impulse responses is of no use.
    """
    hparams = recipe.hparams
    _refuse_long_crops(hparams, train_set)
    speakers = {name: index for index, name in enumerate(hparams["speakers"])}
    for key, utterances in (
        ("train_manifest", train_set),
        ("valid_manifest", valid_set),
    ):
        strangers = set(speaker_classes(utterances, hparams[key])) - set(speakers)
        if strangers:
            raise UserError(
                f"{hparams[key]}: {len(strangers)} speakers are not among the "
                f"{len(speakers)} that are learned, first {min(strangers)}; valid is "
                "of train speakers, and a run goes on with those it began with\n"
                "  Next: --stage prepare, or another --tag"
            )
    train_loader = speaker_loader(
        train_set,
        speakers,
        crop_samples=round(hparams["crop_seconds"] * hparams["sample_rate"]),
        crops_per_epoch=hparams["crops_per_epoch"],
        batch_size=hparams["batch_size"],
        seed=hparams["seed"],
        augment=hparams["augment"](),
        speeds=tuple(hparams["speeds"]),
        balance=hparams["balance"],
        utterance_balance=hparams["utterance_balance"],
        num_workers=hparams["num_workers"],
        rank=get_rank() or 0,
        world_size=world_size(),
    )
    return train_loader, valid_loader(valid_set, speakers, hparams["num_workers"])


def _refuse_long_crops(hparams: Mapping, train_set: Mapping[str, Utterance]) -> None:
    """Refuse crops of which every one would be an utterance said again and again."""
    longest = max(train_set.values(), key=lambda one: one.duration)
    if hparams["crop_seconds"] > longest.duration:
        raise UserError(
            f"train: crop_seconds is {hparams['crop_seconds']}, but the longest "
            f"utterance of {hparams['train_manifest']} has {longest.duration:.2f} s "
            f"({longest.utt_id})\n  Next: --crop_seconds={longest.duration:.1f} or less"
        )


def check_settings(hparams: dict, run_opts: dict) -> None:
    """Refuse values of the right type with which no epoch could be trained.

    Raises
    ------
    UserError
        Naming all of them.
    """
    faults = setting_faults(hparams, run_opts)
    faults += [f for f in _augment_faults(hparams["augment"]) if f not in faults]
    if world_size() > 1 and runs_on_cpu(run_opts):
        faults.append(
            f"{world_size()} processes need as many GPUs: torch can't share the "
            "statistics of BatchNorm between processes on a CPU; take one process"
        )
    refuse(faults)


def _augment_faults(augment: Callable) -> list[str]:
    """Name what is wrong with the settings of augmentation, without its folders.

    To look through those takes a minute; `make_loaders` does it, once.
    """
    given = getattr(augment, "keywords", {})
    folders = {name: None for name in ("noise_folder", "rir_folder") if name in given}
    try:
        augment(**folders)
    except ValueError as error:
        return str(error).removeprefix("Augment: ").split("; ")
    return []


def first_weights(brain: SpeakerBrain, train_set: dict) -> None:
    """Give a new run its first weights, if it is to start from somebody's encoder."""
    source = brain.hparams.init_from
    if source:
        report = load_initial_weights(brain.encoder, source, "encoder")
        if if_main_process():
            print(report)
        brain.starts_trained = True
