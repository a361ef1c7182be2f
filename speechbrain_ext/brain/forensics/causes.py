"""The closed list of causes of an incident, and what to do about each.

`CAUSES` is the whole list: key, meaning, how it is recognised, what to do. `recommend`
makes of a cause and the facts around it one text and one command to type. Advice is
given only where it fits: a broken file is mended or removed, no learning rate heals it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechbrain_ext.checkout import project_root
from speechbrain_ext.next_command import next_command

#: Names in ``hparams/presets``, and what each changes.
PRESETS: dict[str, str] = {
    "tight_clip": "clip gradients harder (max_grad_norm 1.0 instead of 5.0)",
    "low_lr": "halve the learning rate (0.0005 instead of 0.001)",
    "low_scale": "AAMSoftmax with scale 20 instead of 30, margin 0.1 instead of 0.2",
    "no_amp": "no mixed precision (precision fp32)",
    "ultrasafe": "all emergency settings at once",
}
_ANALYZE = "speechbrain-ext analyze-nan"
_REPLAY = "speechbrain-ext replay"
_TRAIN = "./run.sh --stage train"
#: What the source, layer or class of a margin softmax is called.
_MARGIN_LOSSES = ("aam", "additiveangular", "arcface", "margin")


@dataclass(frozen=True)
class Cause:
    """One cause that an incident may have.

    Attributes
    ----------
    key : str
        Its name everywhere: log, dump, JSON.
    meaning : str
        What happened, one sentence.
    recognised : str
        By which evidence it is told from the others.
    remedy : str
        What a person does about it.
    command : str
        What to type first; empty where a preset or the facts decide.
    presets : tuple of str
        Presets that help, the mildest first.
    """

    key: str
    meaning: str
    recognised: str
    remedy: str
    command: str = ""
    presets: tuple[str, ...] = ()


CAUSES: dict[str, Cause] = {
    cause.key: cause
    for cause in (
        Cause(
            "input non-finite",
            "The batch holds NaN or Inf before anything was computed.",
            "NaN or Inf in a row of the batch; without that row the batch is fine",
            "Check the audio file for corruption (decode it again, or remove it), then "
            "the audio loading, then augmentation: its noise and reverb files are "
            "audio too.",
            _ANALYZE,
        ),
        Cause(
            "input extreme",
            "An utterance is finite, but far louder than audio can be.",
            "a row is 100 times louder than the others of its batch, or beyond 1e5; "
            "without it the batch is fine",
            "Check the file and its format (16-bit numbers read as float?), the gains "
            "of augmentation, and add input normalization. Only if such levels are "
            "right: reduce the learning rate (--preset low_lr).",
            _ANALYZE,
        ),
        Cause(
            "input silent",
            "An utterance, or the whole batch, is digital silence.",
            "all samples of a row are zero; without it the batch is fine, or the whole "
            "batch is silent",
            "Remove silent files (prepare the data again with a level check), and look "
            "whether crops or augmentation make silence of good files.",
            _ANALYZE,
        ),
        Cause(
            "label out of range",
            "A label names a class that the model does not have.",
            "a label is outside of 0 .. number of classes - 1, or the loss says so",
            "Check that the number of classes matches the data set, and how the data "
            "pipeline indexes labels (from 0, the same table in train and valid).",
            _ANALYZE,
        ),
        Cause(
            "loss term",
            "The loss, or one term of it, is not finite though the model's output is.",
            "the first bad number is born in the loss, from finite operands",
            "The loss needs a floor under a log, root or quotient.",
            "",
            ("low_lr", "tight_clip", "ultrasafe"),
        ),
        Cause(
            "output of module",
            "A layer turned finite numbers into non-finite ones in the forward pass.",
            "the first bad number is born inside a module, from finite operands, with "
            "inputs in the usual range and finite weights",
            "Weights have grown too large, or the layer needs a floor under a log, "
            "root or quotient.",
            "",
            ("low_lr", "tight_clip", "ultrasafe"),
        ),
        Cause(
            "gradient of module",
            "The loss is finite, but a gradient is NaN or Inf.",
            "the first bad number is born in the backward pass",
            "A root, log or norm at zero has no finite gradient: give it a floor. If "
            "it comes with growing gradients instead, clip them harder.",
            "",
            ("tight_clip", "low_lr", "ultrasafe"),
        ),
        Cause(
            "norm overflow",
            "All gradients are finite, but too large for their norm to be.",
            "no gradient holds NaN or Inf, and their norm in float32 is Inf",
            "Stock clipping would make all these gradients 0. Look for a division by "
            "almost zero in the layer named here.",
            "",
            ("tight_clip", "low_lr", "ultrasafe"),
        ),
        Cause(
            "loss spike",
            "Loss and gradient are finite, but absurd against the last batches.",
            "the spike guard, with inputs in the usual range",
            "One spike does no harm; many mean that training is about to diverge.",
            "",
            ("tight_clip", "low_lr", "ultrasafe"),
        ),
        Cause(
            "parameter corrupted",
            "A weight was not finite before the batch came.",
            "NaN or Inf in a parameter of the state before the batch",
            "The batch is innocent. If the state was not rolled back, start the same "
            "command again: it resumes from the last verified checkpoint. If it comes "
            "back at random places, test the machine's memory; if always in the same "
            "layer, reduce the learning rate (--preset low_lr).",
            _TRAIN,
        ),
        Cause(
            "moment corrupted",
            "A moment of the optimizer was not finite before the batch came.",
            "NaN or Inf in the optimizer's state before the batch",
            "As for a corrupted parameter; left alone it would freeze or poison its "
            "weight for ever.",
            _TRAIN,
        ),
        Cause(
            "buffer corrupted",
            "A buffer (BatchNorm statistics, codebook) is not finite.",
            "NaN or Inf in a buffer of the state before the batch, or one that forward "
            "wrote from finite inputs",
            "Training may go on looking healthy while every evaluation is NaN. If the "
            "state was not rolled back, start the same command again: it resumes from "
            "the last verified checkpoint.",
            _TRAIN,
        ),
        Cause(
            "statistics corrupted",
            "Statistics in a plain attribute (InputNormalization) are not finite.",
            "as for a buffer, in a tensor that is no buffer",
            "As for a corrupted buffer.",
            _TRAIN,
        ),
        Cause(
            "mixed precision overflow",
            "Half precision can't hold a number that float32 holds.",
            "the same batch repeated in float32 is finite",
            "Disable mixed precision, or keep the layer named here in float32.",
            "",
            ("no_amp", "ultrasafe"),
        ),
        Cause(
            "exception",
            "The code raised an error on this batch.",
            "an exception out of forward, loss or backward",
            "Read the source line named here; an utterance that is too short, or a "
            "last batch of one, are the usual reasons.",
            _REPLAY,
        ),
        Cause(
            "not reproducible",
            "The same batch, state and random numbers gave no fault again.",
            "two clean repeats",
            "If the repeats agree bit for bit, suspect hardware (memory, GPU) or "
            "another process; if not, non-deterministic kernels. One such event is "
            "nothing to act on.",
            _REPLAY,
        ),
        Cause(
            "other rank",
            "The batch of another process was bad; all ranks left this step out.",
            "this rank's loss, gradients and buffers are finite",
            "Read the report of that rank.",
            _ANALYZE,
        ),
    )
}


@dataclass(frozen=True)
class Recommendation:
    """What to do, in words and as a command.

    Attributes
    ----------
    text : str
        One or two sentences.
    command : str
        To be typed as it is, from the folder of the corpus.
    preset : str
        The preset in the command, if there is one: to not propose it twice.
    """

    text: str
    command: str
    preset: str = ""

    def command_for(self, dump: Path | str | None) -> str:
        """Return the command with the dump it is about, if it is about one.

        Example
        -------
        >>> recommend("exception").command_for("debug_nan/nan_batch_3_epoch_1.pt")
        'speechbrain-ext replay debug_nan/nan_batch_3_epoch_1.pt'
        """
        if dump is not None and self.command in (_ANALYZE, _REPLAY):
            return f"{self.command} {dump}"
        if dump is not None:  # <experiment>/debug_nan/<dump>
            return next_command(self.command, Path(dump).parent.parent)
        return self.command


def existing_presets() -> list[str]:
    """Return the presets that this checkout has, the mildest first."""
    folder = project_root() / "hparams" / "presets"
    if not folder.is_dir():
        return list(PRESETS)
    return [name for name in PRESETS if (folder / f"{name}.yaml").exists()]


def recommend(
    cause: str,
    facts: Mapping[str, Any] | None = None,
    *,
    presets: Collection[str] | None = None,
    tried: Collection[str] = (),
) -> Recommendation:
    """Say what to do about a cause.

    Arguments
    ---------
    cause : str
        A key of `CAUSES`.
    facts : Mapping, optional
        Of a diagnosis: ``module``, ``operation``, ``source`` (text; a margin softmax
        in them changes the advice), ``precision``, ``utt_ids``, ``paths``.
    presets : Collection of str or None
        Presets that exist here; the advice names no other. None: those of
        ``hparams/presets``, or all where that folder is not installed.
    tried : Collection of str
        Presets that this run already has, or that did not help.

    Returns
    -------
    Recommendation
        If every preset that fits was tried, the command that replays the batch.

    Raises
    ------
    ValueError
        If ``cause`` is not in the list.

    Example
    -------
    >>> recommend("norm overflow").command
    './run.sh --stage train --preset tight_clip'
    >>> aam = {"module": "classifier (AAMSoftmax)"}
    >>> recommend("loss term", aam, presets=PRESETS).preset
    'low_scale'
    """
    if cause not in CAUSES:
        raise ValueError(
            f"recommend: no cause {cause!r}; the list is {', '.join(CAUSES)}"
        )
    facts = facts or {}
    presets = existing_presets() if presets is None else presets
    known = CAUSES[cause]
    text = known.remedy
    if not known.presets:
        files = list(facts.get("paths") or facts.get("utt_ids") or ())
        if files and cause.startswith("input"):
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            text = f"Look at {', '.join(map(str, files[:3]))}{more}. {text}"
        return Recommendation(text, known.command)
    ladder = _with_margin(known.presets, facts)
    if facts.get("precision") in ("fp16", "bf16") and "no_amp" not in ladder:
        ladder.insert(1, "no_amp")  # not first: the repeat in float32 failed as well
    if "low_scale" in ladder and "low_scale" not in presets:
        text += f" In the recipe: {PRESETS['low_scale']}."
    fitting = [name for name in ladder if name in presets and name not in tried]
    if not fitting:
        return Recommendation(f"{text} Every preset that fits was tried.", _REPLAY)
    preset = fitting[0]
    text += f" To go on at once: {PRESETS[preset]}"
    text += f"; then {', '.join(fitting[1:])}." if fitting[1:] else "."
    return Recommendation(text, f"{_TRAIN} --preset {preset}", preset)


def _with_margin(presets: tuple[str, ...], facts: Mapping[str, Any]) -> list[str]:
    """Put the milder margin softmax first, where a margin softmax is at fault."""
    places = " ".join(str(facts.get(key) or "") for key in ("module", "source"))
    at_fault = any(word in places.lower() for word in _MARGIN_LOSSES)
    return ["low_scale", *presets] if at_fault else list(presets)
