"""Trained models, loaded in a line: from an export, an experiment, or the Hub."""

from speechbrain_ext.inference.codec import SpeechCodec
from speechbrain_ext.inference.speaker import SpeakerVerifier, Verification

__all__ = ["SpeakerVerifier", "SpeechCodec", "Verification"]
