"""Recipes as people write them against ``speechbrain.Brain``, base class open.

Each function takes the base class and an experiment folder and returns a Brain; what
it does besides is what SpeechBrain's templates, tutorials and larger recipes do with
the hooks of stock Brain. None of them knows anything of this project.
"""

from __future__ import annotations

import functools
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.Xvector import Classifier, Xvector
from speechbrain.nnet import schedulers
from speechbrain.processing.features import STFT, InputNormalization, spectral_magnitude
from speechbrain.utils.metric_stats import (
    ClassificationStats,
    ErrorRateStats,
    MetricStats,
)
from torch import nn
from torch.utils.data import DataLoader

NUM_SPEAKERS, NUM_TOKENS, PER_BATCH = 3, 5, 3
TRAIN, VALID, TEST = sb.Stage.TRAIN, sb.Stage.VALID, sb.Stage.TEST


def utterances(count: int, seed: int = 0, prefix: str = "utt") -> list[dict]:
    """Make short noises with a speaker and a few tokens each."""
    generator = torch.Generator().manual_seed(seed)
    rand = functools.partial(torch.randint, generator=generator)
    made = []
    for index in range(count):
        length = int(rand(900, 1400, ()))
        made.append(
            {
                "id": f"{prefix}{index}",
                "wav": 0.1 * torch.randn(length, generator=generator),
                "spk": rand(0, NUM_SPEAKERS, (1,)),
                "tokens": rand(1, NUM_TOKENS, (int(rand(1, 4, ())),)),
            }
        )
    return made


def poisoned(seed: int = 99) -> list[dict]:
    """One batch, one sample of which is NaN."""
    bad = utterances(PER_BATCH, seed, prefix="bad")
    bad[1]["wav"][5] = torch.nan
    return bad


def dataset(items: list[dict]) -> DynamicItemDataset:
    """A data set as recipes make them: dynamic items, output keys."""
    made = DynamicItemDataset(
        {
            f"{place}-{item['id']}": {k: v for k, v in item.items() if k != "id"}
            for place, item in enumerate(items)
        }
    )
    made.add_dynamic_item(torch.clone, takes="wav", provides="sig")
    made.set_output_keys(["id", "sig", "spk", "tokens"])
    return made


def as_dicts(items: list[dict]) -> DataLoader:
    """The same batches as plain dicts."""
    made = []
    padded = dataset(items)
    for start in range(0, len(items), PER_BATCH):
        rows = [padded[i] for i in range(start, min(start + PER_BATCH, len(items)))]
        batch = PaddedBatch(rows)
        made.append({k: batch[k] for k in ("id", "sig", "spk", "tokens")})
    return DataLoader(made, batch_size=None)


def run(brain, items: list[dict], *, kind: str = "padded", epochs: int = 2):
    """Train, validate after each epoch, then test the best checkpoint."""
    loader = {"batch_size": PER_BATCH}
    train = dataset(items) if kind == "padded" else as_dicts(items)
    valid = utterances(2 * PER_BATCH, seed=50, prefix="valid")
    valid = dataset(valid) if kind == "padded" else as_dicts(valid)
    counter = getattr(getattr(brain, "hparams", None), "epoch_counter", None)
    if counter is not None:
        counter.limit = epochs
    brain.fit(
        range(1, epochs + 1) if counter is None else counter,
        train,
        valid,
        train_loader_kwargs=dict(loader),
        valid_loader_kwargs=dict(loader),
    )
    if brain.checkpointer is not None:
        brain.evaluate(valid, min_key="error", test_loader_kwargs=dict(loader))
    return brain


def here(batch, device):
    """Move a batch, if it is one that can be moved."""
    return batch.to(device) if hasattr(batch, "to") else batch


def make(cls, modules, opt_class, folder=None, hparams=None, save=(), **run_opts):
    """Build a Brain with what nearly every recipe has in its hparams."""
    hparams = dict(hparams or {})
    checkpointer = None
    if save:
        hparams["epoch_counter"] = sb.utils.epoch_loop.EpochCounter(limit=2)
        hparams["train_logger"] = sb.utils.train_logger.FileTrainLogger(
            str(folder / "train_log.txt"), precision=6
        )
        kept = {name: (modules | hparams)[name] for name in save}
        checkpointer = sb.utils.checkpoints.Checkpointer(
            folder / "save", {**kept, "counter": hparams["epoch_counter"]}
        )
    options = {"noprogressbar": True, "device": "cpu", **run_opts}
    return cls(modules, opt_class, hparams, options, checkpointer)


def adam(parameters):
    return torch.optim.Adam(parameters, 1e-2)


