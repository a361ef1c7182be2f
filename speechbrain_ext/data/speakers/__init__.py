"""A corpus of many voices as data for speaker verification.

`prepare_speakers` makes the data folder: audio, speakers on two sides that share
nobody, test segments, and the lists of trials.
"""

from speechbrain_ext.data.speakers.folder import SplitSettings
from speechbrain_ext.data.speakers.prepare import (
    SpeakerSettings,
    SpeakerSummary,
    prepare_speakers,
)
from speechbrain_ext.data.speakers.proof import find_leaks
from speechbrain_ext.data.speakers.split import Person, split_speakers, split_valid

__all__ = [
    "Person",
    "SpeakerSettings",
    "SpeakerSummary",
    "SplitSettings",
    "find_leaks",
    "prepare_speakers",
    "split_speakers",
    "split_valid",
]
