"""--init_from tells what it took, and refuses what would poison the run."""

import pytest
import torch
from torch import nn

from speechbrain_ext.errors import UserError
from speechbrain_ext.tasks.initialize import load_initial_weights


def model(width=3):
    return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1))


def saved(tmp_path, state, name="codec.ckpt"):
    path = tmp_path / "exp" / "save" / "CKPT+a" / name
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return tmp_path / "exp"


def test_all_that_fits_is_loaded_and_reported(tmp_path):
    source = model()
    target = model()
    report = load_initial_weights(
        target, str(saved(tmp_path, source.state_dict())), "codec"
    )
    assert "4 of 4 tensors loaded" in report
    assert torch.equal(target[0].weight, source[0].weight)


def test_missing_mismatched_and_unknown_tensors_are_named(tmp_path):
    state = model(5).state_dict()
    state["1.bias"] = torch.zeros(1)
    state["extra"] = torch.zeros(1)
    del state["0.bias"]
    report = load_initial_weights(model(), str(saved(tmp_path, state)), "codec")
    assert "not in the file, so newly initialised: 0.bias" in report
    assert "in the file but not in this model: extra" in report
    assert "of another shape, so newly initialised: 0.weight, 1.weight" in report


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"0.bias": torch.full((3,), torch.nan)}, "hold NaN or Inf, first 0.bias"),
        ({"other": torch.zeros(1)}, "nothing in .* fits"),
        ([1, 2], "no state_dict"),
    ],
)
def test_useless_weights_are_refused(tmp_path, state, message):
    target = model()
    before = target[0].bias.clone()
    with pytest.raises(UserError, match=message):
        load_initial_weights(target, str(saved(tmp_path, state)), "codec")
    assert torch.equal(target[0].bias, before)


def test_a_broken_or_missing_file_is_a_message(tmp_path):
    broken = tmp_path / "codec.ckpt"
    broken.write_bytes(b"no pickle")
    with pytest.raises(UserError, match="can't be read"):
        load_initial_weights(model(), str(broken), "codec")
    with pytest.raises(UserError, match="no weights there; looked for"):
        load_initial_weights(model(), str(tmp_path / "nothing"), "codec")