def sgd(parameters):
    return torch.optim.SGD(parameters, 1e-2, momentum=0.9)


class Frames(nn.Module):
    """Filter banks, statistics in plain attributes, BatchNorm, dropout."""

    def __init__(self, size=8, mels=10):
        super().__init__()
        self.features = Fbank(n_mels=mels)
        self.normalize = InputNormalization(norm_type="global")
        self.net = nn.Sequential(nn.Linear(mels, size), nn.LeakyReLU())
        self.norm = nn.BatchNorm1d(size)
        self.drop = nn.Dropout(0.2)

    def forward(self, sig, lens):
        frames = self.net(self.normalize(self.features(sig), lens))
        return self.drop(self.norm(frames.transpose(1, 2)).transpose(1, 2))


class Pooled(nn.Module):
    """A speaker's scores from the mean frame."""

    def __init__(self, size=8):
        super().__init__()
        self.frames = Frames(size)
        self.last = nn.Linear(size, NUM_SPEAKERS)

    def forward(self, sig, lens):
        return self.last(self.frames(sig, lens).mean(1))


def short(base):
    """The two compulsory hooks, as in every tutorial; other recipes start from it."""

    class Short(base):
        def compute_forward(self, batch, stage):
            batch = here(batch, self.device)
            return self.modules.model(*batch["sig"])

        def compute_objectives(self, predictions, batch, stage):
            labels = here(batch, self.device)["spk"][0].squeeze(1)
            return nn.functional.cross_entropy(predictions, labels)

    return Short


# -------------------------------------------------------------- templates


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


# -------------------------------------------------------------- hooks


def autoencoder(base, folder: Path, **options):
    """The auto-encoder example: no checkpoint, losses kept in attributes."""

    class AutoEncoder(base):
        def compute_forward(self, batch, stage):
            sig, lens = here(batch, self.device)["sig"]
            features = self.modules.frames(sig, lens)
            encoded = self.modules.encoder(features.detach())
            return self.modules.decoder(encoded), features.detach(), lens

        def compute_objectives(self, predictions, batch, stage):
            decoded, features, lens = predictions
            return sb.nnet.losses.mse_loss(decoded, features, lens)

        def on_stage_end(self, stage, stage_loss, epoch=None):
            if stage == TRAIN:
                self.train_loss = stage_loss
            if stage == VALID:
                self.history = [*getattr(self, "history", []), stage_loss]

    modules = {
        "frames": Frames(),
        "encoder": nn.Linear(8, 2),
        "decoder": nn.Linear(2, 8),
    }
    return make(AutoEncoder, modules, sgd, **options)


def classification(base, folder: Path, **options):
    """A classifier that keeps its confusions, training ones too."""

    class Classification(short(base)):
        def compute_objectives(self, predictions, batch, stage):
            said = [str(int(row)) for row in predictions.argmax(1)]
            truth = [str(int(row)) for row in batch["spk"][0].squeeze(1)]
            self.confusions.append(batch["id"], said, truth)
            self.labels_seen.update(truth)
            return super().compute_objectives(predictions, batch, stage)

        def on_stage_start(self, stage, epoch=None):
            self.confusions = ClassificationStats()
            self.labels_seen = set()

        def on_stage_end(self, stage, stage_loss, epoch=None):
            self.seen = sorted(self.labels_seen)
            self.accuracy = self.confusions.summarize("accuracy")

    return make(Classification, {"model": Pooled()}, adam, **options)


def noam(base, folder: Path, **options):
    """The transformer recipes' way: anneal after each step, log the rate."""

    class Noam(short(base)):
        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            if should_step:
                self.hparams.noam_annealing(self.optimizer)
                self.rates = [*getattr(self, "rates", []), outputs.detach().mean()]

    hparams = {"noam_annealing": schedulers.NoamScheduler(1e-2, 3)}
    return make(Noam, {"model": Pooled()}, adam, hparams=hparams, **options)


def frozen_at_first(base, folder: Path, **options):
    """The wav2vec recipes' way: two optimizers, one of them waits some steps."""

    class Frozen(short(base)):
        def compute_forward(self, batch, stage):
            sig, lens = here(batch, self.device)["sig"]
            return self.modules.head(self.modules.wav2vec2(sig, lens).mean(1))

        def init_optimizers(self):
            self.wav2vec_optimizer = adam(self.modules.wav2vec2.parameters())
            self.model_optimizer = sgd(self.modules.head.parameters())
            self.optimizers_dict = {
                "wav2vec_optimizer": self.wav2vec_optimizer,
                "model_optimizer": self.model_optimizer,
            }

        def freeze_optimizers(self, optimizers):
            valid = {"model_optimizer": optimizers["model_optimizer"]}
            if self.optimizer_step >= self.hparams.warmup_steps:
                valid["wav2vec_optimizer"] = optimizers["wav2vec_optimizer"]
            return valid

    modules = {"wav2vec2": Frames(), "head": nn.Linear(8, NUM_SPEAKERS)}
    return make(Frozen, modules, None, hparams={"warmup_steps": 2}, **options)


