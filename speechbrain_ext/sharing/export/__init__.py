"""A trained model leaves its experiment: a folder that needs nothing else."""

from speechbrain_ext.sharing.export.folder import export

__all__ = ["export"]
