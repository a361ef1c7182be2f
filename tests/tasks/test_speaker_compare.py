"""Two files, one answer: from which score on, and what can't be answered."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_ext.cli import cli, run
from speechbrain_ext.data.audio import AudioError, resample
from speechbrain_ext.errors import UserError
from speechbrain_ext.inference import SpeakerVerifier
from speechbrain_ext.scoring.trials import Trials, write_scores
from speechbrain_ext.tasks.speaker.embed import embed_split
from tests.tasks import toy_speakers

RNG = np.random.default_rng(3)
LABELS = np.arange(400) % 4 == 0
SCORES = RNG.normal(size=400) * 0.1 + 0.3 * LABELS


def figures(threshold):
    return {
        "eer": 0.07,
        "eer_threshold": threshold,
        "num_targets": 100,
        "num_nontargets": 300,
        "thresholds": [
            {"far": 0.001, "frr": 0.5, "threshold": 0.99},
            {"far": 0.01, "frr": 0.25, "threshold": 0.9},
        ],
    }


def system(name, threshold, chosen=False, **settings):
    return {
        "name": name,
        "label": name.upper(),
        "chosen": chosen,
        "calibrated": False,
        "settings": settings,
        "lists": {"main": figures(threshold)},
    }


def write_results(folder, *systems):
    results = {"task": "speaker", "systems": systems}
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module", autouse=True)
def _each_encoder_is_loaded_once():
    with toy_speakers.loaded_once():
        yield


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """Return a scored experiment; all results are made up, the weights are real."""
    folder = toy_speakers.experiment(tmp_path_factory.mktemp("exp"))
    data = toy_speakers.split(tmp_path_factory.mktemp("split"), (0.5,) * 6)
    embed_split(folder, data, log=lambda line: None)
    trials = Trials(
        LABELS, np.zeros(400, np.int32), np.ones(400, np.int32), ["test.0", "test.1"]
    )
    write_scores(folder / "scores" / "cosine_main.npz", trials, SCORES)
    return folder


@pytest.fixture
def scored(exp):
    write_results(exp, system("cosine", 0.9, chosen=True))
    return exp


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    for name, seed in (("a", 1), ("b", 2)):
        wav = toy_speakers.noise(seed, 0.6)
        soundfile.write(folder / f"{name}.wav", wav, 16000)
        stereo = np.stack([resample(wav, 16000, 44100)] * 2, 1)
        soundfile.write(folder / f"{name}.flac", stereo, 44100)
    soundfile.write(folder / "short.wav", toy_speakers.noise(1, 0.2), 16000)
    soundfile.write(folder / "silent.wav", np.zeros(9000), 16000)
    soundfile.write(folder / "one.wav", np.ones(1), 16000)
    broken = toy_speakers.noise(1, 0.5)
    broken[7] = np.nan
    soundfile.write(folder / "nan.wav", broken, 16000, subtype="FLOAT")
    (folder / "text.wav").write_text("no audio")
    (folder / "empty.wav").touch()
    return folder


def compare(capsys, *arguments):
    code = run(cli, ["compare", *map(str, arguments)], "speechbrain-ext")
    return code, *capsys.readouterr()


@pytest.mark.smoke
@pytest.mark.parametrize(("threshold", "decision"), [(0.9, "same"), (1.1, "different")])
def test_both_answers_are_answers(exp, audio, capsys, threshold, decision):
    write_results(exp, system("cosine", threshold, chosen=True))
    code, out, _ = compare(
        capsys, audio / "a.wav", audio / "a.flac", "--experiment", exp
    )
    assert code == 0
    assert f"decision   {decision} speaker" in out
    assert "raw cosine" in out
    assert "7.00 % false alarms of 300 non-targets" in out


def test_the_score_is_the_cosine_of_the_embeddings_as_json(scored, audio, capsys):
    arguments = [audio / "a.wav", audio / "b.flac", "--experiment", scored, "--json"]
    code, out, err = compare(capsys, *arguments)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    verifier = SpeakerVerifier.from_hparams(scored, device="cpu")
    with torch.no_grad():
        one, other = (
            verifier.embedder.encoder(torch.from_numpy(verifier.load(path))[None])[0]
            for path in (audio / "a.wav", audio / "b.flac")
        )
    expected = torch.nn.functional.cosine_similarity(one, other, dim=0).item()
    assert answer["score"] == pytest.approx(expected, abs=1e-5)
    assert answer["seconds"] == pytest.approx([0.6, 0.6], abs=1e-3)
    assert answer["warnings"] == []
    found = verifier.verify_files(audio / "a.wav", audio / "b.flac")
    assert found.score == answer["score"]
    assert found.decision == (answer["decision"] == "same")


def test_a_false_alarm_rate_chooses_the_lowest_threshold_that_keeps_it(scored):
    verifier = SpeakerVerifier.from_hparams(scored, device="cpu")
    for far in (0.302, 0.052, 0.012):
        found = verifier.threshold(far)
        nontargets = np.sort(SCORES[~LABELS])[::-1]
        allowed = int(far * len(nontargets))
        assert (nontargets >= found.value).sum() <= allowed
        below = nontargets[nontargets < found.value].max()
        assert (nontargets >= below).sum() > allowed
        assert found.far == pytest.approx((nontargets >= found.value).mean())
        assert found.frr == pytest.approx((SCORES[LABELS] < found.value).mean())


def test_without_the_scores_the_listed_thresholds_serve(scored, tmp_path):
    (scored / "scores").rename(tmp_path / "scores")
    try:
        verifier = SpeakerVerifier.from_hparams(scored, device="cpu")
        assert verifier.threshold(0.05).value == 0.9
        assert verifier.threshold(0.005).value == 0.99
        assert verifier.decision.shortest_seconds() is None
        with pytest.raises(UserError, match=r"no threshold .* 0\.0001 or less"):
            verifier.threshold(0.0001)
    finally:
        (tmp_path / "scores").rename(scored / "scores")


def test_the_chosen_backend_is_learned_from_the_cohort(exp, audio, capsys):
    write_results(
        exp, system("cosine", 0.5), system("wccn", 0.2, chosen=True, wccn=1e12)
    )
    files = [audio / "a.wav", audio / "b.wav", "--experiment", exp, "--json"]
    learned = json.loads(compare(capsys, *files)[1])
    raw = json.loads(compare(capsys, *files, "--backend", "cosine")[1])
    assert (learned["system"], learned["threshold"]) == ("WCCN", 0.2)
    assert (raw["system"], raw["threshold"]) == ("raw cosine", 0.5)
    # So much shrinkage leaves the cosine as it is; so little does not.
    assert learned["score"] == pytest.approx(raw["score"], abs=1e-4)
    write_results(exp, system("wccn", 0.2, chosen=True, wccn=0.01))
    learned = json.loads(compare(capsys, *files)[1])
    assert learned["score"] != pytest.approx(raw["score"], abs=1e-4)


def test_shorter_audio_than_the_trials_is_warned_of(scored, audio, capsys):
    code, _, err = compare(
        capsys, audio / "a.wav", audio / "short.wav", "--experiment", scored
    )
    assert code == 0
    assert "short.wav has 0.20 s; the threshold was measured on 0.50 s" in err
    assert "a.wav" not in err
    short = audio / "short.wav"
    _, _, err = compare(capsys, short, short, "--experiment", scored)
    assert err.count("short.wav has 0.20 s") == 1


def test_a_rate_that_the_trials_can_not_measure_is_warned_of(scored, audio, capsys):
    given = [audio / "a.wav", audio / "b.wav", "--experiment", scored]
    targets, nontargets = int(LABELS.sum()), int((~LABELS).sum())
    code, out, err = compare(capsys, *given, "--far", "1e-9")
    assert code == 0
    assert f"--far 1e-09 is less than one false alarm of {nontargets:,} non-tar" in err
    assert f"false rejections of {targets:,} targets, 0.00 % false alarms of" in out
    assert f"of {nontargets:,} non-targets" in out
    assert compare(capsys, *given, "--far", str(1 / nontargets))[2] == ""


def test_an_unpacked_bundle_is_told_once_what_it_lacks(exp, audio, tmp_path, capsys):
    write_results(exp, system("cosine", 0.5), system("wccn", 0.2, chosen=True, wccn=1))
    copy = tmp_path / "theirs"
    shutil.copytree(exp, copy, ignore=shutil.ignore_patterns("embeddings"))
    for name in ("manifest.json", "recipe.yaml"):
        (copy / name).touch()
    given = [audio / "a.wav", audio / "b.wav", "--experiment", copy]
    code, _, err = compare(capsys, *given)
    assert code == 2
    assert err.count(str(copy)) == err.count("Next:") == 1
    assert "--backend cosine" in err
    assert compare(capsys, *given, "--backend", "cosine")[0] == 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("silent.wav", "all zero"),
        ("nan.wav", "non-finite: 1 of"),
        ("one.wav", "too short"),
        ("text.wav", "holds text"),
        ("empty.wav", "empty"),
        ("nowhere.wav", "no such file"),
    ],
)
def test_audio_that_can_not_be_compared_is_named_with_the_reason(
    scored, audio, capsys, name, reason
):
    for files in ([audio / "a.wav", audio / name], [audio / name, audio / "a.wav"]):
        code, out, err = compare(capsys, *files, "--experiment", scored)
        assert (code, out) == (2, "")
        assert name in err
        assert reason in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not there"),
        ("{", "does not say how to score"),
        ('{"task": "codec"}', "of the task 'codec'"),
        ('{"task": "speaker", "systems": []}', "does not say"),
    ],
)
def test_without_results_the_command_that_makes_them_is_told(
    exp, audio, capsys, text, message
):
    (exp / "results.json").unlink(missing_ok=True)
    if text is not None:
        (exp / "results.json").write_text(text)
    code, _, err = compare(
        capsys, audio / "a.wav", audio / "b.wav", "--experiment", exp
    )
    assert code == 2
    assert message in err
    assert "--stage score" in err


def test_scores_of_other_weights_are_refused(scored, audio, tmp_path, capsys):
    other = toy_speakers.experiment(tmp_path / "other", seed=1)
    shutil.copy(scored / "results.json", other)
    shutil.copytree(scored / "embeddings", other / "embeddings")
    code, _, err = compare(
        capsys, audio / "a.wav", audio / "b.wav", "--experiment", other
    )
    assert code == 2
    assert "other weights" in err
    assert "--stage embed" in err


def test_calibrated_scores_are_ratios_and_decide_as_before(exp, audio, capsys):
    arguments = [audio / "a.wav", audio / "b.wav", "--experiment", exp, "--json"]
    write_results(exp, system("cosine", 0.9, chosen=True))
    raw = json.loads(compare(capsys, *arguments)[1])
    calibration = {"calibrated": True, "calibration": {"slope": 20.0, "offset": -9.0}}
    write_results(exp, system("cosine", 20 * 0.9 - 9, chosen=True) | calibration)
    ratio = json.loads(compare(capsys, *arguments)[1])
    assert ratio["score"] == pytest.approx(20 * raw["score"] - 9)
    assert ratio["decision"] == raw["decision"]
    assert ratio["system"] == "raw cosine, calibrated: a log-likelihood ratio"


def test_calibrated_scores_without_their_map_are_refused(exp, audio, capsys):
    write_results(exp, system("cosine", 0.9, chosen=True) | {"calibrated": True})
    code, _, err = compare(
        capsys, audio / "a.wav", audio / "b.wav", "--experiment", exp
    )
    assert code == 2
    assert "without the map" in err
    assert "--stage score" in err


@pytest.mark.parametrize(
    "arguments", [["a.wav"], ["a.wav", "b.wav", "--far", "1.5"], ["a", "b", "--fra=1"]]
)
def test_a_wrong_command_line_is_explained(capsys, arguments):
    code, _, err = compare(capsys, *arguments, "--experiment", "x")
    assert code == 2
    assert "--help" in err


def test_samples_and_files_give_the_same_embedding(scored, audio):
    verifier = SpeakerVerifier.from_hparams(scored, device="cpu")
    expected = verifier.encode_file(audio / "a.wav")
    wav, rate = soundfile.read(audio / "a.wav")
    for given in (wav, wav.astype(np.float32), torch.from_numpy(wav)):
        assert np.allclose(verifier.encode(given, rate), expected, atol=1e-6)
    twice = verifier.encode(resample(wav, 16000, 48000), 48000)
    cosine = twice @ expected / np.linalg.norm(twice) / np.linalg.norm(expected)
    assert cosine > 0.99
    with pytest.raises(ValueError, match=r"must be \[time\]"):
        verifier.encode(np.zeros((2, 16000)), 16000)
    with pytest.raises(AudioError, match="all zero"):
        verifier.encode(np.zeros(16000), 16000)


def test_a_zero_embedding_has_no_score(scored):
    verifier = SpeakerVerifier.from_hparams(scored, device="cpu")
    with pytest.raises(UserError, match="no score"):
        verifier.score(np.zeros(12), np.ones(12))
