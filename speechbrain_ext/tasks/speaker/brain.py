"""What a speaker encoder learns from a batch, and how its checkpoints are chosen."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from speechbrain import Stage
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.files import write_json
from speechbrain_ext.tasks.brain import TaskBrain
from speechbrain_ext.tasks.speaker.averaging import WeightAverage
from speechbrain_ext.tasks.speaker.validation import (
    PIECE_SECONDS,
    ValidScores,
    pieces_of,
)
from speechbrain_ext.tasks.speaker.weights import (
    averages,
    forget_average,
    save_average,
    valid_rank,
)


class SpeakerBrain(TaskBrain):
    """Learns to tell the speakers of the train files apart, and keeps the embeddings.

    Arguments
    ---------
    modules : dict
        ``encoder``: `SpeakerEncoder`; ``classifier``: `AAMSoftmax` with a class for
        each speaker and speed.
    hparams : dict
        Beside what `TaskBrain` reads: ``margin_ramp`` (`MarginRamp`), ``sample_rate``,
        ``average_checkpoints`` (epochs whose weights are averaged in the end; 0 or 1:
        none) and ``speakers`` (list of spk_id in the order of their classes).

    Validation embeds 3 s pieces of each utterance: cross-entropy without margin,
    accuracy over utterances, and the equal error rate of all pairs of pieces. The best
    checkpoint has the lowest equal error rate, and of equal ones the lowest loss; what
    is not finite is the worst there is, also of a single utterance (`valid_rank`).
    """

    shown_terms = ("loss", "accuracy")

    def __init__(self, modules, opt_class, hparams, run_opts=None, checkpointer=None):
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        self.average = None
        self._told_missing_eer = False
        if hparams["average_checkpoints"] > 1:
            last = hparams["epoch_counter"].limit
            first = last - hparams["average_checkpoints"] + 1
            self.average = WeightAverage(self.encoder, first)
            self.checkpointer.add_recoverable(
                "average", self.average, optional_load=True
            )

    @property
    def encoder(self) -> torch.nn.Module:
        """The encoder itself, also where DDP is around it."""
        return getattr(self.modules.encoder, "module", self.modules.encoder)

    @property
    def classifier(self) -> torch.nn.Module:
        """The classifier itself, also where DDP is around it."""
        return getattr(self.modules.classifier, "module", self.modules.classifier)

    def model(self):
        """Return the stock encoder."""
        return self.encoder.encoder

    # -- one batch ---------------------------------------------------------------

    def compute_forward(self, batch, stage):
        """Return embeddings, [batch, dim]; of the pieces of one utterance in VALID."""
        batch = batch.to(self.device)
        if stage == Stage.TRAIN:
            return self.modules.encoder(batch.wav.data)
        samples = round(PIECE_SECONDS * self.hparams.sample_rate)
        return self.encoder(pieces_of(batch.wav.data[0], samples))

    def compute_objectives(self, predictions, batch, stage):
        """Return the margin loss, or the cross-entropy without margin (VALID)."""
        labels = batch.spk.data.to(self.device)
        if stage != Stage.TRAIN:
            _, logits = self.classifier(predictions, labels.expand(len(predictions)))
            label = int(labels)
            loss = self.valid_scores.add(batch.id[0], label, predictions, logits)
            return torch.tensor(loss)
        loss, logits = self.modules.classifier(predictions, labels, batch.id)
        hits = (logits.detach().argmax(dim=1) == labels).float().mean()
        self.remember({"loss": loss, "accuracy": hits})
        return loss

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Count a step that was taken; the margin of the next one follows."""
        super().on_fit_batch_end(batch, outputs, loss, should_step)
        if should_step:
            self.hparams.margin_ramp.advance()
            self.hparams.margin_ramp.apply(self.classifier)

    # -- a run -------------------------------------------------------------------

    def write_beside(self, folder: Path) -> None:
        """Write ``speakers.json``: which class is who."""
        write_json(
            folder / "speakers.json",
            {
                "speakers": list(self.hparams.speakers),
                "num_classes": self.classifier.num_classes,
            },
        )

    def fit(self, epoch_counter, train_set, valid_set=None, **kwargs):
        """Train as `TaskBrain.fit` does; the margin's ramp is as long as the run."""
        steps = len(train_set) // self.grad_accumulation_factor
        self.hparams.margin_ramp.total_steps = steps * epoch_counter.limit
        super().fit(epoch_counter, train_set, valid_set, **kwargs)

    def on_fit_start(self):
        """Prepare as `TaskBrain` does; go on with the margin of the step to come.

        It is set between batches and not within one: a dump holds the state before its
        batch, and ``replay`` takes the margin from there.
        """
        super().on_fit_start()
        self.hparams.margin_ramp.apply(self.classifier)
        epochs = self.hparams.epoch_counter
        if epochs.current < epochs.limit and if_main_process():
            forget_average(Path(self.hparams.save_folder))

    def finish(self, valid_set, train_set) -> None:
        """Make the checkpoint of the averaged weights, unless it is there."""
        folder = Path(self.hparams.save_folder)
        if self.average is None or not self.average.epochs or averages(folder):
            return
        self.average.apply()
        self.modules.eval()
        with self._evaluation, torch.no_grad():
            self.on_stage_start(Stage.VALID)
            for batch in valid_set:
                self.evaluate_batch(batch, Stage.VALID)
            stats = self._valid_stats()
        epochs = self.average.epochs
        self.train_stats = {}
        # A text: what reads the log takes no line of it for an epoch.
        self.log_epoch(f"average of {epochs[0]} to {epochs[-1]}", stats)
        save_average(folder, self.encoder, {**stats, "epochs": epochs})

    def progress_items(self):
        """Add the margin to what the bar shows."""
        shown = super().progress_items()
        if not shown:
            return shown
        return {**shown, "margin": f"{self.classifier.margin:.2f}"}

    # -- an epoch ----------------------------------------------------------------

    def log_items(self):
        """Learning rate of the last step, and the margin of the next one."""
        return {**super().log_items(), "margin": self.classifier.margin}

    def on_stage_start(self, stage, epoch=None):
        """Start the sums of an epoch."""
        if stage == Stage.TRAIN:
            self.start_sums(epoch)
        else:
            self.valid_scores = ValidScores()

    def _valid_stats(self) -> dict[str, float]:
        # The guard names what is not finite, and puts it back: it has the count too.
        left_out = len(self._evaluation.left_out)
        return self.valid_scores.stats(self.hparams.seed) | {"nonfinite": left_out}

    def _tell_missing_eer(self) -> None:
        """Say once by what checkpoints are chosen where there is no error rate."""
        why = self.valid_scores.why_no_eer()
        if why and not self._told_missing_eer and if_main_process():
            self._told_missing_eer = True
            print(
                f"note: valid EER is not measured: {why}; the checkpoint is chosen by "
                "valid loss",
                file=sys.stderr,
            )

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log the epoch; after validation, keep the best checkpoint."""
        if stage == Stage.TRAIN:
            if self.average is not None:
                self.average.add(epoch)
            self.end_sums(epoch)
        if stage == Stage.VALID:
            stats = self._valid_stats()
            self.log_epoch(epoch, stats)
            self._tell_missing_eer()
            meta = {key: stats[key] for key in ("eer", "loss", "nonfinite")}
            # The guarded checkpointer verifies the state.
            self.checkpointer.save_and_keep_only(
                meta={**meta, "epoch": epoch}, importance_keys=[valid_rank]
            )
