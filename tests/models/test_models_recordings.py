"""What no codec takes for a recording."""

import numpy as np
import pytest

from speechbrain_ext.models.recordings import checked_channels


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.ones(100, np.int16), "got int16; divide by its full scale"),
        (np.ones((1000, 2)), r"got \[1000, 2\]; transpose it"),
        (np.zeros(0), "must be finite"),
        ([0.0, np.nan], "must be finite"),
    ],
)
def test_what_is_no_recording_is_refused_with_the_way_out(wave, message):
    with pytest.raises(ValueError, match=f"^Codec: wave .*{message}"):
        checked_channels(wave, "Codec")


def test_channels_come_first_and_keep_their_samples():
    wave = np.arange(6.0).reshape(2, 3) / 10
    assert (checked_channels(wave, "Codec") == wave).all()
    assert checked_channels(wave[0], "Codec").shape == (1, 3)
