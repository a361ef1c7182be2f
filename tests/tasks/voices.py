"""Synthetic voices for tests: a pitch and formants of its own for each speaker."""

import numpy as np

from speechbrain_ext.data.audio import save_audio
from speechbrain_ext.data.manifest import Utterance, write_manifest
from speechbrain_ext.files import sha256_file

RATE = 16000


def voice(speaker, utterance, seconds=1.5):
    """Harmonics of a wandering pitch under the speaker's formants, float32 [time]."""
    who = np.random.default_rng(1000 + speaker)
    pitch, formants = 85 * 1.2**speaker, who.uniform(300, 3500, size=4)
    what = np.random.default_rng([speaker, utterance])
    time = np.arange(int(seconds * RATE)) / RATE
    slow = what.uniform(0.9, 1.1) * pitch * (1 + 0.05 * np.sin(6 * time))
    phase = 2 * np.pi * np.cumsum(slow) / RATE
    wav = np.zeros(len(time))
    for k in range(1, 24):
        gain = np.exp(-(((k * pitch - formants) / 150) ** 2)).sum() + 0.05
        wav += gain * np.sin(k * phase + what.uniform(0, 6))
    syllables = np.clip(np.sin(2 * np.pi * what.uniform(2, 4) * time), 0, 1)
    wav = 0.05 * wav * syllables + 1e-3 * what.standard_normal(len(time))
    return wav.astype(np.float32)


def corpus(folder, speakers=4, train=3, valid=2, seconds=1.5):
    """Write wav files and ``{train,valid}.json`` of these voices into a folder."""
    first = 0
    for role, count in (("train", train), ("valid", valid)):
        utterances = []
        for speaker in range(speakers):
            for number in range(first, first + count):
                path = folder / "wav" / f"s{speaker}.u{number}.wav"
                save_audio(path, voice(speaker, number, seconds), RATE)
                utterances.append(
                    Utterance(
                        path.stem,
                        path,
                        seconds,
                        RATE,
                        f"s{speaker}",
                        sha256_file(path),
                    )
                )
        write_manifest(folder / f"{role}.json", utterances)
        first += count
    return folder
