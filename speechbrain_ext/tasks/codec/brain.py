"""What a codec learns from a batch, and how a run of it goes."""

from __future__ import annotations

import logging
import math
import sys
import time

import torch
from speechbrain import Stage
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.seed import seed_everything

from speechbrain_ext.brain import NaNSafeBrain
from speechbrain_ext.data.sampler import generator_for
from speechbrain_ext.report.doctor import examine, render

logger = logging.getLogger(__name__)

#: Numbers in the progress bar are read from the device at most this often.
_PROGRESS_SECONDS = 0.5


class CodecBrain(NaNSafeBrain):
    """Trains a codec on crops and validates whole utterances at nested bitrates.

    Arguments
    ---------
    modules : dict
        ``codec``: `TransformCodec` or `SEANetCodec`; ``reconstruction``:
        `ReconstructionLoss`.
    hparams : dict
        Beside what every Brain reads: ``vq_weight`` (of the quantizer's own loss),
        ``schedule`` (`WarmupCosine`), ``valid_kbps`` (list of float),
        ``test_interval`` (epochs between two validations), ``train_loggers`` (list of
        SpeechBrain loggers).

    The best checkpoint is the one with the highest valid SNR, averaged over
    ``valid_kbps``; a non-finite SNR is the worst there is.
    """

    def __init__(self, modules, opt_class, hparams, run_opts=None, checkpointer=None):
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        self.term_sums: dict[str, torch.Tensor] = {}
        # Not self.step: an epoch that is resumed starts with its steps, but no sums.
        self.term_count = 0
        self._shown: tuple[float, dict] = (0.0, {})
        self.train_stats: dict[str, float] = {}
        self.num_epochs = 0
        #: whether the first weights come from data and not from noise
        self.starts_trained = False
        #: what went on before the first epoch; counted with it
        self.seconds_before = 0.0

    # -- one batch ---------------------------------------------------------------

    def compute_forward(self, batch, stage):
        """Return the codec's result (TRAIN) or ``{kbps: wav}`` (VALID, TEST)."""
        batch = batch.to(self.device)
        wav = batch.wav.data
        if stage == Stage.TRAIN:
            return self.modules.codec(wav)
        codec = getattr(self.modules.codec, "module", self.modules.codec)
        codes = codec.encode(wav, kbps=max(self.hparams.valid_kbps))
        return {
            kbps: codec.decode(
                codes[:, : codec.kbps_to_quantizers(kbps)], length=wav.shape[-1]
            )
            for kbps in self.hparams.valid_kbps
        }

    def compute_objectives(self, predictions, batch, stage):
        """Return the weighted sum of all loss terms, or minus the mean SNR in dB."""
        wav = batch.wav.data.to(self.device)
        if stage != Stage.TRAIN:
            return self._score(predictions, wav, batch.id)
        recon = self.modules.reconstruction(predictions.wav, wav)
        vq = predictions.rvq.loss
        total = recon.total + self.hparams.vq_weight * vq
        metrics = predictions.rvq.metrics
        self._remember(
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

    def _remember(self, values: dict[str, torch.Tensor]) -> None:
        """Add to the epoch's sums; rebinding, so that a rejected batch is undone."""
        for name, value in values.items():
            value = value.detach().float()
            self.term_sums[name] = self.term_sums.get(name, 0.0) + value
        self.term_count += 1

    def _score(self, predictions, wav, utt_ids) -> torch.Tensor:
        """SNR in dB of every rate; a non-finite one is named and left out."""
        power = wav.double().square().sum().clamp(min=1e-12)
        scores = []
        for kbps, estimate in predictions.items():
            noise = (wav.double() - estimate.double()).square().sum()
            snr = 10 * torch.log10(power / noise.clamp(min=1e-12))
            if torch.isfinite(snr):
                self.valid_snr[kbps].append(snr.item())
                scores.append(snr)
            else:
                self.valid_rejected += 1
                logger.warning(
                    "validation: %s at %g kbps is not finite; left out and counted",
                    utt_ids[0],
                    kbps,
                )
        if not scores:
            return torch.tensor(math.nan)
        return -torch.stack(scores).mean().float()

    def on_fit_batch_start(self, batch, should_step):
        """Set the learning rate of the coming step."""
        if should_step:
            for optimizer in self.optimizers_dict.values():
                self.hparams.schedule.apply(optimizer)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Count a step that was taken."""
        if should_step:
            self.hparams.schedule.advance()

    # -- a run -------------------------------------------------------------------

    def fit(self, epoch_counter, train_set, valid_set=None, **kwargs):
        """Train as ``Brain.fit`` does.

        With ``starts_trained`` the first weights are validated as epoch 0, and may win.
        """
        self.train_sampler = train_set.sampler
        self.first_valid_set = valid_set
        self.num_epochs = epoch_counter.limit
        steps = len(train_set) // self.grad_accumulation_factor
        self.hparams.schedule.total_steps = steps * self.num_epochs
        super().fit(epoch_counter, train_set, valid_set, **kwargs)

    def on_fit_start(self):
        """Prepare as stock does; validate first weights that are already good."""
        super().on_fit_start()
        if self.starts_trained and self.hparams.epoch_counter.current == 0:
            super()._fit_valid(self.first_valid_set, 0, enable=False)

    def estimate_seconds(self, batch) -> float:
        """Time forward and backward on one batch without learning from it."""
        transaction = self._guard.transaction
        transaction.begin()
        self.modules.train()
        try:
            times = []
            for _ in range(2):  # the first one warms up
                start = time.perf_counter()
                outputs = self.compute_forward(batch, Stage.TRAIN)
                self.compute_objectives(outputs, batch, Stage.TRAIN).backward()
                if self.device_type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        finally:
            transaction.rollback()
            for parameter in self.modules.parameters():
                parameter.grad = None
        return times[-1]

    def progress_items(self):
        """Loss terms, learning rate and rejects, read twice a second."""
        last, shown = self._shown
        now = time.monotonic()
        if now - last >= _PROGRESS_SECONDS and self.term_sums:
            count = max(1, self.term_count)
            shown = {
                name: f"{float(self.term_sums[name]) / count:.3f}"
                for name in ("loss", "recon", "vq")
            }
            shown["lr"] = f"{self.optimizer.param_groups[0]['lr']:.1e}"
            self._shown = (now, shown)
        return {**shown, **super().progress_items()}

    def _fit_valid(self, valid_set, epoch, enable):
        interval = self.hparams.test_interval
        if epoch % interval == 0 or epoch == self.num_epochs:
            super()._fit_valid(valid_set, epoch, enable)
        if epoch == 1 and if_main_process():
            print(render(examine(self.hparams.output_folder)), file=sys.stderr)

    def on_stage_start(self, stage, epoch=None):
        """Start the sums of an epoch."""
        if stage == Stage.TRAIN:
            # Dropout and the quantizer's choices then do not depend on whether the
            # run was interrupted between two epochs.
            seed = generator_for(self.hparams.seed, epoch, "dropout").integers(2**31)
            seed_everything(int(seed), verbose=False)
            self.term_sums = {}
            self.term_count = 0
            self._shown = (0.0, {})
            self.modules.reconstruction.saturations.zero_()
            self.stage_started = time.monotonic()
        else:
            self.valid_snr = {kbps: [] for kbps in self.hparams.valid_kbps}
            self.valid_rejected = 0

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log the epoch; after validation, keep the best checkpoint."""
        if stage == Stage.TRAIN:
            count = max(1, self.term_count)
            self.train_stats = {n: float(x) / count for n, x in self.term_sums.items()}
            self.train_stats |= self.health_items()
            seconds = time.monotonic() - self.stage_started + self.seconds_before
            self.train_stats["seconds"], self.seconds_before = seconds, 0.0
            if epoch % self.hparams.test_interval and epoch != self.num_epochs:
                self._log(epoch, None)
            return
        if stage == Stage.VALID:
            stats = {
                f"snr_{kbps:g}k": sum(x) / len(x) if x else math.nan
                for kbps, x in self.valid_snr.items()
            }
            snr = sum(stats.values()) / len(stats)
            self._log(epoch, {"snr": snr, **stats, "nonfinite": self.valid_rejected})
            # The guarded checkpointer verifies the state, and a NaN is never the best.
            self.checkpointer.save_and_keep_only(
                meta={"snr": snr, "epoch": epoch}, max_keys=["snr"]
            )

    def _log(self, epoch, valid_stats) -> None:
        meta = {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]}
        for train_logger in self.hparams.train_loggers:
            train_logger.log_stats(meta, self.train_stats or None, valid_stats)
