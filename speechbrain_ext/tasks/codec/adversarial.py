"""A codec that also learns from discriminators, which learn from it."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import torch
from speechbrain import Stage
from speechbrain.utils.optimizers import rm_vector_weight_decay
from torch import nn

from speechbrain_ext.brain import NaNSafeBrain
from speechbrain_ext.errors import UserError
from speechbrain_ext.losses import (
    discriminator_accuracy,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from speechbrain_ext.models import CodecResult, DiscriminatorResult
from speechbrain_ext.tasks.codec.brain import CodecBrain
from speechbrain_ext.tasks.codec.watch import DiscriminatorWatch

logger = logging.getLogger(__name__)


@dataclass
class Heard:
    """One training forward.

    Arguments
    ---------
    result : CodecResult
        Of the codec, with its graph.
    wav : torch.Tensor
        The same reconstruction, cut from that graph: losses are differentiated with
        respect to it, [batch, time].
    real, fake : DiscriminatorResult or None
        Of original and reconstruction; None before the discriminator has started.
    learns : bool
        Whether the discriminator learns from this batch.
    """

    result: CodecResult
    wav: torch.Tensor
    real: DiscriminatorResult | None = None
    fake: DiscriminatorResult | None = None
    learns: bool = False


class AdversarialCodecBrain(CodecBrain):
    """Trains a codec against discriminators, as EnCodec (Defossez et al., 2022).

    https://arxiv.org/abs/2210.13438, sec. 3.4: hinge losses, relative feature matching,
    a balancer of gradients, a discriminator that learns from a share of the batches.

    Arguments
    ---------
    modules : dict
        As for `CodecBrain`, and ``discriminator`` (`MultiScaleSTFTDiscriminator`),
        ``feature_matching`` (`FeatureMatchingLoss`), ``balancer`` (`LossBalancer` with
        a weight for each reconstruction term, ``adversarial`` and ``feature``) and
        ``discriminator_schedule`` (`DiscriminatorSchedule`).
    hparams : dict
        As for `CodecBrain`, and ``discriminator_opt_class``.

    Both losses of a batch are differentiated before either optimizer steps, and both
    gradients stand before one verdict: what is bad for one side moves neither. The
    two halves meet nowhere else: the discriminator hears a reconstruction that is cut
    from the codec's graph, and the codec gets the gradient at its output from the
    balancer, which leaves the discriminator's parameters alone. Each side's gradient
    is clipped by its own norm.

    Recipes choose the best checkpoint by the reconstruction loss on the valid files
    (``choose_by: loss``): the SNR falls where a discriminator asks for detail that no
    bit was spent on.
    """

    shown_terms = (*CodecBrain.shown_terms, "adversarial", "discriminator")

    def __init__(self, modules, opt_class, hparams, run_opts=None, checkpointer=None):
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        terms = set(self.modules.reconstruction.terms)
        weights = set(self.modules.balancer.weights)
        if missing := sorted((terms | {"adversarial", "feature"}) - weights):
            raise UserError(f"balancer: no weight for {', '.join(missing)}")
        self.watch = DiscriminatorWatch()

    # -- two optimizers ----------------------------------------------------------

    def init_optimizers(self):
        """Make one optimizer for the discriminator, one for everything else."""
        generator = nn.ModuleDict(
            {n: m for n, m in self.modules.items() if n != "discriminator"}
        )
        discriminator = self.modules.discriminator
        self.optimizer = self.opt_class(self._groups(generator))
        self.discriminator_optimizer = self.hparams.discriminator_opt_class(
            self._groups(discriminator)
        )
        self.optimizers_dict = {
            "generator": self.optimizer,
            "discriminator": self.discriminator_optimizer,
        }
        if self.checkpointer is not None:
            self.checkpointer.add_recoverables(
                {
                    "optimizer": self.optimizer,
                    "discriminator_optimizer": self.discriminator_optimizer,
                }
            )
            hooks = self.checkpointer.custom_load_hooks
            if "optimizer" in hooks:  # a resumed run with other settings
                hooks["discriminator_optimizer"] = hooks["optimizer"]

    def _groups(self, module: nn.Module):
        if self.remove_vector_weight_decay:
            return rm_vector_weight_decay(module)
        return module.parameters()

    def freeze_optimizers(self, optimizers):
        """Leave out the discriminator's where it does not learn."""
        schedule = self.modules.discriminator_schedule
        if schedule.learns_at(schedule.step):
            return optimizers
        return {"generator": optimizers["generator"]}

    def _clip(self, optimizers, norms):
        """Clip each side by its own norm: the other's must not shrink its step."""
        for name, optimizer in optimizers.items():
            own = {key: norm for key, norm in norms.items() if key[0] == name}
            if name == "discriminator":
                norm = torch.linalg.vector_norm(torch.stack(list(own.values())))
                self.remember({"discriminator_grad_norm": norm})
                NaNSafeBrain._clip(self, {name: optimizer}, own)
            else:
                super()._clip({name: optimizer}, own)

    # -- one batch ---------------------------------------------------------------

    def on_fit_batch_start(self, batch, should_step):
        """Set both learning rates of the coming step."""
        super().on_fit_batch_start(batch, should_step)
        if should_step:
            scale = self.modules.discriminator_schedule.learning_rate_scale
            for group in self.discriminator_optimizer.param_groups:
                group["lr"] *= scale

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Count a step that was taken; warn of a discriminator that is no help."""
        super().on_fit_batch_end(batch, outputs, loss, should_step)
        if should_step:
            self.modules.discriminator_schedule.advance()
        self.watch, warning = self.watch.looked_at()
        if warning is not None:
            logger.warning(warning)

    def compute_forward(self, batch, stage):
        """Return `Heard` (TRAIN) or ``{kbps: wav}`` (VALID, TEST)."""
        result = super().compute_forward(batch, stage)
        if stage != Stage.TRAIN:
            return result
        wav = result.wav.detach().requires_grad_()
        schedule = self.modules.discriminator_schedule
        if not schedule.is_heard_at(schedule.step):
            return Heard(result, wav)
        learns = schedule.learns_at(schedule.step)
        # The original first: DistributedDataParallel writes the buffers of each
        # forward, and those of the one that needs the gradient must stay.
        with torch.set_grad_enabled(learns):
            real = self.modules.discriminator(batch.wav.data.to(self.device))
        return Heard(result, wav, real, self.modules.discriminator(wav), learns)

    def compute_objectives(self, predictions, batch, stage):
        """Return one loss that has both sides' gradients, or that of `CodecBrain`."""
        if stage != Stage.TRAIN:
            return super().compute_objectives(predictions, batch, stage)
        wav = batch.wav.data.to(self.device)
        recon = self.modules.reconstruction(predictions.wav, wav)
        losses = dict(recon.bounded)
        real, fake = predictions.real, predictions.fake
        if fake is not None:
            losses["adversarial"] = hinge_generator_loss(fake.logits)
            losses["feature"] = self.modules.feature_matching(
                fake.features, real.features
            )
        balancer, rvq = self.modules.balancer, predictions.result.rvq
        scale = self.scaler.scale(torch.ones((), device=wav.device))
        balanced = balancer(losses, predictions.wav, scale)
        value = sum(balancer.weights[n] * loss.detach() for n, loss in losses.items())
        total = balanced.as_loss(value, predictions.result.wav)
        vq = self.hparams.vq_weight * rvq.loss
        total = total + vq
        terms = {
            # Without the adversarial terms, which come late and fall only to rise: what
            # is to fall over a whole run.
            "loss": recon.total + vq,
            "recon": recon.total,
            "vq": rvq.loss,
            **losses,
            **recon.terms,
            **{f"share_{name}": share for name, share in balanced.shares.items()},
            "usage": rvq.metrics["usage"].mean(),
            "perplexity": rvq.metrics["perplexity"].mean(),
            "vq_saturations": rvq.metrics["saturations"],
        }
        if fake is not None:
            terms["discriminator"] = hinge_discriminator_loss(real.logits, fake.logits)
            if predictions.learns:
                total = total + terms["discriminator"]
            accuracies = discriminator_accuracy(real.logits, fake.logits)
            terms["real_accuracy"], terms["fake_accuracy"] = accuracies
            self.watch = self.watch.with_batch(*accuracies)
        self.remember(terms)
        return total

    def estimate_seconds(self, batch) -> float:
        """Time a batch that hears the discriminator, as nearly all will."""
        schedule = self.modules.discriminator_schedule
        before = schedule.step
        first = itertools.count(max(before, schedule.start_step))
        schedule.step = next(step for step in first if schedule.learns_at(step))
        try:
            return super().estimate_seconds(batch)
        finally:
            schedule.step = before
