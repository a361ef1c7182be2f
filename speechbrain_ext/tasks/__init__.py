"""The two tasks: what is computed for a batch, and how a run goes."""

from speechbrain_ext.tasks.codec import CodecBrain

__all__ = ["CodecBrain"]
