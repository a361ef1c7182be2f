"""What all tests need."""

import sys

from speechbrain.utils.importutils import LazyModule

_stock_getattr = LazyModule.__getattr__


def _getattr(self, attribute):
    """Answer "no such attribute" for a lazy module whose package is not installed.

    Hypothesis and pytest-xdist walk over sys.modules and ask each for attributes;
    stock SpeechBrain answers with ImportError (k2 is missing), which ends the session.
    It does know the module inspect, by the frame that asks; here that is one further.
    """
    if sys._getframe(1).f_code.co_filename.endswith("inspect.py"):
        raise AttributeError(attribute)
    try:
        return _stock_getattr(self, attribute)
    except ImportError as error:
        raise AttributeError(attribute) from error


LazyModule.__getattr__ = _getattr

#: Scripts that torchrun starts, not tests.
collect_ignore_glob = ["brain/ranks/*.py"]
