import builtins
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_ext.data.audio import load_audio, save_audio
from speechbrain_ext.data.convert import convert_all
from speechbrain_ext.data.corpora import Item
from speechbrain_ext.data.corpora.espeak import EspeakCorpus
from speechbrain_ext.data.vad import SpeechDetector, open_detector
from speechbrain_ext.errors import UserError

RATE = 16000


@pytest.fixture(scope="module")
def detector():
    return SpeechDetector()


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Two sentences without silence around them, float32 at 16 kHz."""
    folder = tmp_path_factory.mktemp("speech")
    sentences = folder / "sentences.txt"
    sentences.write_text(
        "# train\nఒకటి రెండు మూడు నాలుగు.\n# valid\nఐదు ఆరు.\n# test\nఏడు.\n"
    )
    EspeakCorpus(sentences, ["te+m1"]).fetch(folder / "raw", None)
    spoken = []
    for name in ("esp001_te_m1", "esp002_te_m1"):
        wav, _ = load_audio(folder / "raw" / f"{name}.wav", RATE)
        loud = np.flatnonzero(np.abs(wav) > 0.02)
        spoken.append(wav[loud[0] : loud[-1]])
    return spoken


def hiss(seconds, seed=0):
    noise = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (1e-4 * noise).astype(np.float32)


def test_speech_is_found_where_it_was_put(detector, speech):
    wav = np.concatenate([hiss(1.0), speech[0], hiss(1.5, 1)])
    start, end, seconds = detector.speech_bounds(wav, RATE)
    assert isinstance(start, int)
    assert isinstance(end, int)
    assert start / RATE == pytest.approx(1.0, abs=0.15)
    assert (end - len(speech[0])) / RATE == pytest.approx(1.0, abs=0.2)
    assert 0.6 * len(speech[0]) < seconds * RATE <= end - start


def test_a_pause_between_two_sentences_stays(detector, speech):
    wav = np.concatenate([hiss(1), speech[0], hiss(1.2), speech[1], hiss(1)])
    bounds = detector.speech_bounds(wav, RATE)
    kept, reason = detector(wav, RATE)
    assert reason is None
    assert len(kept) > len(speech[0]) + len(speech[1]) + 1.0 * RATE
    assert bounds.speech_seconds < (bounds.end - bounds.start) / RATE - 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_do_not_depend_on_what_was_heard_before(detector, speech, dtype):
    wavs = [
        np.concatenate([hiss(lead, index), speech[index % 2], hiss(0.5)]).astype(dtype)
        for index, lead in enumerate([0.2, 0.7, 1.3, 0.4])
    ]
    alone = [SpeechDetector().speech_bounds(wav, RATE) for wav in wavs]
    assert [detector.speech_bounds(wav, RATE) for wav in wavs[::-1]] == alone[::-1]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda wav: detector.speech_bounds(wav, RATE), wavs * 5)
        assert list(found) == alone * 5


def test_the_margin_moves_the_ends_and_nothing_else(detector, speech):
    wav = np.concatenate([hiss(1), speech[0], hiss(1)])
    bare = SpeechDetector(margin_ms=0).speech_bounds(wav, RATE)
    wide = SpeechDetector(margin_ms=100).speech_bounds(wav, RATE)
    assert wide[:2] == (bare.start - 1600, bare.end + 1600)
    assert wide.speech_seconds >= bare.speech_seconds + 0.2
    whole = SpeechDetector(margin_ms=5000).speech_bounds(wav, RATE)
    assert whole[:2] == (0, len(wav))


@pytest.mark.parametrize(
    "wav",
    [
        np.zeros(2 * RATE, np.float32),
        hiss(2.0),
        np.full(RATE, 0.5, np.float32),
        np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE),
        hiss(0.1),
        np.zeros(1, np.float32),
        np.zeros(0, np.float32),
    ],
    ids=["silence", "noise", "constant", "tone", "0.1 s", "length 1", "empty"],
)
def test_what_is_no_speech_is_rejected(detector, wav):
    assert detector.speech_bounds(wav, RATE) == (0, 0, 0.0)
    kept, reason = detector(wav, RATE)
    assert reason.startswith("no speech: ")
    assert kept is wav


def test_too_little_speech_is_told_with_both_figures(speech):
    wav = np.concatenate([hiss(1), speech[0], hiss(1)])
    _, reason = SpeechDetector(min_speech_seconds=30)(wav, RATE)
    assert reason.startswith("too little speech: ")
    assert "at least 30 s" in reason


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_wrong_samples_are_the_callers_mistake(detector, bad):
    with pytest.raises(ValueError, match="NaN or Inf"):
        detector.speech_bounds(np.array([0.0, bad, 0.0]), RATE)
    with pytest.raises(ValueError, match="16000 Hz"):
        detector.speech_bounds(np.zeros(100), 8000)
    with pytest.raises(ValueError, match="shape"):
        detector.speech_bounds(np.zeros((2, 100)), RATE)


@pytest.mark.parametrize(
    "arguments", [{"threshold": 0}, {"margin_ms": -1}, {"min_speech_seconds": np.nan}]
)
def test_settings_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SpeechDetector(**arguments)


@pytest.mark.parametrize("missing", ["onnxruntime", "silero_vad"])
def test_a_missing_package_is_told_with_the_command(missing, monkeypatch):
    stock = builtins.__import__

    def without(name, *args, **kwargs):
        if name == missing:
            raise ImportError(name)
        return stock(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install") as caught:
        open_detector("silero")
    assert "--vad none" in str(caught.value)


def test_detectors_have_names():
    assert open_detector("none") is None
    with pytest.raises(UserError, match="silero, none"):
        open_detector("webrtc")


# --- in conversion -----------------------------------------------------------------


@pytest.fixture
def recordings(tmp_path, speech):
    """Speech between silences, and a file without any speech."""
    save_audio(tmp_path / "a.wav", np.concatenate([hiss(1), speech[0], hiss(1)]), RATE)
    save_audio(tmp_path / "b.wav", hiss(1) + 0.01, RATE)
    return [Item(name, tmp_path / f"{name}.wav") for name in "ab"]


def convert(items, folder, journal=None, **options):
    staging, finished = folder / "staging", folder / "wav"
    results, num_reused = convert_all(
        items, staging, finished, RATE, journal or {}, io.StringIO(), **options
    )
    return {result.utt_id: result for result in results}, num_reused


def test_conversion_trims_rejects_and_does_not_take_over_other_settings(
    recordings, tmp_path, detector
):
    journal, _ = convert(recordings, tmp_path, trim=detector)
    wav, _ = soundfile.read(tmp_path / "staging" / "a.wav")
    whole, _ = soundfile.read(recordings[0].path)
    start, end, _ = detector.speech_bounds(whole, RATE)
    assert np.array_equal(wav, whole[start:end])
    assert journal["a"].num_samples == len(wav)
    assert journal["b"].reason.startswith("no speech")
    assert detector.stamp in journal["a"].stamp
    assert convert(recordings, tmp_path, journal, trim=detector)[1] == 2
    assert convert(recordings, tmp_path, journal)[1] == 0
    other = SpeechDetector(margin_ms=0)
    assert convert(recordings, tmp_path, journal, trim=other)[1] == 0


def test_a_ready_recording_is_linked_and_any_other_copied(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, RATE)
    cases = {
        "ready.wav": (noise, RATE, "PCM_16"),
        "rate.wav": (noise, 2 * RATE, "PCM_16"),
        "stereo.wav": (np.stack([noise, noise], 1), RATE, "PCM_16"),
        "depth.wav": (noise, RATE, "PCM_24"),
        "ready.flac": (noise, RATE, "PCM_16"),
    }
    items = []
    for name, (wav, rate, subtype) in cases.items():
        soundfile.write(tmp_path / name, wav, rate, subtype=subtype)
        items.append(Item(name.replace(".", "_"), tmp_path / name))
    (tmp_path / "link.wav").symlink_to(tmp_path / "ready.wav")
    items.append(Item("link_wav", tmp_path / "link.wav"))
    done, _ = convert(items, tmp_path, link=True)
    ready = (tmp_path / "ready.wav").stat().st_ino
    for item in items:
        made = tmp_path / "staging" / f"{item.utt_id}.wav"
        assert not made.is_symlink()
        linked = made.stat().st_ino == ready
        assert linked == (item.utt_id in ("ready_wav", "link_wav"))
        assert soundfile.info(made).frames == done[item.utt_id].num_samples
    assert convert(items, tmp_path, done, link=True)[1] == len(items)


def test_without_a_detector_neither_torch_nor_silero_is_loaded():
    code = (
        "import sys; from speechbrain_ext.data import convert, vad; "
        "vad.open_detector('none'); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'silero_vad')))"
    )
    import subprocess

    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
