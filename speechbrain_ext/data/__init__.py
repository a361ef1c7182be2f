"""Audio files, manifests, and the order in which training sees them.

Nothing here imports torch, and NumPy only where it is used: preparing a corpus starts
in a fraction of a second. `speaker_loader` and `loader` do; they are not named here.
"""

__all__ = ["Augment"]


def __getattr__(name: str):
    """Import what YAML names only when it is asked for."""
    if name == "Augment":
        from speechbrain_ext.data.augment import Augment

        return Augment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
