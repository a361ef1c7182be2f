"""Embeddings of a split: each utterance once, alone, and never of another model."""

import shutil

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_ext.data.manifest import ManifestError, read_manifest, write_manifest
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.scoring.embeddings import EmbeddingSet
from speechbrain_ext.tasks.speaker import embed
from speechbrain_ext.tasks.speaker.embed import embed_split, load_embedder
from speechbrain_ext.tasks.speaker.embedder import Embedder, cut
from tests.tasks import toy_speakers


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return toy_speakers.experiment(tmp_path_factory.mktemp("exp"))


@pytest.fixture
def exp(trained):
    """Return the trained experiment, without embeddings."""
    shutil.rmtree(trained / "embeddings", ignore_errors=True)
    return trained


@pytest.fixture(scope="module", autouse=True)
def _each_encoder_is_loaded_once():
    with toy_speakers.loaded_once():
        yield


@pytest.fixture
def data(tmp_path):
    return toy_speakers.split(tmp_path / "split")


@pytest.fixture
def embedded(monkeypatch):
    """Count the waveforms that go through an encoder; may interrupt at one."""
    seen = {"lengths": [], "stop_after": None}
    real = Embedder.embed

    def counting(self, wavs):
        if seen["stop_after"] in range(len(seen["lengths"]) + 1):
            raise KeyboardInterrupt
        seen["lengths"] += [len(wav) for wav in wavs]
        return real(self, wavs)

    monkeypatch.setattr(Embedder, "embed", counting)
    return seen


def files(exp):
    return {p.name: p.read_bytes() for p in (exp / "embeddings").iterdir()}


def alone(exp, path):
    """Embed one file by itself, past all that is tested here."""
    encoder = load_embedder(exp, "cpu").encoder
    wav, _ = soundfile.read(path, dtype="float32")
    with torch.no_grad():
        return encoder(torch.from_numpy(wav)[None])[0].numpy()


@pytest.mark.smoke
def test_each_utterance_has_the_embedding_that_it_has_alone(exp, data):
    sets = embed_split(exp, data)
    for role, found in sets.items():
        utterances = read_manifest(data / f"{role}.json")
        assert found.ids == list(utterances)
        for utt_id, utterance in utterances.items():
            expected = alone(exp, utterance.wav)
            assert np.abs(found.rows([utt_id])[0] - expected).max() <= 1e-5
            seconds = found.seconds[found.ids.index(utt_id)]
            assert seconds == pytest.approx(utterance.duration)
    checkpoint = load_embedder(exp, "cpu").checkpoint
    loaded = EmbeddingSet.load(exp / "embeddings" / "test.npz")
    assert (loaded.checkpoint, loaded.system) == (checkpoint, "speaker")
    assert len(checkpoint) == 64
    assert np.array_equal(loaded.vectors, sets["test"].vectors)


def test_channel_vectors_are_mean_and_deviation_of_the_raw_log_mels(exp, data):
    embed_split(exp, data)
    found = EmbeddingSet.load(exp / "embeddings" / "test.channel.npz")
    features = load_embedder(exp, "cpu").encoder.features
    for utt_id, utterance in read_manifest(data / "test.json").items():
        wav, _ = soundfile.read(utterance.wav, dtype="float32")
        mels = features(torch.from_numpy(wav)[None])[0].numpy().astype(np.float64)
        expected = np.concatenate([mels.mean(0), mels.std(0)])
        assert found.rows([utt_id])[0] == pytest.approx(expected, abs=1e-3)
    assert found.system == "channel"


def test_each_is_embedded_once_and_a_second_run_embeds_none(exp, data, embedded):
    embed_split(exp, data)
    assert len(embedded["lengths"]) == 10
    before = files(exp)
    embed_split(exp, data)
    assert len(embedded["lengths"]) == 10
    assert files(exp) == before


@pytest.mark.parametrize("stop_after", [3, 6])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(
    exp, data, embedded, stop_after
):
    embedded["stop_after"] = stop_after
    with pytest.raises(KeyboardInterrupt):
        embed_split(exp, data)
    done = len(embedded["lengths"])
    embedded["stop_after"] = None
    embed_split(exp, data)
    assert len(embedded["lengths"]) == 10
    assert done >= stop_after
    resumed = files(exp)
    shutil.rmtree(exp / "embeddings")
    embed_split(exp, data)
    assert files(exp) == resumed


def test_what_another_checkpoint_made_is_not_taken_over(exp, data, embedded, tmp_path):
    embedded["stop_after"] = 6  # the cohort is half done: a shard is there
    with pytest.raises(KeyboardInterrupt):
        embed_split(exp, data)
    new = toy_speakers.experiment(tmp_path / "new", seed=1)
    (exp / "embeddings").rename(new / "embeddings")
    embedded.update(stop_after=None, lengths=[])
    found = embed_split(new, data)["cohort"]
    assert len(embedded["lengths"]) == 10
    expected = alone(new, data / "wav" / "cohort.0.wav")
    assert np.abs(found.rows(["cohort.0"])[0] - expected).max() <= 1e-5


def test_changed_audio_is_embedded_again_and_nothing_else(exp, data, embedded):
    old = embed_split(exp, data)["test"]
    utterances = read_manifest(data / "test.json")
    changed = toy_speakers.add_utterance(data, "test.3", toy_speakers.noise(99, 0.8))
    write_manifest(
        data / "test.json",
        [*utterances.values(), changed][:3] + [changed, utterances["test.4"]],
    )
    embedded["lengths"].clear()
    new = embed_split(exp, data)["test"]
    assert embedded["lengths"] == [12800]
    same = ["test.0", "test.1", "test.2", "test.4"]
    assert np.array_equal(new.rows(same), old.rows(same))
    assert not np.allclose(new.rows(["test.3"]), old.rows(["test.3"]))


