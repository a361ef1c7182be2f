"""The spectral losses: equal to auraloss, finite on silence, float32 in autocast."""

import math

import pytest
import torch

from speechbrain_ext.losses import (
    MultiResolutionMelLoss,
    MultiResolutionSTFTLoss,
    log_magnitude,
)
from speechbrain_ext.losses.framing import Resolution, pad_mirrored, unpad_mirrored

LOSSES = [MultiResolutionSTFTLoss, MultiResolutionMelLoss]
SMALL = {"fft_sizes": (32, 15), "hop_sizes": (7, 4), "win_lengths": (20, 15)}


def speech_like(*shape, seed=0, dtype=torch.float32):
    """Two waveforms of decaying harmonics in noise, one a disturbed copy."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(shape[-1], dtype=torch.float64) / 16000
    voice = sum((2 * math.pi * 120 * n * time).sin() / n for n in range(1, 20))
    target = 0.1 * voice * (1 + (2 * math.pi * 3 * time).sin())
    noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    target = target + 0.003 * noise[0]
    return (target + 0.01 * noise[1]).to(dtype), target.to(dtype)


def gradient(loss, prediction, target):
    prediction = prediction.detach().clone().requires_grad_()
    value = loss(prediction, target)
    value.backward()
    return value.detach(), prediction.grad


@pytest.mark.parametrize("shape", [(2, 1, 16000), (3, 2, 4001), (1, 1, 1025)])
def test_value_equals_auraloss_with_its_defaults(shape):
    auraloss = pytest.importorskip("auraloss")
    prediction, target = speech_like(*shape)
    ours = MultiResolutionSTFTLoss()(prediction, target)
    theirs = auraloss.freq.MultiResolutionSTFTLoss()(prediction, target)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("sizes", "weights", "floor"),
    [
        (((512,), (128,), (512,)), (1.0, 1.0, 0.0), 1e-4),
        (((256, 300), (100, 7), (201, 300)), (0.0, 1.0, 0.0), 1e-3),
        (((1024, 64), (256, 64), (800, 33)), (1.0, 0.0, 2.0), 1e-2),
        (((255, 64), (50, 70), (200, 64)), (0.5, 3.0, 1.0), 1e-6),
    ],
)
def test_value_and_gradient_equal_auraloss_over_its_parameters(sizes, weights, floor):
    auraloss = pytest.importorskip("auraloss")
    prediction, target = speech_like(2, 1, 2003, dtype=torch.float64)
    theirs = auraloss.freq.MultiResolutionSTFTLoss(
        *sizes,
        w_sc=weights[0],
        w_log_mag=weights[1],
        w_lin_mag=weights[2],
        eps=floor**2,
    )
    for one in theirs.stft_losses:
        one.window = one.window.double()
    ours = MultiResolutionSTFTLoss(
        *sizes,
        convergence_weight=weights[0],
        log_weight=weights[1],
        linear_weight=weights[2],
        floor=floor,
    )
    value, grad = gradient(ours, prediction, target)
    reference, reference_grad = gradient(theirs, prediction, target)
    assert value.item() == pytest.approx(reference.item(), rel=1e-10)
    assert (grad - reference_grad).norm() <= 1e-9 * reference_grad.norm()


@pytest.mark.parametrize("seed", range(4))
def test_float32_gradient_is_as_close_to_float64_as_auraloss_is(seed):
    auraloss = pytest.importorskip("auraloss")
    prediction, target = speech_like(2, 1, 8000, seed=seed)
    loss = MultiResolutionSTFTLoss()
    exact = gradient(loss, prediction.double(), target.double())[1]
    ours = gradient(loss, prediction, target)[1] - exact
    theirs = gradient(auraloss.freq.MultiResolutionSTFTLoss(), prediction, target)[1]
    assert ours.norm() <= 2 * (theirs - exact).norm()


def test_bins_on_the_floor_have_no_gradient():
    # One frame of silence next to speech: its bins lie exactly on the floor.
    loss = MultiResolutionSTFTLoss((64,), (64,), (64,), convergence_weight=0)
    prediction, target = speech_like(1, 4096)
    prediction[:, 1000:2000] = 0
    grad = gradient(loss, prediction, target)[1]
    assert grad[:, :900].any()
    assert not grad[:, 1100:1900].any()


def test_gradient_passes_gradcheck():
    prediction, target = speech_like(2, 61, dtype=torch.float64)
    loss = MultiResolutionSTFTLoss(**SMALL, linear_weight=0.5)
    assert torch.autograd.gradcheck(loss, (prediction.requires_grad_(), target))


def test_mel_gradient_passes_gradcheck():
    prediction, target = speech_like(2, 90, dtype=torch.float64)
    loss = MultiResolutionMelLoss(16000, (32, 64), (3, 5))
    assert torch.autograd.gradcheck(loss, (prediction.requires_grad_(), target))


def test_mel_value_equals_torchaudio_features():
    torchaudio = pytest.importorskip("torchaudio")
    prediction, target = speech_like(2, 4000)
    terms = []
    for n_fft, mels in ((256, 20), (512, 40), (1024, 80)):
        features = torchaudio.transforms.MelSpectrogram(
            16000, n_fft, hop_length=n_fft // 4, n_mels=mels, mel_scale="htk"
        )
        logs = [features(wav).clamp(min=1e-4).log() for wav in (prediction, target)]
        terms.append((logs[0] - logs[1]).abs().mean())
    expected = sum(terms) / 3
    assert MultiResolutionMelLoss()(prediction, target).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


@pytest.mark.parametrize(("n_fft", "hop", "win"), [(32, 7, 20), (15, 4, 15), (9, 9, 2)])
@pytest.mark.parametrize("samples", [33, 64])
def test_power_equals_torch_stft(n_fft, hop, win, samples):
    wav = speech_like(2, samples, dtype=torch.float64)[0]
    grid = Resolution(n_fft, hop, win)
    window = torch.hann_window(win, dtype=torch.float64)
    padded = pad_mirrored(wav, grid.before, grid.after(samples))
    expected = torch.stft(
        wav, n_fft, hop, win, window, pad_mode="reflect", return_complex=True
    )
    ours = grid.spectrum(padded, samples, window).abs()
    torch.testing.assert_close(ours, expected.abs().transpose(1, 2))


def test_unpadding_is_the_adjoint_of_padding():
    wav = torch.randn(3, 20, dtype=torch.float64)
    other = torch.randn(3, 20 + 5 + 19, dtype=torch.float64)
    left = (pad_mirrored(wav, 5, 19) * other).sum()
    right = (wav * unpad_mirrored(other, 5, 19)).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-12)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-6, 1.0])
@pytest.mark.parametrize("other", [0.0, 1.0])
def test_value_and_gradient_are_finite_at_any_level(kind, level, other):
    prediction, target = speech_like(2, 2000)
    value, grad = gradient(kind(), level * prediction, other * target)
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_identical_waveforms_have_no_loss_and_no_gradient(kind):
    wav = speech_like(2, 2000)[0]
    value, grad = gradient(kind(), wav, wav)
    assert value == 0
    assert not grad.any()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("place", [0, 1000, 1999])
def test_one_bad_sample_makes_the_loss_non_finite(kind, bad, where, place):
    pair = speech_like(2, 2000)
    pair[where][1, place] = bad
    value, grad = gradient(kind(), *pair)
    assert not torch.isfinite(value)
    assert where == 1 or not torch.isfinite(grad).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_autocast_changes_nothing(kind):
    prediction, target = speech_like(2, 2000)
    expected = gradient(kind(), prediction, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grad = gradient(kind(), prediction, target)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected[0])
    assert torch.equal(grad, expected[1])


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_waveforms_are_compared_in_float32(kind, dtype):
    prediction, target = speech_like(2, 2000, dtype=dtype)
    value, grad = gradient(kind(), prediction, target)
    assert value == kind()(prediction.float(), target.float())
    assert grad.dtype == dtype


@pytest.mark.parametrize("kind", LOSSES)
def test_constants_stay_float32_and_out_of_checkpoints(kind):
    prediction, target = speech_like(2, 2000)
    loss = kind()
    expected = loss(prediction, target)
    assert loss.half().double()(prediction, target) == expected
    assert not loss.state_dict()
    assert {buffer.dtype for buffer in loss.buffers()} == {torch.float32}


@pytest.mark.parametrize("kind", LOSSES)
def test_channels_are_compared_like_more_rows(kind):
    prediction, target = speech_like(2, 3, 2000)
    flat = kind()(prediction.flatten(0, 1), target.flatten(0, 1))
    assert kind()(prediction, target) == flat


def test_no_gradient_reaches_the_target():
    prediction, target = speech_like(2, 2000)
    target.requires_grad_()
    MultiResolutionSTFTLoss()(prediction.requires_grad_(), target).backward()
    assert target.grad is None


def test_silent_target_is_worth_what_silence_says():
    noise = speech_like(1, 4000)[0]
    loud, quiet = (
        MultiResolutionSTFTLoss(log_weight=0, silence=level)(
            noise, torch.zeros_like(noise)
        )
        for level in (1e-3, 1e-2)
    )
    assert (loud / quiet).item() == pytest.approx(10, rel=1e-4)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 4000), (2, 4001)), "shapes differ"),
        (((4000,), (4000,)), r"\[batch, time\]"),
        (((0, 4000), (0, 4000)), "nothing to compare"),
        (((2, 1), (2, 1)), "too few"),
        (((2, 512), (2, 512)), "too few"),
    ],
)
def test_wrong_shapes_are_named(kind, shapes, message):
    with pytest.raises(ValueError, match=message):
        kind()(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("kind", LOSSES)
def test_the_shortest_allowed_signal_works(kind):
    with pytest.raises(ValueError, match="at least") as caught:
        kind()(torch.zeros(1, 100), torch.zeros(1, 100))
    shortest = int(str(caught.value).split("at least ")[1].split()[0])
    assert kind()(*speech_like(1, shortest)) > 0
    with pytest.raises(ValueError, match="at least"):
        kind()(*speech_like(1, shortest - 1))


def test_integer_waveforms_are_a_type_error():
    wav = torch.zeros(1, 4000, dtype=torch.int16)
    with pytest.raises(TypeError, match="int16"):
        MultiResolutionSTFTLoss()(wav, wav)


@pytest.mark.parametrize(
    "arguments",
    [
        {"fft_sizes": (512,)},
        {"fft_sizes": (), "hop_sizes": (), "win_lengths": ()},
        {"fft_sizes": (512,), "hop_sizes": (0,), "win_lengths": (512,)},
        {"fft_sizes": (512,), "hop_sizes": (64,), "win_lengths": (513,)},
        {"floor": 0.0},
    ],
)
def test_impossible_settings_are_refused_when_built(arguments):
    with pytest.raises(ValueError, match=r"STFT|floor"):
        MultiResolutionSTFTLoss(**arguments)


def test_mel_filters_without_a_bin_are_refused():
    with pytest.raises(ValueError, match="hold no bin"):
        MultiResolutionMelLoss(fft_sizes=(256,), num_mels=(80,))


@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-6, 1.0])
def test_log_magnitude_gradient_is_bounded_by_inverse_floor(level):
    spec = torch.full((1, 2, 3), level, dtype=torch.complex64, requires_grad=True)
    log_magnitude(spec, floor=1e-4).sum().backward()
    assert torch.isfinite(torch.view_as_real(spec.grad)).all()
    assert spec.grad.abs().max() <= 1e4 * (1 + 1e-5)


def test_log_magnitude_refuses_real_input():
    with pytest.raises(TypeError, match="complex"):
        log_magnitude(torch.zeros(1, 3, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", LOSSES)
def test_gpu_equals_cpu_and_repeats_bit_for_bit(kind):
    prediction, target = speech_like(4, 16000)
    value, grad = gradient(kind(), prediction, target)
    loss = kind().cuda()
    runs = [gradient(loss, prediction.cuda(), target.cuda()) for _ in range(2)]
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0].item() == pytest.approx(value.item(), rel=1e-5)
    assert (runs[0][1].cpu() - grad).norm() <= 1e-2 * grad.norm()