def own_evaluate_batch(base, folder: Path, **options):
    """Validates in another way than it trains."""

    class Evaluated(short(base)):
        @torch.no_grad()
        def evaluate_batch(self, batch, stage):
            scores = self.compute_forward(batch, stage=stage)
            self.heard = [*getattr(self, "heard", []), *batch["id"]]
            return scores.square().mean().detach().cpu()

        def on_stage_end(self, stage, stage_loss, epoch=None):
            self.losses = [*getattr(self, "losses", []), stage_loss]

    return make(Evaluated, {"model": Pooled()}, adam, **options)


def own_optimizers_step(base, folder: Path, **options):
    """Clips by value, and steps itself."""

    class Stepping(short(base)):
        def optimizers_step(self):
            torch.nn.utils.clip_grad_value_(self.modules.parameters(), 0.5)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.optimizer_step += 1

    return make(Stepping, {"model": Pooled()}, adam, **options)


def logs_from_the_loss(base, folder: Path, **options):
    """Writes a line for every batch, from inside compute_objectives."""

    class Logging(short(base)):
        def compute_objectives(self, predictions, batch, stage):
            loss = super().compute_objectives(predictions, batch, stage)
            if stage == TRAIN:
                self.hparams.train_logger.log_stats(
                    {"step": self.optimizer_step},
                    {"spread": float(predictions.detach().std())},
                )
            return loss

    logger = sb.utils.train_logger.FileTrainLogger(str(folder / "step_log.txt"), 6)
    hparams = {"train_logger": logger}
    return make(Logging, {"model": Pooled()}, adam, hparams=hparams, **options)


def tensor_rate(base, folder: Path, **options):
    """A learning rate that is a tensor, multiplied in place after each step."""

    class Rated(short(base)):
        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            if should_step:
                self.optimizer.param_groups[0]["lr"].mul_(0.9)

    def opt_class(parameters):
        return torch.optim.Adam(parameters, torch.tensor(1e-2))

    return make(Rated, {"model": Pooled()}, opt_class, **options)


def no_optimizer(base, folder: Path, **options):
    """Only gathers statistics over the data: nothing is optimized."""

    class Gathering(short(base)):
        def compute_objectives(self, predictions, batch, stage):
            loss = super().compute_objectives(predictions, batch, stage)
            self.total = getattr(self, "total", 0.0) + float(loss.detach())
            return loss

    return make(Gathering, {"model": Pooled()}, None, **options)


def hooks_and_counters(base, folder: Path, **options):
    """Keeps a weight average, an epoch's list and numpy noise of its own."""

    class Hooked(short(base)):
        def on_stage_start(self, stage, epoch=None):
            if not hasattr(self, "average"):
                self.average = {
                    k: v.clone() for k, v in self.modules.named_parameters()
                }
            self.sizes = []

        def on_fit_batch_start(self, batch, should_step):
            import random

            import numpy

            self.gain = 1.0 + 0.1 * random.random() + 0.1 * numpy.random.rand()
            self.sizes.append(len(batch["id"]))

        def compute_forward(self, batch, stage):
            sig, lens = here(batch, self.device)["sig"]
            return self.modules.model(sig * getattr(self, "gain", 1.0), lens)

        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            if should_step:
                for name, value in self.modules.named_parameters():
                    self.average[name].lerp_(value.detach(), 0.1)

    return make(Hooked, {"model": Pooled()}, adam, **options)


# -------------------------------------------------------------- own fit_batch


def two_steps(base, folder: Path, **options):
    """Calls optimizers_step() twice a batch, with a forward before each."""

    class Twice(short(base)):
        def fit_batch(self, batch):
            for _ in range(2):
                predictions = self.compute_forward(batch, TRAIN)
                loss = self.compute_objectives(predictions, batch, TRAIN)
                loss.backward()
                self.optimizers_step()
            return loss.detach().cpu()

    return make(Twice, {"model": Pooled()}, adam, **options)


