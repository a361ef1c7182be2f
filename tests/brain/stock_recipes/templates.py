"""SpeechBrain's templates: speaker identification, enhancement, recognition."""

from __future__ import annotations

from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.Xvector import Classifier, Xvector
from speechbrain.nnet import schedulers
from speechbrain.processing.features import STFT, InputNormalization, spectral_magnitude
from speechbrain.utils.metric_stats import (
    ErrorRateStats,
    MetricStats,
)
from torch import nn

from tests.brain.stock_recipes.parts import (
    NUM_SPEAKERS,
    NUM_TOKENS,
    TEST,
    TRAIN,
    VALID,
    Frames,
    adam,
    here,
    make,
)


def speaker(base, folder: Path, **options):
    """The speaker-identification template: x-vector, logger, checkpoints."""

    class Speaker(base):
        def compute_forward(self, batch, stage):
            sig, lens = here(batch, self.device)["sig"]
            features = self.modules.compute_features(sig)
            features = self.modules.mean_var_norm(features, lens)
            embeddings = self.modules.embedding_model(features, lens)
            return self.modules.classifier(embeddings), lens

        def compute_objectives(self, predictions, batch, stage):
            predictions, lens = predictions
            labels, _ = here(batch, self.device)["spk"]
            loss = sb.nnet.losses.nll_loss(predictions, labels, lens)
            self.loss_metric.append(
                batch["id"], predictions, labels, lens, reduction="batch"
            )
            if stage != TRAIN:
                self.error_metrics.append(
                    batch["id"], predictions, labels, lens, reduction="batch"
                )
            return loss

        def on_stage_start(self, stage, epoch=None):
            self.loss_metric = MetricStats(metric=sb.nnet.losses.nll_loss)
            if stage != TRAIN:
                self.error_metrics = self.hparams.error_stats()

        def on_stage_end(self, stage, stage_loss, epoch=None):
            if stage == TRAIN:
                self.train_loss = stage_loss
                self.train_scores = self.loss_metric.summarize("average")
                return
            stats = {"loss": stage_loss}
            stats["error"] = float(self.error_metrics.summarize("average"))
            if stage == VALID:
                old, new = self.hparams.lr_annealing(epoch)
                schedulers.update_learning_rate(self.optimizer, new)
                self.hparams.train_logger.log_stats(
                    {"Epoch": epoch, "lr": old},
                    train_stats={"loss": self.train_loss, "nll": self.train_scores},
                    valid_stats=stats,
                )
                self.checkpointer.save_and_keep_only(meta=stats, min_keys=["error"])
            if stage == TEST:
                self.hparams.train_logger.log_stats(
                    {"Epoch loaded": self.hparams.epoch_counter.current},
                    test_stats=stats,
                )

    modules = {
        "compute_features": Fbank(n_mels=10),
        "mean_var_norm": InputNormalization(norm_type="sentence", std_norm=False),
        "embedding_model": Xvector(
            activation=nn.LeakyReLU,
            tdnn_blocks=2,
            tdnn_channels=[8, 8],
            tdnn_kernel_sizes=[3, 1],
            tdnn_dilations=[1, 1],
            lin_neurons=6,
            in_channels=10,
        ),
        "classifier": Classifier(
            input_shape=[None, None, 6],
            activation=nn.LeakyReLU,
            lin_blocks=1,
            lin_neurons=6,
            out_neurons=NUM_SPEAKERS,
        ),
    }
    hparams = {
        "lr_annealing": schedulers.LinearScheduler(1e-2, 1e-3, 3),
        "error_stats": lambda: MetricStats(sb.nnet.losses.classification_error),
    }
    save = ("mean_var_norm", "embedding_model", "classifier")
    return make(Speaker, modules, adam, folder, hparams, save, **options)


