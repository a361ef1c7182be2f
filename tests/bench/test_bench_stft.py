"""The comparison with auraloss: same value, a ratio, and a clear word without it."""

import sys

import pytest
import torch

from speechbrain_ext.bench.stft import measure
from speechbrain_ext.errors import UserError


def test_both_losses_are_timed_on_the_same_value():
    pytest.importorskip("auraloss")
    threads = torch.get_num_threads()
    result = measure(2, shapes=((1, 1, 2000),))
    ours, theirs = result["subjects"].values()
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert result["comparisons"][0]["median"] > 0
    assert result["comparisons"][0]["goal"] == 1.8
    assert torch.get_num_threads() == threads


def test_losses_that_differ_are_not_compared(monkeypatch):
    auraloss = pytest.importorskip("auraloss")
    monkeypatch.setattr(
        auraloss.freq, "MultiResolutionSTFTLoss", auraloss.freq.STFTLoss
    )
    with pytest.raises(ArithmeticError, match="differ"):
        measure(1, shapes=((1, 1, 2000),))


def test_missing_auraloss_is_a_clear_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "auraloss", None)
    with pytest.raises(UserError, match="pip install auraloss"):
        measure(1)
