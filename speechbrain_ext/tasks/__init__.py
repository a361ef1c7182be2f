"""The two tasks: what is computed for a batch, and how a run goes."""

from speechbrain_ext.tasks.codec import CodecBrain
from speechbrain_ext.tasks.speaker import SpeakerBrain

__all__ = ["CodecBrain", "SpeakerBrain"]
