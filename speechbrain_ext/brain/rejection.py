"""A batch was judged bad: put it back, find the cause, tell it, and decide."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import speechbrain
import torch

from speechbrain_ext.brain.agreement import local_only
from speechbrain_ext.brain.forensics.diagnose import Diagnosis, Incident, diagnose
from speechbrain_ext.brain.forensics.dump import write_dump
from speechbrain_ext.brain.forensics.incident import describe
from speechbrain_ext.brain.forensics.statistics import gradient_statistics
from speechbrain_ext.brain.forensics.suspects import bad_inputs
from speechbrain_ext.brain.healing import heal
from speechbrain_ext.brain.memory.state import named_state
from speechbrain_ext.brain.verdict import Verdict, explain_norm, nonfinite_names
from speechbrain_ext.files import sha256_file

if TYPE_CHECKING:
    from speechbrain_ext.brain.guard import Guard
    from speechbrain_ext.brain.nan_safe import NaNSafeBrain

logger = logging.getLogger(__name__)

#: Causes that lie in the data of the batch: rolling back would not help.
DATA_CAUSES = frozenset(
    {
        "input non-finite",
        "input extreme",
        "input silent",
        "label out of range",
        "exception",
        "other rank",
    }
)


def reject(
    guard: Guard,
    fit_batch: Callable[[Any], Any],
    batch: Any,
    verdict: Verdict,
    error: BaseException | None = None,
) -> torch.Tensor:
    """Put a bad batch back, look for the cause, dump, report, escalate.

    Returns
    -------
    torch.Tensor
        NaN; or the loss, where the state was bad and not the batch.

    Raises
    ------
    DivergenceError
        If a limit of the policy is passed.
    """
    brain, policy, health = guard.brain, guard.policy, guard.health
    if policy.mode == "skip":
        return _skip(guard, batch, verdict)
    verdict, gradients = explain_norm(verdict, brain.modules)
    buffers = nonfinite_names(brain.modules.named_buffers())
    statistics = gradient_statistics(brain.modules.named_parameters())
    steps_kept = _put_back(guard)
    bad_state = guard.recovery.snapshot.verify()
    guard.recovery.drop_last()
    if guard.any_rank(bool(bad_state)) and not guard.replaying:
        streams = guard.transaction.random.held()
        heal(guard, bad_state, next_batch=True)
        streams.restore()
        if not guard.retrying:
            health.epoch_batches -= 1
            guard.retrying = True
            try:
                return guard.transact(fit_batch, batch)
            finally:
                guard.retrying = False
        guard.transaction.begin()  # it spoiled the state again: the batch is to blame
        bad_state = []
    incident = Incident(
        batch=batch,
        verdict=verdict,
        modules=brain.modules,
        forward=lambda batch=batch: _forward(guard, batch),
        restore=guard.transaction.rollback,
        exception=error,
        gradients=gradients,
        buffers=buffers,
        state=bad_state,
        tried=brain.origin.get("presets", []),
        precision=brain.precision,
        scale=brain.scaler.get_scale() if brain.scaler.is_enabled() else None,
        label_ranges=guard.labels.ranges,
        faithful=guard.fits_as_stock,
        # DDP still waits for the gradients of a forward that got no backward.
        can_rerun=guard.agreement is None or guard.agreement.voted_all,
    )
    guard.held.open()
    with local_only():
        diagnosis = diagnose(incident)
    guard.held.discard()
    guard.transaction.rollback()
    # _fit_train has counted it already; a rejected batch is not a step.
    guard.uncount()
    if guard.replaying:  # it was learned from once, and is found out now
        health.committed -= 1
    # Escalation follows from these counts: all ranks have to count alike.
    health.reject(
        explained=guard.any_rank(diagnosis.cause in DATA_CAUSES),
        exception=guard.any_rank(verdict.cause == "exception"),
    )
    health.spikes += verdict.cause == "spike"
    actions = ["put back: nothing was learned from it"]
    if steps_kept:
        actions = [f"put back, but for {steps_kept} optimizer steps taken before"]
    path = _dump(guard, batch, verdict, diagnosis, statistics, buffers)
    actions += _quarantine(guard, diagnosis, path)
    if not guard.replaying:
        actions += _escalate(guard)
    guard.last_report = describe(
        verdict,
        diagnosis,
        place=f"batch {health.epoch_batches} of epoch {guard.epoch}",
        actions=actions,
        dump=path,
        batch=batch,
        gradients=gradients,
    )
    guard.note(diagnosis, actions)
    logger.warning(guard.last_report)
    if error is not None:
        logger.info("the exception was", exc_info=error)
    if not guard.replaying:
        health.enforce(policy, guard.last_report)
    return torch.tensor(math.nan)


def _put_back(guard: Guard) -> int:
    """Undo the batch; return how many optimizer steps could not be undone."""
    brain = guard.brain
    unshielded = guard.stepped if not guard.shielded else set()
    guard.transaction.rollback()
    forget_unscaling(brain)
    if not unshielded:
        return 0
    # The first batch that is judged after a step: from now on there are undo copies.
    guard.steps_twice = True
    if guard.replaying or not guard.recovery.possible:
        return len(unshielded)
    guard.recovery.drop_last()
    streams = guard.transaction.random.held()
    guard.replaying = True
    try:
        guard.recovery.replay(brain.fit_batch, next_batch=True)
    finally:
        guard.replaying = False
    streams.restore()
    guard.transaction.begin()
    return 0


def forget_unscaling(brain: NaNSafeBrain) -> None:
    """Let the next batch be unscaled, which ``update()`` alone would allow."""
    if brain.scaler.is_enabled():
        brain.scaler._per_optimizer_states.clear()


def _forward(guard: Guard, batch: Any) -> torch.Tensor:
    brain = guard.brain
    with guard.safer.full_precision(brain), brain.training_ctx:
        outputs = brain.compute_forward(batch, speechbrain.Stage.TRAIN)
        return brain.compute_objectives(outputs, batch, speechbrain.Stage.TRAIN)


def _origin(brain: NaNSafeBrain) -> dict[str, Any]:
    """Name the recipe; of one that does not say: the hash of its resolved file."""
    if brain.origin:
        return dict(brain.origin)
    folder = getattr(getattr(brain, "hparams", None), "output_folder", None)
    if isinstance(folder, (str, Path)):
        resolved = Path(folder) / "hyperparams.yaml"
        with contextlib.suppress(OSError):
            return {"recipe": str(resolved.name), "config_hash": sha256_file(resolved)}
    return {}


def _dump(
    guard: Guard,
    batch: Any,
    verdict: Verdict,
    diagnosis: Diagnosis,
    gradients: dict,
    buffers: list[str],
) -> Path | None:
    health, policy, brain = guard.health, guard.policy, guard.brain
    folder = guard.dump_folder()
    if folder is None:
        return None
    if health.dumps >= policy.max_dumps:
        if policy.max_dumps and not guard.told_about_dumps:
            guard.told_about_dumps = True
            logger.warning(
                "nan_guard: %s holds max_dumps=%d dumps, and gets no more; remove old "
                "ones, or raise --nan_guard.max_dumps",
                folder,
                policy.max_dumps,
            )
        return None
    hparams = vars(getattr(brain, "hparams", object))
    context = {
        **_origin(brain),
        "task": hparams.get("task"),
        "precision": brain.precision,
        "scale": brain.scaler.get_scale() if brain.scaler.is_enabled() else None,
        "step": brain.step,
        "optimizer_step": brain.optimizer_step,
        "accumulation": brain.grad_accumulation_factor,
        "device": str(brain.device),
        "sample_rate": hparams.get("sample_rate"),
        "label_ranges": dict(guard.labels.ranges),
        "rank": torch.distributed.get_rank() if guard.agreement is not None else 0,
    }
    try:
        path = write_dump(
            folder,
            batch,
            verdict,
            batch_index=health.epoch_batches,
            epoch=guard.epoch,
            diagnosis=diagnosis.as_dict(),
            report={
                "inputs": bad_inputs(batch),
                "gradients": gradients,
                "buffers": buffers[:50],
            },
            random=guard.transaction.random.state_dict(),
            context=context,
            weights=named_state(brain.modules) if policy.dump_weights else None,
            # Rejects in a row start from the same weights.
            incident=f"epoch_{guard.epoch}_step_{brain.optimizer_step}",
            max_megabytes=policy.max_dump_megabytes,
        )
    except Exception as error:  # a full disk, or an odd batch, must not end the run
        logger.warning("the rejected batch could not be dumped: %s", error)
        return None
    health.dumps += 1
    return path


def _quarantine(guard: Guard, diagnosis: Diagnosis, dump: Path | None) -> list[str]:
    """Put proven culprits into quarantine; return what was done, as text."""
    proven = diagnosis.proven and diagnosis.cause != "loss spike"
    proven |= diagnosis.cause in ("input non-finite", "label out of range")
    if not guard.policy.quarantine or not proven:
        return []
    if not diagnosis.utt_ids:
        if not diagnosis.rows:
            return []
        return ["not quarantined: the batch carries no ids ('id' in output_keys)"]
    added = guard.quarantine.add(
        diagnosis.utt_ids,
        reason=diagnosis.detail,
        cause=diagnosis.cause,
        epoch=guard.epoch,
        batch=guard.health.epoch_batches,
        dump=str(dump) if dump else None,
    )
    return [f"quarantined: {', '.join(added)}"] if added else []


def _escalate(guard: Guard) -> list[str]:
    """Roll back, or train more safely, after a row of rejects without a cause."""
    policy, health = guard.policy, guard.health
    actions = []
    if policy.rollback_after and health.unexplained == policy.rollback_after:
        if not guard.any_rank(not guard.recovery.possible):
            guard.recovery.go_back()
            health.rollbacks += 1
            actions.append(
                f"{health.unexplained} rejects in a row: went back to the last "
                "verified snapshot"
            )
    if policy.safer_after and health.unexplained == policy.safer_after:
        guard.safer.switch_on()
        actions.append(
            f"{health.unexplained} rejects in a row: learning rate x "
            f"{policy.safer_lr_factor:g} and no mixed precision for the next "
            f"{policy.safer_steps} steps"
        )
    return actions


def _skip(guard: Guard, batch: Any, verdict: Verdict) -> torch.Tensor:
    """Leave out the step, as the seed document does; buffers stay as they are."""
    brain, health = guard.brain, guard.health
    for parameter in brain.modules.parameters():
        parameter.grad = None
    forget_unscaling(brain)
    guard.recovery.drop_last()
    health.reject(explained=False)
    logger.warning(
        "batch %d of epoch %d: %s; its step is skipped (nan_guard.mode=skip: buffers "
        "and statistics keep what it did to them)",
        health.epoch_batches,
        guard.epoch,
        verdict.cause,
    )
    with contextlib.suppress(OSError):
        _dump(
            guard,
            batch,
            verdict,
            Diagnosis(cause="not reproducible", detail="not looked for in mode skip"),
            {},
            [],
        )
    health.enforce(guard.policy, "see above")
    return torch.tensor(math.nan)
