"""Discriminators on spectra: EnCodec's own as reference, shapes, precision."""

import pytest
import torch
from torch import nn

from speechbrain_ext.models import MultiScaleSTFTDiscriminator, STFTDiscriminator


def plain_weight(layer):
    return layer.weight.detach()  # without its parametrization


@pytest.mark.parametrize("norm", ["weight", "none"])
def test_it_computes_what_encodecs_discriminator_computes(norm):
    msstftd = pytest.importorskip("encodec.msstftd")
    torch.manual_seed(0)
    ours = MultiScaleSTFTDiscriminator([256, 128], [64, 32], channels=4, norm=norm)
    theirs = msstftd.MultiScaleSTFTDiscriminator(
        filters=4, n_ffts=[256, 128], hop_lengths=[64, 32], win_lengths=[256, 128],
        norm="none",
    )  # fmt: skip
    for mine, other in zip(ours.discriminators, theirs.discriminators, strict=True):
        theirs_layers = [conv.conv for conv in [*other.convs, other.conv_post]]
        for a, b in zip([*mine.layers, mine.judge], theirs_layers, strict=True):
            b.weight.data.copy_(plain_weight(a))
            b.bias.data.copy_(a.bias.detach())
    wav = 0.1 * torch.randn(2, 1000)
    heard = ours(wav)
    logits, features = theirs(wav[:, None])
    for a, b in zip(heard.logits, logits, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    for mine, others in zip(heard.features, features, strict=True):
        for a, b in zip(mine, others, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_the_papers_sizes():
    """Five windows, 32 channels: 94,337 numbers each, without normalization."""
    parameters = list(MultiScaleSTFTDiscriminator(norm="none").parameters())
    scale = (2 * 32 + 3 * 32 * 32) * 27 + 32 * 32 * 9 + 32 * 9 + 5 * 32 + 1
    assert sum(p.numel() for p in parameters) == 5 * scale


def test_noise_has_one_level_on_all_scales():
    wav = torch.randn(1, 20000)
    powers = [
        STFTDiscriminator(win, win // 4, 1).spectrogram(wav).square().mean()
        for win in (64, 512, 2048)
    ]
    assert torch.stack(powers).allclose(torch.tensor(0.5), rtol=0.1)  # two parts


@pytest.mark.parametrize("norm", ["weight", "spectral", "none"])
def test_the_spectrogram_is_float32_inside_autocast(norm):
    discriminator = STFTDiscriminator(64, 16, 2, norm=norm)
    wav = torch.randn(2, 300, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = discriminator.spectrogram(wav)
        logits, features = discriminator(wav)
    assert half.dtype == torch.float32
    assert torch.equal(half, discriminator.spectrogram(wav))
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
    assert torch.isfinite(wav.grad).all()
    assert discriminator(wav)[0].dtype == torch.float32


def test_silence_and_a_nan_in_one_item():
    discriminator = MultiScaleSTFTDiscriminator([64, 32], channels=2).eval()
    wav = torch.zeros(3, 200, requires_grad=True)
    heard = discriminator(wav)
    sum(x.sum() for x in heard.logits).backward()
    assert torch.isfinite(wav.grad).all()
    spoiled = torch.randn(3, 200)
    spoiled[1, 50] = torch.nan
    for logits in discriminator(spoiled).logits:
        bad = torch.isnan(logits).flatten(1).any(1)
        assert bad.tolist() == [False, True, False]


def test_a_window_is_the_shortest_signal():
    discriminator = MultiScaleSTFTDiscriminator([64, 32], channels=2)
    assert discriminator(torch.zeros(1, 64)).logits[0].shape[2] == 1
    with pytest.raises(ValueError, match="time >= 64"):
        discriminator(torch.zeros(1, 63))
    with pytest.raises(ValueError, match="longer crops"):
        discriminator(torch.zeros(1, 1, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"win_lengths": []}, "at least one"),
        ({"win_lengths": [64], "hop_lengths": [16, 8]}, "same number"),
        ({"win_lengths": [1]}, "win_samples"),
        ({"win_lengths": [64], "hop_lengths": [0]}, "hop_samples"),
        ({"channels": 0}, "channels"),
        ({"dilations": [0]}, "dilations"),
        ({"norm": "batch"}, "weight, spectral, none"),
    ],
)
def test_sizes_out_of_range_are_a_message(options, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleSTFTDiscriminator(**options)


def test_only_its_parameters_and_power_iterations_are_saved():
    weight = MultiScaleSTFTDiscriminator([64], channels=2).state_dict()
    assert not [name for name in weight if "window" in name]
    spectral = MultiScaleSTFTDiscriminator([64], channels=2, norm="spectral")
    assert any(name.endswith("._u") for name in spectral.state_dict())
    before = {k: v.clone() for k, v in spectral.state_dict().items()}
    spectral(torch.randn(1, 64))
    moved = [k for k, v in spectral.state_dict().items() if not v.equal(before[k])]
    assert moved  # forward itself moves them
    assert all(name.endswith(("._u", "._v")) for name in moved)
    assert isinstance(spectral.discriminators[0].judge, nn.Conv2d)