def sharpness(base, folder: Path, **options):
    """SAM: climbs to a worse point through ``.data``, steps from the first one."""

    class Sharpness(short(base)):
        def fit_batch(self, batch):
            self.loss_at(batch).backward()
            climbed = []
            for p in self.modules.parameters():
                if p.grad is not None:
                    climbed.append((p, p.data.clone()))
                    p.data.add_(p.grad, alpha=0.01)
            self.optimizer.zero_grad()
            loss = self.loss_at(batch)
            loss.backward()
            for p, before in climbed:
                p.data.copy_(before)
            self.optimizers_step()
            return loss.detach().cpu()

        def loss_at(self, batch):
            outputs = self.compute_forward(batch, TRAIN)
            return self.compute_objectives(outputs, batch, TRAIN)

    return make(Sharpness, {"model": Pooled()}, adam, **options)


def closure(base, folder: Path, **options):
    """L-BFGS: the optimizer asks for the loss again and again within one step."""

    class Closure(short(base)):
        def fit_batch(self, batch):
            def evaluate():
                self.optimizer.zero_grad()
                outputs = self.compute_forward(batch, TRAIN)
                loss = self.compute_objectives(outputs, batch, TRAIN)
                loss.backward()
                return loss

            return self.optimizer.step(evaluate).detach().cpu()

    def opt_class(parameters):
        return torch.optim.LBFGS(parameters, 0.01, max_iter=3, history_size=2)

    return make(Closure, {"model": Pooled()}, opt_class, **options)


def separation(base, folder: Path, **options):
    """The separation recipes' way: another signature, a limit on the loss."""

    class Separation(base):
        def compute_forward(self, mix, targets, stage):
            if stage == TRAIN:
                mix = mix[0] + 0.01 * torch.randn_like(mix[0]), mix[1]
            return self.modules.model(*mix), targets

        def compute_objectives(self, predictions, targets):
            return nn.functional.cross_entropy(predictions, targets, reduction="none")

        def fit_batch(self, batch):
            mixture = here(batch, self.device)["sig"]
            targets = here(batch, self.device)["spk"][0].squeeze(1)
            predictions, targets = self.compute_forward(mixture, targets, TRAIN)
            loss = self.compute_objectives(predictions, targets)
            loss = loss[loss > self.hparams.threshold]
            if loss.nelement() > 0:
                loss = loss.mean()
            if loss.nelement() > 0 and loss < self.hparams.loss_upper_lim:
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 5.0)
                self.optimizer.step()
            else:
                self.nonfinite_count += 1
                loss = torch.tensor(0.0)
            self.optimizer.zero_grad()
            return loss.detach().cpu()

        def evaluate_batch(self, batch, stage):
            mixture = batch["sig"]
            targets = batch["spk"][0].squeeze(1)
            with torch.no_grad():
                predictions, targets = self.compute_forward(mixture, targets, stage)
                loss = self.compute_objectives(predictions, targets)
            return loss.mean().detach()

    hparams = {"threshold": 0.01, "loss_upper_lim": 999999}
    return make(Separation, {"model": Pooled()}, adam, hparams=hparams, **options)


def pretraining(base, folder: Path, **options):
    """The pre-training recipes' way: own scaling, clipping, counting and hooks."""

    class Pretraining(short(base)):
        def fit_batch(self, batch):
            should_step = self.step % self.grad_accumulation_factor == 0
            with self.no_sync(not should_step):
                with self.training_ctx:
                    predictions = self.compute_forward(batch, TRAIN)
                    loss = self.compute_objectives(predictions, batch, TRAIN)
                self.scaler.scale(loss / self.grad_accumulation_factor).backward()
            if should_step:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 5.0)
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
                self.optimizer_step += 1
            self.on_fit_batch_end(batch, predictions, loss, should_step)
            return loss.detach().cpu()

        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            if should_step:
                self.hparams.annealing(self.optimizer)
            self.objective_loss = loss.detach()

    hparams = {"annealing": schedulers.NoamScheduler(1e-2, 3)}
    return make(Pretraining, {"model": Pooled()}, adam, hparams=hparams, **options)


#: Every batch steps at most once.
ONE_STEP = {
    made.__name__: made
    for made in (
        speaker,
        enhancement,
        ctc,
        ctc_of_version_05,
        autoencoder,
        classification,
        noam,
        frozen_at_first,
        own_evaluate_batch,
        own_optimizers_step,
        logs_from_the_loss,
        tensor_rate,
        no_optimizer,
        hooks_and_counters,
        separation,
        pretraining,
        sharpness,
    )
}
#: Batches that step more than once.
MORE_STEPS = {made.__name__: made for made in (two_steps, closure)}
#: Recipes that honour ``grad_accumulation_factor``.
ACCUMULATING = [
    "speaker",
    "ctc",
    "ctc_of_version_05",
    "noam",
    "frozen_at_first",
    "hooks_and_counters",
    "pretraining",
]
