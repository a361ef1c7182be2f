"""Vector quantization for codecs."""

from speechbrain_ext.quantization.adaptive import AdaptiveResidualVectorQuantizer
from speechbrain_ext.quantization.result import RVQResult
from speechbrain_ext.quantization.rvq import ResidualVectorQuantizer

__all__ = [
    "AdaptiveResidualVectorQuantizer",
    "RVQResult",
    "ResidualVectorQuantizer",
]
