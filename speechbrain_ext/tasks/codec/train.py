"""From a loaded recipe to a trained codec."""

from __future__ import annotations

import itertools
import os
import sys
import time

import torch
from speechbrain.utils.distributed import get_rank, if_main_process

from speechbrain_ext.config import Recipe
from speechbrain_ext.data.loader import crop_loader, read_samples, utterance_loader
from speechbrain_ext.data.manifest import ManifestError, verify_manifest
from speechbrain_ext.data.sampler import generator_for
from speechbrain_ext.errors import UserError
from speechbrain_ext.tasks.codec.brain import CodecBrain
from speechbrain_ext.tasks.codec.rates import quantizers_of
from speechbrain_ext.tasks.experiment import (
    check_device,
    join_ranks,
    open_experiment,
)
from speechbrain_ext.tasks.initialize import load_initial_weights
from speechbrain_ext.tasks.loggers import optional_loggers

#: First weights need no more speech than this, and it has to fit into memory.
ENOUGH_SECONDS = 1800.0

#: Keys that may change between two runs in one experiment folder.
HARMLESS = frozenset(
    {
        "output_folder",
        "save_folder",
        "train_log",
        "train_manifest",
        "valid_manifest",
        "num_workers",
        "tensorboard",
        "wandb",
        "test_interval",
        "init_from",
        "ckpt_interval_minutes",
        "eval_kbps",
        "keep_quarantined",
    }
)


def train(recipe: Recipe) -> CodecBrain:
    """Train a codec as its recipe says; goes on where an earlier run stopped.

    Arguments
    ---------
    recipe : Recipe
        Of ``recipes/codec``; see ``transform.yaml`` for the keys.

    Returns
    -------
    CodecBrain
        After its last epoch.

    Raises
    ------
    ManifestError
        If a manifest or one of its files is missing or changed.
    UserError
        If a setting is out of its range, the device is not there, or the experiment
        folder holds checkpoints of other settings.
    DivergenceError
        If too many batches were rejected.
    """
    hparams = recipe.hparams
    check_settings(hparams, recipe.run_opts)
    join_ranks(recipe.run_opts)
    train_set, valid_set = manifests(hparams)
    folder = open_experiment(recipe, harmless=HARMLESS)
    brain = make_brain(recipe)
    hparams["train_loggers"] += optional_loggers(
        folder, tensorboard=hparams["tensorboard"], wandb=hparams["wandb"]
    )
    train_loader, valid_loader = make_loaders(recipe, train_set, valid_set)
    brain.checkpointer.add_recoverable("dataloader-TRAIN", train_loader)
    if brain.checkpointer.find_checkpoint() is None:
        first_weights(brain, train_set)
    announce(brain, train_loader, hparams)
    brain.fit(hparams["epoch_counter"], train_loader, valid_loader)
    return brain


def make_brain(recipe: Recipe) -> CodecBrain:
    """Build the Brain of a recipe; reads no data and writes nothing.

    Every task module has this function: ``replay`` and ``chaos`` call it.
    """
    hparams = recipe.hparams
    if hparams["num_threads"]:
        torch.set_num_threads(hparams["num_threads"])
    quantizers_of(hparams["modules"]["codec"], hparams["valid_kbps"], "valid_kbps")
    quantizers_of(hparams["modules"]["codec"], hparams["eval_kbps"], "eval_kbps")
    hparams["train_loggers"] = [hparams["train_logger"]]
    brain = CodecBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=recipe.run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.origin = {
        "recipe": recipe.path.name,
        "config_hash": recipe.config_hash,
        "presets": list(recipe.presets),
    }
    return brain


def manifests(hparams: dict) -> tuple[dict, dict]:
    """Read and verify the manifests to learn from and to choose by."""
    return (
        manifest_at(hparams["train_manifest"], hparams["sample_rate"]),
        manifest_at(hparams["valid_manifest"], hparams["sample_rate"]),
    )


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
        world_size=int(os.environ.get("WORLD_SIZE", 1)),
    )
    return train_loader, utterance_loader(valid_set, hparams["num_workers"])