def enhancement(base, folder: Path, **options):
    """The enhancement template: a mask on log spectra, metrics per utterance."""

    class Enhancement(base):
        def compute_forward(self, batch, stage):
            self.clean_sig, self.lens = here(batch, self.device)["sig"]
            noisy = self.clean_sig + 0.05 * torch.randn_like(self.clean_sig)
            features = self.features(noisy)
            mask = torch.sigmoid(self.modules.model(features))
            return torch.mul(mask, features)

        def features(self, sig):
            magnitude = spectral_magnitude(self.hparams.stft(sig), power=0.5)
            return torch.log1p(magnitude)

        def compute_objectives(self, predictions, batch, stage):
            clean = self.features(self.clean_sig)
            loss = sb.nnet.losses.mse_loss(predictions, clean, self.lens)
            self.loss_metric.append(
                batch["id"], predictions, clean, self.lens, reduction="batch"
            )
            return loss

        def on_stage_start(self, stage, epoch=None):
            self.loss_metric = MetricStats(metric=sb.nnet.losses.mse_loss)

        def on_stage_end(self, stage, stage_loss, epoch=None):
            if stage == TRAIN:
                self.train_loss = stage_loss
                self.train_stats = {"loss": self.loss_metric.scores}
                return
            stats = {"loss": stage_loss, "error": self.loss_metric.summarize("average")}
            if stage == VALID:
                self.hparams.train_logger.log_stats(
                    {"Epoch": epoch}, {"loss": self.train_loss}, stats
                )
                self.checkpointer.save_and_keep_only(meta=stats, min_keys=["error"])

    stft = STFT(sample_rate=16000, n_fft=64, win_length=4, hop_length=2)
    model = nn.Sequential(
        nn.Linear(33, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 33)
    )
    modules, hparams = {"model": model}, {"stft": stft}
    return make(Enhancement, modules, adam, folder, hparams, ("model",), **options)


def recognizer(base):
    """The CTC part of the recognition template: NewBob, WER, checkpoints."""

    class Recognizer(base):
        def compute_forward(self, batch, stage):
            sig, lens = here(batch, self.device)["sig"]
            encoded, _ = self.modules.encoder(self.modules.frames(sig, lens))
            logits = self.modules.ctc_lin(encoded)
            return torch.log_softmax(logits, -1), lens

        def compute_objectives(self, predictions, batch, stage):
            p_ctc, lens = predictions
            tokens, token_lens = here(batch, self.device)["tokens"]
            loss = sb.nnet.losses.ctc_loss(p_ctc, tokens, lens, token_lens, 0)
            if stage != TRAIN:
                said = sb.decoders.ctc_greedy_decode(p_ctc, lens, blank_id=0)
                self.wer_metric.append(batch["id"], said, tokens, None, token_lens)
            return loss

        def on_stage_start(self, stage, epoch=None):
            if stage != TRAIN:
                self.wer_metric = ErrorRateStats()

        def on_stage_end(self, stage, stage_loss, epoch=None):
            if stage == TRAIN:
                self.train_stats = {"loss": stage_loss}
                return
            stats = {"loss": stage_loss, "error": self.wer_metric.summarize("WER")}
            if stage == VALID:
                old, new = self.hparams.lr_annealing(stats["loss"])
                schedulers.update_learning_rate(self.optimizer, new)
                self.hparams.train_logger.log_stats(
                    {"epoch": epoch, "lr": old}, self.train_stats, stats
                )
                self.checkpointer.save_and_keep_only(meta=stats, min_keys=["error"])

    return Recognizer


def make_recognizer(cls, folder, **options):
    modules = {
        "frames": Frames(),
        "encoder": sb.nnet.RNN.GRU(8, input_size=8, dropout=0.1, num_layers=2),
        "ctc_lin": nn.Linear(8, NUM_TOKENS),
    }
    hparams = {"lr_annealing": schedulers.NewBobScheduler(1e-2)}
    save = ("frames", "encoder", "ctc_lin", "lr_annealing")
    return make(cls, modules, adam, folder, hparams, save, **options)


def ctc(base, folder: Path, **options):
    """CTC with stock's fit_batch."""
    return make_recognizer(recognizer(base), folder, **options)


def ctc_of_version_05(base, folder: Path, **options):
    """CTC with its own fit_batch as recipes of SpeechBrain 0.5 have it."""

    class Old(recognizer(base)):
        def check_gradients(self, loss):
            if not torch.isfinite(loss):
                self.nonfinite_count += 1
                return False
            torch.nn.utils.clip_grad_norm_(
                (p for p in self.modules.parameters()), self.max_grad_norm
            )
            return True

        def fit_batch(self, batch):
            predictions = self.compute_forward(batch, TRAIN)
            loss = self.compute_objectives(predictions, batch, TRAIN)
            (loss / self.grad_accumulation_factor).backward()
            if self.step % self.grad_accumulation_factor == 0:
                if self.check_gradients(loss):
                    self.optimizer.step()
                self.optimizer.zero_grad()
                self.optimizer_step += 1
            return loss.detach()

    return make_recognizer(Old, folder, **options)
