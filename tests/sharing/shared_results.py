"""A speaker experiment with audio, trained and scored in seconds, to be shared."""

import numpy as np

from speechbrain_ext.data.audio import save_audio
from speechbrain_ext.data.manifest import Utterance, write_manifest
from speechbrain_ext.files import sha256_file
from speechbrain_ext.scoring.trials import Trials, write_trials
from speechbrain_ext.tasks.speaker.embed import embed_split
from speechbrain_ext.tasks.speaker.score import score
from speechbrain_ext.tasks.speaker.train import train
from tests.tasks.test_speaker_task import recipe
from tests.tasks.voices import RATE, corpus, voice

SECONDS = 0.6
SETTINGS = {"number_of_epochs": 1, "average_checkpoints": 1, "noprogressbar": True}


def split(folder, speakers=4, test=(4, 8), each=4):
    """Write the manifests and trials of a split: voices 4 to 7 are unseen."""
    corpus(folder, speakers=speakers, seconds=SECONDS)
    for role, people in (("cohort", range(speakers)), ("test", range(*test))):
        utterances = []
        for speaker in people:
            for number in range(each):
                path = folder / "wav" / f"{role}{speaker}.u{number}.wav"
                save_audio(path, voice(speaker, 50 + number, SECONDS), RATE)
                sha256 = sha256_file(path)
                utterances.append(
                    Utterance(path.stem, path, SECONDS, RATE, f"s{speaker}", sha256)
                )
        write_manifest(folder / f"{role}.json", utterances)
    ids = [u.utt_id for u in utterances]
    enroll, other = np.triu_indices(len(ids), k=1)
    labels = enroll // each == other // each
    trials = Trials(labels, enroll.astype(np.int32), other.astype(np.int32), ids)
    write_trials(folder / "trials" / "main.txt", trials)
    return folder


def trained(data, folder):
    """Train, embed and score; returns the experiment and its results."""
    train(recipe(data, folder, **SETTINGS))
    embed_split(folder, data, log=lambda _: None)
    return folder, score(folder, data, draws=20)
