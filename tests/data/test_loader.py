"""A file that disappears after preparation is named, also by a loader process."""

from pathlib import Path

import pytest

from speechbrain_ext.data.loader import crop_loader, read_samples
from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.errors import UserError

GONE = Utterance("utt1", Path("gone.wav"), 1.0, 16000, None, "")


def test_a_file_that_is_gone_is_named_with_the_next_command():
    with pytest.raises(UserError, match=r"utt1: gone.wav .*--stage prepare"):
        read_samples(GONE)


def test_a_loader_process_tells_it_without_its_traceback():
    loader = crop_loader(
        {"utt1": GONE},
        crop_samples=8000,
        crops_per_epoch=2,
        batch_size=2,
        seed=1,
        num_workers=1,
    )
    with pytest.raises(UserError, match="^utt1: gone.wav can't be read") as caught:
        next(iter(loader))
    assert "Traceback" not in str(caught.value)
