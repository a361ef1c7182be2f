"""A CSV of SpeechBrain's old format may name a pickle; it is not opened."""

import pickle

import pytest

from speechbrain_ext.config import load_recipe
from speechbrain_ext.config.pickles import NAME
from speechbrain_ext.errors import UserError

RECIPE = """\
data: !new:speechbrain.dataio.legacy.ExtendedCSVDataset
  csvpath: noise.csv
  output_keys: [wav]
"""


class Evil:
    def __reduce__(self):
        return (open, ("canary", "w"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise.pkl").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "noise.csv").write_text(
        "ID, duration, wav, wav_format, wav_opts\na, 1.0, noise.pkl, pkl,\n"
    )
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_a_pickle_that_a_csv_names_is_not_opened(here):
    data = load_recipe("recipe.yaml").hparams["data"]
    with pytest.raises(UserError, match=rf"(?s)noise\.pkl: .* --allow {NAME}"):
        data[0]
    assert not (here / "canary").exists()


def test_a_person_may_allow_it(here):
    data = load_recipe("recipe.yaml", allow=[NAME]).hparams["data"]
    with pytest.raises(
        (AttributeError, TypeError, ValueError)
    ):  # it was read, and is no tensor
        data[0]
    assert (here / "canary").exists()
    load_recipe("recipe.yaml")  # and the next recipe is guarded again
    with pytest.raises(UserError):
        data[0]
