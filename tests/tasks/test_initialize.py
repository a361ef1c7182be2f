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


def test_averaged_weights_of_an_experiment_come_first(tmp_path):
    for place, value in (("save/averaged/CKPT+1", 1.0), ("save/CKPT+2", 2.0)):
        (tmp_path / place).mkdir(parents=True)
        state = {"0.bias": torch.full((3,), value)}
        torch.save(state, tmp_path / place / "encoder.ckpt")
    for source in (tmp_path, tmp_path / "save"):
        target = model()
        load_initial_weights(target, str(source), "encoder")
        assert target[0].bias[0] == 1.0


def published(tmp_path, channels):
    """A folder as SpeechBrain publishes its ECAPA; the classifier is not wanted."""
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier

    ecapa = ECAPA_TDNN(24, channels=channels, lin_neurons=12)
    torch.save(ecapa.state_dict(), tmp_path / "embedding_model.ckpt")
    classifier = Classifier(input_size=12, lin_neurons=12, out_neurons=9)
    torch.save(classifier.state_dict(), tmp_path / "classifier.ckpt")
    return ecapa


def encoder_of(channels):
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    from speechbrain_ext.models import SpeakerEncoder

    ecapa = ECAPA_TDNN(24, channels=channels, lin_neurons=12)
    return SpeakerEncoder(Fbank(n_mels=24), ecapa, embedding_dim=12)


@pytest.mark.parametrize("named", ["folder", "file"])
def test_the_published_ecapa_of_speechbrain_gives_its_embeddings(tmp_path, named):
    source = published(tmp_path, [16, 16, 16, 16, 24]).eval()
    target = encoder_of([16, 16, 16, 16, 24]).eval()
    assert "blocks.0.conv.conv.weight" in source.state_dict()
    path = tmp_path if named == "folder" else tmp_path / "embedding_model.ckpt"
    report = load_initial_weights(target, str(path), "encoder")
    count = len(source.state_dict())
    assert f"{count} of {count} tensors loaded" in report
    assert "(100%)" in report
    wav = torch.randn(2, 8000)
    with torch.no_grad():
        expected = source(target.compute_features(wav)).squeeze(1)
        assert torch.equal(target(wav), expected)


def test_a_published_ecapa_of_other_channels_tells_what_fits(tmp_path):
    published(tmp_path, [16, 16, 16, 16, 48])
    report = load_initial_weights(
        encoder_of([16, 16, 16, 16, 24]), str(tmp_path), "encoder"
    )
    assert "of another shape, so newly initialised: encoder.mfa.conv.conv" in report
    assert "(100%)" not in report
    assert "0 of" not in report.split(" tensors loaded")[0].split(": ")[1][:4]
