"""Vector quantization for codecs."""

from speechbrain_ext.quantization.rvq import ResidualVectorQuantizer, RVQResult

__all__ = ["RVQResult", "ResidualVectorQuantizer"]
