"""What is given to a diagnosis, and what comes out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from speechbrain_ext.brain.forensics.causes import Recommendation
from speechbrain_ext.brain.verdict import Verdict


@dataclass
class Incident:
    """All that `diagnose` needs to know of a rejected batch.

    Attributes
    ----------
    batch : Any
        As delivered.
    verdict : Verdict
        What the fast check saw.
    modules : torch.nn.Module
        All trained modules.
    forward : Callable[..., torch.Tensor]
        Forward and objectives, autocast included; returns the loss. Called without
        arguments for ``batch``, with a part of it if it takes an argument:
        ``lambda batch=batch: ...``. Without that, rows can't be found by leaving out.
    restore : Callable[[], None]
        Puts back state and random streams as before the batch.
    exception : BaseException, optional
        What the batch raised, with its traceback.
    gradients, buffers : list of str
        What was non-finite at the event.
    state : list of str
        What was non-finite before the batch came.
    precision : str
        ``"fp32"``, ``"fp16"``, ``"bf16"``.
    scale : float, optional
        Of the GradScaler.
    label_ranges : dict
        Batch item -> number of classes.
    faithful : bool
        Whether ``forward`` is all that ``fit_batch`` does with a batch. If not (a GAN
        with its own ``fit_batch``), a clean repeat proves nothing.
    can_rerun : bool
        Whether the batch may be run again. Not where other ranks wait: a forward that
        speaks to them would hang, or speak out of turn.
    tried : list of str
        Presets that this run has already.
    """

    batch: Any
    verdict: Verdict
    modules: torch.nn.Module
    forward: Callable[..., torch.Tensor]
    restore: Callable[[], None]
    exception: BaseException | None = None
    gradients: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    precision: str = "fp32"
    scale: float | None = None
    label_ranges: dict[str, int] | None = None
    faithful: bool = True
    can_rerun: bool = True
    tried: list[str] = field(default_factory=list)


@dataclass
class Diagnosis:
    """The cause of an incident.

    Attributes
    ----------
    cause : str
        A key of `CAUSES`.
    detail : str
        One sentence.
    utt_ids, rows, paths : list
        The culprits in the batch, none if it is not one utterance's doing.
    proven : bool
        Whether the batch without these rows was run, and was fine.
    module, operation, phase, source : str
        Where the first bad number was made: ``"net.2 (Linear)"``, ``"aten.log"``,
        ``"forward"``, ``"model.py:87: x.log()"``; empty where not known. Phases are
        ``"input"``, ``"forward"``, ``"objective"``, ``"backward"``, ``"state"``.
    names : list of str
        State tensors or parameters concerned, the first one first.
    loss_terms : dict
        Name -> value, where the loss says so.
    runs : int
        How often the batch, or a part of it, was run again.
    recommendation : Recommendation
        What to do.
    """

    cause: str
    detail: str
    utt_ids: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    proven: bool = False
    module: str = ""
    operation: str = ""
    phase: str = ""
    source: str = ""
    names: list[str] = field(default_factory=list)
    loss_terms: dict[str, float] = field(default_factory=dict)
    runs: int = 0
    recommendation: Recommendation | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON and dumps (non-finite terms stay floats)."""
        return dataclasses.asdict(self)
