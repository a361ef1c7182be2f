"""The neural codec task."""

from speechbrain_ext.tasks.codec.brain import CodecBrain

__all__ = ["CodecBrain"]
