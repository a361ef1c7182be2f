"""Speaker verification; a recipe says ``task: speechbrain_ext.tasks.speaker``."""

__all__ = ["SpeakerBrain"]

#: Top-level keys that the task reads; the strict loader checks recipes against them.
REQUIRED_KEYS = (
    "seed",
    "output_folder",
    "save_folder",
    "train_manifest",
    "valid_manifest",
    "sample_rate",
    "crop_seconds",
    "crops_per_epoch",
    "batch_size",
    "balance",
    "utterance_balance",
    "speeds",
    "augment",
    "num_workers",
    "num_threads",
    "init_from",
    "average_checkpoints",
    "test_interval",
    "tensorboard",
    "wandb",
    "modules",
    "classifier",
    "margin_ramp",
    "opt_class",
    "schedule",
    "epoch_counter",
    "checkpointer",
    "train_logger",
)
OPTIONAL_KEYS = ("nan_guard", "keep_quarantined")


def __getattr__(name: str):
    """Import the Brain only when it is asked for: commands here start without torch."""
    if name == "SpeakerBrain":
        from speechbrain_ext.tasks.speaker.brain import SpeakerBrain

        return SpeakerBrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
