"""The two tasks: what is computed for a batch, and how a run goes.

Commands lie here, too, and their help shall not wait for torch: what imports it is
imported when it is asked for.
"""

__all__ = ["CodecBrain", "SpeakerBrain"]


def __getattr__(name: str):
    """Import a task's Brain only when it is asked for."""
    if name == "CodecBrain":
        from speechbrain_ext.tasks.codec.brain import CodecBrain

        return CodecBrain
    if name == "SpeakerBrain":
        from speechbrain_ext.tasks.speaker.brain import SpeakerBrain

        return SpeakerBrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
