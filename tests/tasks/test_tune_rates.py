"""What the search of a wave codec's settings refuses before any work."""

import pytest

from speechbrain_ext.errors import UserError
from speechbrain_ext.tasks.codec.tune import tune


@pytest.mark.parametrize("rates", [(0.0,), (-1.0, 8.0), (float("nan"),), ()])
def test_rates_that_no_file_can_have_are_refused_before_anything_is_read(rates):
    with pytest.raises(UserError, match="rates lie above 0"):
        tune(["nowhere"], kbps=rates)
