"""Bundles: a recipe, and if asked its result, as one file that others can check.

Importing this imports no torch; what needs it is imported by the functions.
"""

from speechbrain_ext.sharing.bundle.packing import Packed, pack
from speechbrain_ext.sharing.bundle.unpacking import unpack
from speechbrain_ext.sharing.bundle.verification import Verified, verify

__all__ = ["Packed", "Verified", "pack", "unpack", "verify"]