def test_other_chunks_are_other_embeddings(exp, data, embedded):
    embed_split(exp, data)
    embed_split(exp, data, max_seconds=0.25)
    assert len(embedded["lengths"]) == 20


def test_a_torn_shard_and_a_torn_result_are_made_again(exp, data, embedded):
    embedded["stop_after"] = 6
    with pytest.raises(KeyboardInterrupt):
        embed_split(exp, data)
    for path in (exp / "embeddings").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    embedded.update(stop_after=None, lengths=[])
    embed_split(exp, data)
    assert len(embedded["lengths"]) == 10


def test_audio_that_is_not_what_the_manifest_says_is_named_before_anything(
    exp, data, monkeypatch
):
    path = data / "wav" / "cohort.1.wav"
    path.write_bytes(path.read_bytes()[:-2] + b"\1\2")
    monkeypatch.setattr(embed, "load_encoder", lambda *a: pytest.fail("too late"))
    with pytest.raises(ManifestError, match=r"cohort\.1.*changed"):
        embed_split(exp, data)
    assert not (exp / "embeddings").exists()


def write_float(path, wav, rate):
    soundfile.write(path, wav, rate, subtype="FLOAT")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_named_and_touches_no_other(
    exp, data, capsys, value
):
    clean = embed_split(exp, data)["test"]
    wav = toy_speakers.noise(2, 0.5)
    wav[100] = value
    utterances = read_manifest(data / "test.json")
    utterances["test.2"] = toy_speakers.add_utterance(
        data, "test.2", wav, write=write_float
    )
    write_manifest(data / "test.json", utterances.values())
    with pytest.raises(WorkError, match=r"test: 1 of 5 embeddings .*: test\.2\n") as e:
        embed_split(exp, data)
    assert e.value.exit_code == 1
    assert "--max_nan_trials" in str(e.value)  # an option of run.sh
    found = EmbeddingSet.load(exp / "embeddings" / "test.npz")
    assert found.nonfinite() == ["test.2"]
    others = ["test.0", "test.1", "test.3", "test.4"]
    assert np.array_equal(found.rows(others), clean.rows(others))
    embed_split(exp, data, allow_nonfinite=True)
    assert "test.2" in capsys.readouterr().err


@pytest.mark.parametrize("samples", [1, 159, 4000])
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_silence_and_single_samples_have_finite_vectors(trained, samples, level):
    found = load_embedder(trained, "cpu").embed([np.full(samples, level, np.float32)])
    assert np.isfinite(found.speaker).all()
    assert np.isfinite(found.channel).all()
    assert (found.speaker.shape, found.channel.shape) == ((1, 12), (1, 48))


def test_long_audio_is_the_mean_of_equal_chunks(trained):
    wav = toy_speakers.noise(5, 2.4)
    short = toy_speakers.noise(6, 0.9)
    embedder = load_embedder(trained, "cpu", max_seconds=1.0, batch_seconds=2.0)
    found = embedder.embed([wav, short, wav]).speaker
    chunks = np.split(wav, 3)
    with torch.no_grad():
        alone = [embedder.encoder(torch.from_numpy(c)[None])[0] for c in chunks]
        whole = embedder.encoder(torch.from_numpy(short)[None])[0]
    for row in (0, 2):
        assert np.abs(found[row] - torch.stack(alone).mean(0).numpy()).max() <= 1e-5
    assert np.abs(found[1] - whole.numpy()).max() <= 1e-5


def test_only_the_reduced_precision_of_convolutions_is_switched_off(trained):
    # Without cuDNN a GPU convolves many times more slowly.
    cudnn, seen = torch.backends.cudnn, []

    def flags():
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32

    before = flags()
    embedder = load_embedder(trained, "cpu")
    hook = embedder.encoder.register_forward_pre_hook(lambda *_: seen.append(flags()))
    try:
        embedder.embed([toy_speakers.noise(1, 0.5)])
    finally:
        hook.remove()
    assert seen == [(*before[:3], False)]
    assert flags() == before


@pytest.mark.parametrize("length", [1, 9, 10, 11, 25, 101])
def test_chunks_are_equal_and_cover_everything(length):
    chunks = cut(np.arange(length), 10)
    assert chunks.shape[1] <= 10
    assert len(chunks) == -(-length // 10)
    assert set(chunks.flat) == set(range(length))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_seconds": 0.0}, "max_seconds must be > 0"),
        ({"batch_seconds": float("nan")}, "batch_seconds must be > 0"),
        ({"device": "cuda:99"}, "--device=cuda:99"),
    ],
)
def test_settings_out_of_range_are_messages(exp, data, settings, message):
    with pytest.raises(UserError, match=message):
        embed_split(exp, data, **settings)


def test_what_was_never_trained_or_prepared_names_the_next_command(exp, data, tmp_path):
    with pytest.raises(UserError, match="--stage train"):
        embed_split(tmp_path, data)
    with pytest.raises(ManifestError, match="--stage prepare"):
        embed_split(exp, tmp_path)


def test_audio_at_another_rate_is_a_message(exp, data):
    text = (data / "cohort.json").read_text()
    (data / "cohort.json").write_text(text.replace("16000,", "8000,"))
    with pytest.raises(ManifestError, match=r"\[8000\] Hz.*16000 Hz"):
        embed_split(exp, data)


@pytest.mark.parametrize("shape", [(0,), (2, 5)])
def test_what_is_no_waveform_is_refused(trained, shape):
    with pytest.raises(ValueError, match=r"must be \[time\]"):
        load_embedder(trained, "cpu").embed([np.zeros(shape, np.float32)])
