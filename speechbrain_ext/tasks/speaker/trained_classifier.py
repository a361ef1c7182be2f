"""The classifier that a speaker encoder was trained with, from its experiment."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from speechbrain_ext.brain.checkpoints.checkpoint import VerifiedCheckpointer
from speechbrain_ext.errors import UserError
from speechbrain_ext.tasks.speaker.train import classifier_for, speakers_of
from speechbrain_ext.tasks.speaker.weights import AVERAGED


def load_classifier(
    experiment: str | os.PathLike, info: dict
) -> tuple[torch.nn.Module, list[str]]:
    """Load the classifier that belongs to the encoder of an experiment.

    It lies in the encoder's checkpoint. Averaged weights are of the encoder alone; the
    classifier beside them is then that of the last epoch, as at the end of training.

    Arguments
    ---------
    experiment : str or PathLike
        Folder that training wrote.
    info : dict
        What `load_encoder` returned second.

    Returns
    -------
    torch.nn.Module
        `AAMSoftmax`, in evaluation mode.
    list of str
        Speakers in the order of their classes. Classes beyond them are the same
        speakers at other speeds.

    Raises
    ------
    UserError
        If the experiment lacks ``speakers.json`` or the classifier's weights.
    """
    folder = Path(experiment)
    hparams = info["recipe"].hparams
    if not (folder / "speakers.json").exists() or "classifier" not in hparams:
        raise UserError(f"{folder} does not say who its classes are (speakers.json)")
    speakers, num_classes = speakers_of(hparams)
    classifier = classifier_for(hparams, num_classes)
    checkpoint = Path(info["checkpoint"])
    averaged = checkpoint.parent.name == AVERAGED
    checkpointer = VerifiedCheckpointer(
        hparams["save_folder"], {"classifier": classifier}
    )

    def belongs(found) -> bool:
        if "classifier" not in found.paramfiles:
            return False
        if averaged:  # of the last epoch, not of a moment within one
            return "eer" in found.meta
        return found.path.name == checkpoint.name

    try:
        found = checkpointer.recover_if_possible(ckpt_predicate=belongs)
    except (RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"the classifier in {folder} does not fit: {first}") from error
    if found is None:
        raise UserError(f"no checkpoint in {folder} holds the encoder's classifier")
    return classifier.eval(), speakers
