"""The neural codec; a recipe says ``task: speechbrain_ext.tasks.codec``."""

from speechbrain_ext.tasks.codec.brain import CodecBrain

__all__ = ["CodecBrain"]

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
    "num_workers",
    "num_threads",
    "init_from",
    "data_init",
    "test_interval",
    "valid_kbps",
    "eval_kbps",
    "tensorboard",
    "wandb",
    "modules",
    "opt_class",
    "schedule",
    "epoch_counter",
    "checkpointer",
    "train_logger",
)
OPTIONAL_KEYS = (
    "vq_weight",
    "nan_guard",
    "keep_quarantined",
    "choose_by",
    "code_steps",
    "eval_snr",
    "discriminator_opt_class",
)
