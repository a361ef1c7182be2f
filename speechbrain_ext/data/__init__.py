"""Audio files, manifests, and the order in which training sees them.

Nothing here imports torch: preparing a corpus starts in a fraction of a second.
"""

from speechbrain_ext.data.augment import Augment

__all__ = ["Augment"]
