"""What a codec learns from a batch, and how its checkpoints are chosen."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path

import torch
from speechbrain import Stage
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.tasks.brain import TaskBrain
from speechbrain_ext.tasks.codec.code_model import learn_code_model
from speechbrain_ext.tasks.progress import shown_progress

logger = logging.getLogger(__name__)


class CodecBrain(TaskBrain):
    """Trains a codec on crops and validates whole utterances at nested bitrates.

    Arguments
    ---------
    modules : dict
        ``codec``: `TransformCodec`, `SEANetCodec` or `WaveCodec`; ``reconstruction``:
        `ReconstructionLoss`.
    hparams : dict
        Beside what `TaskBrain` reads: ``vq_weight`` (of the quantizer's own loss, for a
        codec that has one), ``valid_kbps`` (list of float) and ``choose_by`` (``snr``,
        which is what is taken if it is left out, or ``loss``).

    The best checkpoint is the one with the highest valid SNR, averaged over
    ``valid_kbps``, or the one with the lowest reconstruction loss there: what mends
    the sound may cost SNR. One that is not finite is the worst there is.
    """

    shown_terms = ("loss", "recon", "vq")

    @property
    def choose_by(self) -> str:
        """What the best checkpoint is best in: snr or loss."""
        return getattr(self.hparams, "choose_by", "snr")

    # -- one batch ---------------------------------------------------------------

    def compute_forward(self, batch, stage):
        """Return the codec's result (TRAIN) or ``{kbps: wav}`` (VALID, TEST)."""
        batch = batch.to(self.device)
        wav = batch.wav.data
        if stage == Stage.TRAIN:
            return self.modules.codec(wav)
        codec = getattr(self.modules.codec, "module", self.modules.codec)
        return codec.reconstructions(wav, self.hparams.valid_kbps)

    def compute_objectives(self, predictions, batch, stage):
        """Return the weighted sum of all loss terms, or what checkpoints are chosen by.

        In validation minus the mean SNR in dB, or the mean reconstruction loss.
        """
        wav = batch.wav.data.to(self.device)
        if stage != Stage.TRAIN:
            return self._score(predictions, wav, batch.id)
        recon = self.modules.reconstruction(predictions.wav, wav)
        if predictions.rvq is None:
            self.remember({"loss": recon.total, **recon.terms})
            return recon.total
        vq = predictions.rvq.loss
        total = recon.total + self.hparams.vq_weight * vq
        metrics = predictions.rvq.metrics
        self.remember(
            {
                "loss": total,
                "recon": recon.total,
                "vq": vq,
                **recon.terms,
                "usage": metrics["usage"].mean(),
                "perplexity": metrics["perplexity"].mean(),
                "vq_saturations": metrics["saturations"],
            }
        )
        return total

    def _score(self, predictions, wav, utt_ids) -> torch.Tensor:
        """SNR and loss of every rate; a non-finite one is named and left out."""
        power = wav.double().square().sum().clamp(min=1e-12)
        scores = []
        by_loss = self.choose_by == "loss"
        for kbps, estimate in predictions.items():
            noise = (wav.double() - estimate.double()).square().sum()
            snr = 10 * torch.log10(power / noise.clamp(min=1e-12))
            loss = -snr
            if by_loss:
                loss = self.modules.reconstruction(estimate, wav).total
            if torch.isfinite(snr) and torch.isfinite(loss):
                self.valid_snr[kbps].append(snr.item())
                scores.append(loss)
            else:
                self.valid_rejected += 1
                logger.warning(
                    "validation: %s at %g kbps is not finite; left out and counted",
                    utt_ids[0],
                    kbps,
                )
        if not scores:
            return torch.tensor(math.nan)
        mean = torch.stack(scores).mean().float()
        if by_loss:
            self.valid_losses.append(mean.item())
        return mean

    # -- a run -------------------------------------------------------------------

    def announce(self, loader):
        """Say what will be trained; warn of a rule that does not learn."""
        super().announce(loader)
        quantizer = getattr(self.modules.codec, "quantizer", None)
        seed_rule = getattr(quantizer, "ema_target", "residual") == "quantized"
        if seed_rule and if_main_process():
            print(
                "note: ema_target quantized averages codes and not data, kept as a "
                "switch; codebooks do not learn with it. Right: "
                "--codec.quantizer.ema_target=residual",
                file=sys.stderr,
            )

    def finish(self, valid_set, train_set):
        """Learn how likely the codes of the best checkpoint are: its files shrink."""
        seconds = learn_code_model(
            self.modules.codec,
            Path(self.hparams.save_folder),
            train_set,
            steps=getattr(self.hparams, "code_steps", 0),
            seed=self.hparams.seed,
            shown_progress=shown_progress,
        )
        if seconds:
            self.train_stats = {"seconds": seconds}
            # A text: what reads the log takes no line of it for an epoch.
            self.log_epoch("codes", None)

    # -- an epoch ----------------------------------------------------------------

    def on_stage_start(self, stage, epoch=None):
        """Start the sums of an epoch."""
        if stage == Stage.TRAIN:
            self.start_sums(epoch)
            self.modules.reconstruction.saturations.zero_()
        else:
            self.valid_snr = {kbps: [] for kbps in self.hparams.valid_kbps}
            self.valid_losses = []
            self.valid_rejected = 0

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log the epoch; after validation, keep the best checkpoint."""
        if stage == Stage.TRAIN:
            self.end_sums(epoch)
        if stage == Stage.VALID:
            stats = {
                f"snr_{kbps:g}k": sum(x) / len(x) if x else math.nan
                for kbps, x in self.valid_snr.items()
            }
            snr = sum(stats.values()) / len(stats)
            meta, best = {"snr": snr}, {"max_keys": ["snr"]}
            if self.choose_by == "loss":
                found = self.valid_losses
                meta["loss"] = sum(found) / len(found) if found else math.nan
                best = {"min_keys": ["loss"]}
            self.log_epoch(epoch, {**meta, **stats, "nonfinite": self.valid_rejected})
            # The guarded checkpointer verifies the state, and a NaN is never the best.
            self.checkpointer.save_and_keep_only(meta={**meta, "epoch": epoch}, **best)
