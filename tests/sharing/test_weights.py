"""Weights come back bit for bit, in the same bytes each time, and never as a pickle."""

import pickle

import pytest
import torch

from speechbrain_ext.errors import UserError
from speechbrain_ext.sharing.weights import read_weights, write_weights


def test_tensors_come_back_and_the_file_does_not_depend_on_order(tmp_path):
    base = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    tensors = {
        "b": base.T,  # not contiguous
        "a": base,  # shares its memory
        "count": torch.tensor(3),
        "none": torch.empty(0, 4),
        "half": torch.tensor([float("nan"), 1.0], dtype=torch.bfloat16),
    }
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    write_weights(one, tensors, {"y": "1", "x": "2"})
    write_weights(other, dict(reversed(tensors.items())), {"x": "2", "y": "1"})
    assert one.read_bytes() == other.read_bytes()
    found = read_weights(one)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].nan_to_num(7), tensor.nan_to_num(7))


@pytest.mark.parametrize("data", [b"", b"\x80", pickle.dumps({"a": 1}), b"x" * 99])
def test_what_is_not_safetensors_is_refused_with_its_name(tmp_path, data):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors: not a whole"):
        read_weights(path)
    with pytest.raises(UserError, match="no such file"):
        read_weights(tmp_path / "gone.safetensors")