def check_settings(hparams: dict, run_opts: dict) -> None:
    """Refuse values of the right type with which no epoch could be trained.

    Raises
    ------
    UserError
        Naming all of them.
    """
    crops = int(os.environ.get("WORLD_SIZE", 1)) * hparams["batch_size"]
    at_least = {
        "batch_size": (hparams["batch_size"], 1, ""),
        "crops_per_epoch": (hparams["crops_per_epoch"], crops, "batch_size "),
        "num_workers": (hparams["num_workers"], 0, ""),
        "num_threads": (hparams["num_threads"], 0, ""),
        "test_interval": (hparams["test_interval"], 1, ""),
        "number_of_epochs": (hparams["epoch_counter"].limit, 1, ""),
    }
    faults = [
        f"{name} must be >= {why}{f'({limit})' if why else limit}, got {value}"
        for name, (value, limit, why) in at_least.items()
        if value < limit
    ]
    if hparams["crop_seconds"] * hparams["sample_rate"] < 1:
        faults.append(f"crop_seconds must be > 0, got {hparams['crop_seconds']}")
    for name in ("valid_kbps", "eval_kbps"):
        if not hparams[name]:
            faults.append(f"{name} must name at least one bitrate, got []")
    device = run_opts.get("device")
    if device is not None:
        check_device(device)
    on_cpu = not torch.cuda.is_available() if device is None else device == "cpu"
    for name in ("precision", "eval_precision"):
        if on_cpu and run_opts.get(name, hparams.get(name)) == "fp16":
            faults.append(f"{name} fp16 needs a GPU; on a CPU: --{name}=bf16 or fp32")
    if faults:
        raise UserError("train:\n  " + "\n  ".join(faults))


def manifest_at(path: str, sample_rate: int) -> dict:
    """Read and verify a manifest, files included, before anything is computed."""
    utterances = verify_manifest(path)
    if not utterances:
        raise ManifestError(f"{path}: no utterances; prepare data: --stage prepare")
    other = {u.sample_rate for u in utterances.values()} - {sample_rate}
    if other:
        raise ManifestError(
            f"{path}: audio at {sorted(other)} Hz, but the recipe's sample_rate is "
            f"{sample_rate}; prepare the data again, or give --sample_rate={max(other)}"
        )
    return utterances


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
        chosen = enough(train_set, hparams["seed"])
        if if_main_process():
            print(
                f"first weights by k-means from {len(chosen)} of {len(train_set)} "
                "train files ...",
                file=sys.stderr,
            )
        waves = [torch.from_numpy(read_samples(u)) for u in chosen]
        try:
            codec.initialize(waves, seed=hparams["seed"])
        except ValueError as error:
            raise UserError(
                f"{hparams['train_manifest']}: too little to start from: {error}"
            ) from error
        brain.seconds_before = time.monotonic() - started
        brain.starts_trained = True


def enough(train_set: dict, seed: int, seconds: float = ENOUGH_SECONDS) -> list:
    """Draw utterances of about ``seconds`` in all, or take all if they are less."""
    order = sorted(
        train_set.values(),
        key=lambda u: generator_for(seed, 0, u.utt_id, "first weights").random(),
    )
    chosen, total = set(), 0.0
    for utterance in order:
        if total < seconds:
            chosen.add(utterance.utt_id)
            total += utterance.duration
    return [u for u in train_set.values() if u.utt_id in chosen]


def announce(brain: CodecBrain, loader, hparams: dict) -> None:
    """Say what will be trained and about how long it takes."""
    epochs = hparams["epoch_counter"].limit
    parameters = sum(p.numel() for p in brain.modules.codec.parameters())
    # Not by iterating the loader: that would forbid it to resume within an epoch.
    crops = itertools.islice(loader.sampler, loader.batch_size)
    batch = loader.collate_fn([loader.dataset[crop] for crop in crops])
    seconds = brain.estimate_seconds(batch) * len(loader) * epochs
    # All ranks timed it, since a quantizer speaks to the others; one tells.
    if not if_main_process():
        return
    print(
        f"{type(brain.modules.codec).__name__}: {parameters:,} parameters, "
        f"{epochs} epochs of {len(loader)} steps on {brain.device}: "
        f"about {seconds / 60:.0f} min",
        file=sys.stderr,
    )
    quantizer = brain.modules.codec.quantizer
    if getattr(quantizer, "ema_target", "residual") == "quantized":
        print(
            "note: ema_target quantized is the seed document's rule, kept as a switch; "
            "codebooks do not learn with it. Right: "
            "--codec.quantizer.ema_target=residual",
            file=sys.stderr,
        )
