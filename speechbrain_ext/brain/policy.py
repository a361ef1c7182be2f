"""What to do about non-finite batches: the ``nan_guard:`` section of a recipe."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass

from speechbrain_ext.errors import WorkError


class DivergenceError(WorkError):
    """Too many batches were rejected: the fault is systematic, not one bad file."""


@dataclass
class NonFinitePolicy:
    """What the guard of `NaNSafeBrain` may do, and when it gives up.

    The steps of escalation: a bad batch is put back; an utterance that was proven to
    be the cause is put into quarantine; a row of bad batches without a cause in the
    data rolls the state back; if that does not help, safer settings hold for a while;
    at a limit the run stops with a diagnosis and exit code 1.

    Arguments
    ---------
    mode : str
        ``"transaction"``: a bad batch leaves no trace. ``"skip"``: what most
        trainers do, kept to compare with: the step is left out when loss or
        gradient norm is not finite, buffers and random streams stay as the batch left
        them. ``"off"``: stock SpeechBrain.
    max_consecutive_rejects : int
        The run stops when this many batches in a row were rejected (>= 1). The count
        is not reset by the end of an epoch.
    max_reject_rate : float
        ... or when more than this share of all batches of the run was rejected, once
        ``min_batches_for_rate`` have been delivered; in (0, 1].
    min_batches_for_rate : int
        Batches delivered before the rate is looked at.
    max_first_exceptions : int
        If all of this many first batches end in an exception, it is a bug of the code
        and raised as such (>= 1). Later, an exception is a verdict on its batch.
    max_backoffs : int
        After this many back-offs of the GradScaler in a row the batch is taken to be
        bad and not the scale (>= 1).
    spike : str
        What to do with a finite but absurd batch: ``"observe"`` (log and count),
        ``"reject"``, or ``"off"``.
    spike_warmup, spike_window : int
        Committed steps before the first spike is called (>= 1), and how many the
        running median looks back on.
    spike_deviations, spike_factor : float
        A batch is a spike if loss *and* gradient norm are each above their running
        median by more than ``spike_deviations`` robust standard deviations (1.4826 x
        the median absolute deviation) and by more than ``spike_factor - 1`` times the
        median's size. Where a ``fit_batch`` of its own shows no loss: the norm alone.
    snapshot_every : int
        Steps between two verified snapshots in memory, from which a corrupted state is
        rolled back and replayed; 0: none.
    journal_megabytes : float
        Memory for copies of the batches since the last snapshot. If they do not fit,
        snapshots come earlier, and the log says so once.
    quarantine : bool
        Whether an utterance that was proven to be the cause is masked at once and
        left out from the next epoch on.
    quarantine_file : str or None
        Where the list is kept for later runs; None: ``quarantine.json`` beside
        ``debug_nan``.
    keep_quarantined : bool
        Train on utterances that an earlier run put there all the same.
    rollback_after : int
        Rejects in a row after which the state goes back to the last snapshot; 0: never.
    safer_after : int
        Rejects in a row after which safer settings hold; 0: never.
    safer_lr_factor : float
        Factor on the learning rate of every step under safer settings; in (0, 1].
    safer_steps : int
        Steps for which safer settings hold (no mixed precision, smaller rate).
    clip_scope : str
        ``"first"`` clips the first parameter group of each optimizer, as stock
        SpeechBrain does; ``"all"`` clips the joint norm of all groups of all
        optimizers. The verdict always looks at all groups.
    label_ranges : dict or None
        Name of a batch item -> number of classes. Labels are compared before forward,
        on the host: on a GPU an impossible label would end the process. None: learned
        from the first batch where possible.
    collective_timeout : float
        Seconds after which ranks that wait for a dead one end; 0: as torch has it.
    dump_folder : str or None
        Where rejected batches are written; None: beside the checkpoints in
        ``debug_nan``, or nowhere if the Brain has no checkpointer.
    max_dumps : int
        Batches written per run; later rejects are only logged (0: none).
    max_dump_megabytes : float
        Size limit of one dump; a larger batch is written without its tensors.
    dump_weights : bool
        Also write the weights before the batch, once per incident, for ``replay``.

    Raises
    ------
    ValueError
        If a limit is out of its range; the message names it.

    Example
    -------
    >>> NonFinitePolicy(max_consecutive_rejects=3).clip_scope
    'first'
    """

    mode: str = "transaction"
    max_consecutive_rejects: int = 10
    max_reject_rate: float = 0.25
    min_batches_for_rate: int = 40
    max_first_exceptions: int = 3
    max_backoffs: int = 16
    spike: str = "observe"
    spike_warmup: int = 100
    spike_window: int = 200
    spike_deviations: float = 10.0
    spike_factor: float = 5.0
    snapshot_every: int = 50
    journal_megabytes: float = 512.0
    quarantine: bool = True
    quarantine_file: str | None = None
    keep_quarantined: bool = False
    rollback_after: int = 4
    safer_after: int = 6
    safer_lr_factor: float = 0.5
    safer_steps: int = 200
    clip_scope: str = "first"
    label_ranges: dict[str, int] | None = None
    collective_timeout: float = 120.0
    dump_folder: str | None = None
    max_dumps: int = 20
    max_dump_megabytes: float = 256.0
    dump_weights: bool = True

    def __post_init__(self):
        self._check_types()
        one_of = {
            "mode": ("transaction", "skip", "off"),
            "spike": ("observe", "reject", "off"),
            "clip_scope": ("first", "all"),
        }
        at_least = {
            "max_consecutive_rejects": 1,
            "min_batches_for_rate": 1,
            "max_first_exceptions": 1,
            "max_backoffs": 1,
            "spike_warmup": 1,
            "spike_window": 10,
            "spike_deviations": 1,
            "spike_factor": 1,
            "snapshot_every": 0,
            "journal_megabytes": 0,
            "rollback_after": 0,
            "safer_after": 0,
            "safer_steps": 1,
            "collective_timeout": 0,
            "max_dumps": 0,
        }
        broken = [
            f"{name} must be one of {', '.join(words)}, got {getattr(self, name)!r}"
            for name, words in one_of.items()
            if getattr(self, name) not in words
        ]
        broken += [
            f"{name} must be >= {least}, got {getattr(self, name)!r}"
            for name, least in at_least.items()
            if not getattr(self, name) >= least
        ]
        broken += [
            f"{name} must be in (0, 1], got {getattr(self, name)!r}"
            for name in ("max_reject_rate", "safer_lr_factor")
            if not 0 < getattr(self, name) <= 1
        ]
        if not self.max_dump_megabytes > 0:
            broken.append(
                f"max_dump_megabytes must be > 0, got {self.max_dump_megabytes!r}"
            )
        if broken:
            raise ValueError("NonFinitePolicy: " + "; ".join(broken))

    def _check_types(self) -> None:
        """Refuse values of another type than their default's, all at once."""
        broken = []
        for field in dataclasses.fields(self):
            value, default = getattr(self, field.name), field.default
            if field.name == "label_ranges":
                good = value is None or (
                    isinstance(value, Mapping)
                    and all(type(n) is int and n > 0 for n in value.values())
                )
                wanted = "a mapping of item names to numbers of classes, or null"
            elif field.name in ("dump_folder", "quarantine_file"):
                good = value is None or isinstance(value, (str, os.PathLike))
                wanted = "a path, or null"
            elif isinstance(default, bool):
                good, wanted = isinstance(value, bool), "True or False"
            elif isinstance(default, int):
                good, wanted = type(value) is int, "a whole number"
            elif isinstance(default, float):
                good, wanted = type(value) in (int, float), "a number"
            else:
                good, wanted = isinstance(value, str), "a text"
            if not good:
                broken.append(f"{field.name} must be {wanted}, got {value!r}")
        if broken:
            raise ValueError("NonFinitePolicy: " + "; ".join(broken))
