"""The NaN-safe Brain: a bad batch leaves no trace, and the run says why."""

from speechbrain_ext.brain.checkpoints.checkpoint import (
    CheckpointWriteError,
    DamagedCheckpointError,
    NonFiniteStateError,
    VerifiedCheckpointer,
    guard_checkpointer,
    verify_folder,
)
from speechbrain_ext.brain.memory.coverage import coverage
from speechbrain_ext.brain.nan_safe import NaNSafeBrain
from speechbrain_ext.brain.policy import DivergenceError, NonFinitePolicy

__all__ = [
    "NaNSafeBrain",
    "NonFinitePolicy",
    "VerifiedCheckpointer",
    "CheckpointWriteError",
    "DamagedCheckpointError",
    "DivergenceError",
    "NonFiniteStateError",
    "guard_checkpointer",
    "verify_folder",
    "coverage",
]
