"""An export gives what its experiment gives, to us and to stock, or is not there."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ResNet import ResNet

from speechbrain_ext.cli import cli, run
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.files import sha256_file
from speechbrain_ext.inference import SpeakerVerifier, SpeechCodec
from speechbrain_ext.inference.folder import FORMAT
from speechbrain_ext.losses import AAMSoftmax
from speechbrain_ext.models.speaker import SpeakerEncoder
from speechbrain_ext.report.results import read_results
from speechbrain_ext.report.speaker.results import digest_of
from speechbrain_ext.sharing.export import export, outputs, probe, smoke
from speechbrain_ext.sharing.export.cut import cut, targets
from speechbrain_ext.sharing.export.folder import check_place
from speechbrain_ext.sharing.export.stock import NotStockError, write_stock
from speechbrain_ext.tasks.speaker.score import score
from speechbrain_ext.tasks.speaker.trained_classifier import load_classifier
from speechbrain_ext.tasks.speaker.weights import load_encoder
from tests.sharing import toy_experiments
from tests.tasks.voices import voice

OURS = {"README.md", "config.json", "model.yaml", "model.safetensors"}
DECIDES = {"decision.safetensors"}
STOCK = {
    "hyperparams.yaml",
    "embedding_model.ckpt",
    "classifier.ckpt",
    "label_encoder.txt",
}
ONNX = {"features_to_embedding.onnx", "features_to_embedding.json"}
FARS = (None, 0.5, 0.1, 0.02)


def names(folder):
    return {path.name for path in folder.iterdir()}


def quiet(line):
    pass


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    return toy_experiments.speaker_experiment(tmp_path_factory.mktemp("speaker"))


@pytest.fixture(scope="module")
def trained(exp):
    """Return what the experiment itself computes, before anything is exported."""
    encoder, info = load_encoder(exp, "cpu")
    classifier, speakers = load_classifier(exp, info)
    return encoder, classifier, speakers


@pytest.fixture(scope="module")
def folder(exp, tmp_path_factory):
    return export(exp, tmp_path_factory.mktemp("out") / "model", stock=True, log=quiet)


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    root = tmp_path_factory.mktemp("codecs")
    return {
        name: toy_experiments.codec_experiment(root / name, text)
        for name, text in (
            ("transform", toy_experiments.TRANSFORM),
            ("seanet", toy_experiments.SEANET),
        )
    }


@pytest.fixture
def _in_this_process(monkeypatch):
    """Try folders out without the seconds that a new process takes."""

    def compute(folder, words, signals, sample_rate, allow=()):
        assert not folder.name == "model"  # a draft, not yet in place
        found = {}
        if "stock" in words:
            found |= probe.stock(str(folder), signals, sample_rate)
        opened = outputs.open_model(folder, words[-1])
        found |= outputs.compute(opened, signals, sample_rate)
        return {name: np.asarray(value) for name, value in found.items()}

    monkeypatch.setattr(probe, "PACKAGE", "nobody")
    monkeypatch.setattr(smoke, "run_probe", compute)


# -- ours ----------------------------------------------------------------------------


@pytest.mark.smoke
def test_the_folder_holds_what_each_side_needs(folder):
    assert names(folder) == OURS | DECIDES | STOCK | ONNX
    config = json.loads((folder / "config.json").read_text())
    assert set(config["files"]) == names(folder) - {"config.json"}
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert "SpeakerVerifier.from_hparams" in card
    assert "EncoderClassifier.from_hparams" in card
    for name in names(folder) - {"README.md"}:
        assert f"`{name}`" in card


def test_scores_and_decisions_are_the_experiments_at_any_rate(exp, folder, tmp_path):
    away = shutil.copytree(folder, tmp_path / "elsewhere")
    wavs = [
        voice(speaker, 20, seconds) for speaker, seconds in ((5, 1), (5, 2), (6, 1))
    ]
    for backend in ("chosen", "cosine"):
        ours = SpeakerVerifier.from_hparams(exp, device="cpu", backend=backend)
        theirs = SpeakerVerifier.from_hparams(away, device="cpu", backend=backend)
        vectors = [ours.encode(wav, 16000) for wav in wavs]
        for wav, vector in zip(wavs, vectors, strict=True):
            assert np.array_equal(theirs.encode(wav, 16000), vector)
        for other in vectors[1:]:
            assert ours.score(vectors[0], other) == theirs.score(vectors[0], other)
        for far in FARS:
            assert ours.threshold(far) == theirs.threshold(far)
        assert ours.decision.shortest_seconds() == theirs.decision.shortest_seconds()
        assert ours.decision.label == theirs.decision.label


@pytest.mark.parametrize(
    ("where", "value"),
    [("settings", {"wccn": "x", "as_norm": 10}), ("num_targets", None)],
)
def test_a_decision_that_was_changed_is_a_message(folder, tmp_path, where, value):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    chosen = config["decision"]["systems"]["chosen"]
    holder = chosen if where in chosen else chosen["lists"]["main"]
    assert where in holder
    holder[where] = value
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not say how to score"):
        SpeakerVerifier.from_hparams(copy, device="cpu").threshold()


def resealed(folder, change):
    """Edit config.json of an export, and make its hashes anew."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    for name in config["files"]:
        config["files"][name] = sha256_file(folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def verified(capsys, *words):
    code = run(cli, ["verify", *map(str, words)], "speechbrain-ext")
    return code, capsys.readouterr().out


@pytest.mark.parametrize("key", ["eer_threshold", "eer", "thresholds"])
@pytest.mark.parametrize("backend", ["chosen", "cosine"])
def test_a_threshold_that_its_scores_do_not_give_is_refused(
    folder, tmp_path, capsys, key, backend
):
    def change(config):
        main = config["decision"]["systems"][backend]["lists"]["main"]
        if key == "thresholds":
            main[key][0]["threshold"] -= 0.5
        else:
            main[key] += 0.1

    copy = resealed(shutil.copytree(folder, tmp_path / "copy"), change)
    with pytest.raises(UserError, match=rf"was changed: {key}.*, the scores give"):
        SpeakerVerifier.from_hparams(copy, device="cpu", backend=backend).threshold()
    code, out = verified(capsys, copy)
    assert code == 1
    assert "FAILED  thresholds" in out
    assert out.splitlines()[-1].startswith("NOT verified")


def test_an_export_is_verified_as_a_whole(folder, tmp_path, capsys):
    digest = sha256_file(folder / "config.json")
    allow = "--allow=torch.nn.Linear"
    code, out = verified(capsys, folder, f"--expect_digest={digest}", allow)
    assert code == 0, out
    assert out.splitlines()[-1] == "verified, and it is the digest you gave"
    code, out = verified(capsys, folder)
    assert (code, "agrees with itself; authorship unchecked" in out) == (0, True)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "notes.txt").touch()
    card = (copy / "README.md").read_text()
    (copy / "README.md").write_text(card + "The best there is.\n")
    (copy / "label_encoder.txt").unlink()
    code, out = verified(capsys, copy)
    assert code == 1
    assert "README.md: other bytes than config.json says" in out
    assert "label_encoder.txt is not there" in out
    assert "not looked at: notes.txt" in out
    resealed_card = shutil.copytree(folder, tmp_path / "card")
    resealed(resealed_card, lambda config: config["files"].pop("README.md"))
    assert "config.json has no hash of README.md" in verified(capsys, resealed_card)[1]
    (copy / "config.json").write_text("{")
    assert verified(capsys, copy)[1].splitlines()[-1].startswith("no export: ")


def test_no_utterance_and_no_speaker_of_the_trials_is_in_it(exp, folder):
    ids = json.loads((exp / "embeddings" / "test.speakers.json").read_text())
    whole = b"".join(path.read_bytes() for path in folder.iterdir())
    for utt_id, speaker in ids.items():
        assert utt_id.encode() not in whole
        assert f'"{speaker}"'.encode() not in whole


def test_the_commands_take_the_folder_for_the_experiment(exp, folder, tmp_path, capsys):
    import soundfile

    for name, speaker in (("a", 5), ("b", 6)):
        soundfile.write(tmp_path / f"{name}.wav", voice(speaker, 30), 16000)
    files = [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    answers = []
    for source in (exp, folder):
        given = ["compare", *files, "--experiment", str(source), "--json"]
        given += ["--allow", "torch.nn.Linear,torch.nn.ReLU"]
        assert run(cli, given, "speechbrain-ext") == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    vectors = []
    for source in (exp, folder):
        output = tmp_path / f"{source.name}.npz"
        given = ["embed", *files, "--experiment", str(source), "--output", str(output)]
        given += ["--allow", "torch.nn.Linear"]
        assert run(cli, given, "speechbrain-ext") == 0
        with np.load(output) as found:
            vectors.append(found["vectors"])
    assert np.array_equal(*vectors)
    for given in (["compare", *files], ["embed", *files, "--output", str(output)]):
        given += ["--experiment", str(folder), "--revision", "v1"]
        assert run(cli, given, "speechbrain-ext") == 2
        assert "is a folder here, so it has no revision" in capsys.readouterr().err


@pytest.mark.usefixtures("_in_this_process")
def test_the_same_experiment_gives_the_same_bytes(exp, folder, tmp_path):
    again = export(exp, tmp_path / "again", onnx="none", log=quiet)
    for name in names(again) - {"README.md", "config.json"}:
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("codec", ["transform", "seanet"])
@pytest.mark.usefixtures("_in_this_process")
def test_a_codec_gives_the_same_codes_and_waveforms(codecs, codec, tmp_path):
    folder = export(codecs[codec], tmp_path / "out", log=quiet)
    assert names(folder) == OURS
    ours = SpeechCodec.from_hparams(codecs[codec], device="cpu")
    theirs = SpeechCodec.from_hparams(folder, device="cpu")
    wav = voice(3, 3)
    for kbps in (None, *ours.bitrates):
        codes = ours.encode(wav, 16000, kbps)
        assert np.array_equal(codes, theirs.encode(wav, 16000, kbps))
        assert np.array_equal(ours.decode(codes), theirs.decode(codes))
    text = (folder / "model.yaml").read_text()
    for word in ("learning_rate", "output_folder", "save_folder"):
        assert word not in text


def test_the_folder_alone_is_enough_in_a_new_process(codecs, tmp_path, monkeypatch):
    real, seen = smoke.run_probe, {}
    monkeypatch.setattr(
        smoke, "run_probe", lambda *args: seen.update(real(*args)) or seen
    )
    folder = export(codecs["transform"], tmp_path / "out", log=quiet)
    codec = SpeechCodec.from_hparams(folder, device="cpu")
    wav = smoke.signals_of(16000)["b"]
    rate = codec.bitrates[-1]
    assert np.array_equal(seen[f"codes.b.{rate:g}"], codec.encode(wav, 16000))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# -- stock ---------------------------------------------------------------------------


def test_stock_gives_our_embeddings_and_the_classes_of_real_voices(folder, trained):
    encoder, classifier, speakers = trained
    assert classifier.num_classes == 2 * len(speakers)
    model = EncoderClassifier.from_hparams(str(folder), run_opts={"device": "cpu"})
    for seconds in (0.4, 1.0, 3.3):
        wav = torch.from_numpy(voice(2, 40, seconds))[None]
        with torch.no_grad():
            vector = encoder(wav)
            unit = torch.nn.functional.normalize(vector)
            rows = torch.nn.functional.normalize(classifier.weight[: len(speakers)])
            wanted = (unit @ rows.T)[0]
        found = model.encode_batch(wav).reshape(1, -1)
        assert (found - vector).abs().max() <= 1e-6 * vector.abs().max()
        cosines, best, index, labels = model.classify_batch(wav)
        assert cosines.shape == (1, len(speakers))
        assert (cosines[0] - wanted).abs().max() <= 1e-6
        assert labels == [speakers[int(wanted.argmax())]]
        assert float(best) == pytest.approx(float(wanted.max()), abs=1e-6)
    _, logits = classifier(vector, torch.tensor([0]))
    wanted = logits[:, : len(speakers)] / classifier.scale
    assert torch.allclose(cosines, wanted, atol=1e-6)


def test_stock_files_name_stock_classes_and_hold_no_code(folder, trained):
    text = (folder / "hyperparams.yaml").read_text()
    found = targets(text)
    assert found
    assert all(name.startswith("speechbrain.") for name in found)
    assert all("speechbrain_ext" not in name for name in found)
    for name in ("embedding_model.ckpt", "classifier.ckpt"):
        state = torch.load(folder / name, weights_only=True)
        assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert torch.allclose(state["weight"].norm(dim=1), torch.ones(4))
    labels = CategoricalEncoder()
    labels.load(folder / "label_encoder.txt")
    hparams = load_hyperpyyaml(text)
    assert labels.ind2lab == hparams["label_encoder"].ind2lab
    assert [labels.ind2lab[i] for i in range(4)] == trained[2]


def test_the_probe_cannot_import_this_package_before_stock_is_done():
    with pytest.raises(ModuleNotFoundError):
        probe.Blocked.find_spec("speechbrain_ext.models")
    assert probe.Blocked.find_spec("speechbrain.core") is None


RESNET = """\
n_mels: 24
encoder: !new:speechbrain_ext.models.SpeakerEncoder
    features: !new:speechbrain.lobes.features.Fbank
        n_mels: !ref <n_mels>
    encoder: !new:speechbrain.lobes.models.ResNet.ResNet
        input_size: !ref <n_mels>
        channels: [4, 4, 8, 8]
        block_sizes: [1, 1, 1, 1]
        lin_neurons: 12
    embedding_dim: 12
modules: {encoder: !ref <encoder>}
"""


def resnet(**settings):
    torch.manual_seed(0)
    net = ResNet(24, channels=[4, 4, 8, 8], block_sizes=[1] * 4, lin_neurons=12)
    return SpeakerEncoder(Fbank(n_mels=24), net, embedding_dim=12, **settings).eval()


def test_a_resnet_is_opened_by_stock_alike(tmp_path):
    encoder, classifier = resnet(), AAMSoftmax(12, 3)
    odd = ["Zoë <x>", "007", 'a "b", [c]: #']
    write_stock(tmp_path, RESNET, encoder, classifier, odd)
    model = EncoderClassifier.from_hparams(str(tmp_path), run_opts={"device": "cpu"})
    wav = torch.from_numpy(voice(1, 1))[None]
    with torch.no_grad():
        vector = encoder(wav)
        cosines = classifier.cosines(vector)
    found, _, _, label = model.classify_batch(wav)
    assert torch.allclose(model.encode_batch(wav).reshape(1, -1), vector, rtol=1e-6)
    assert (found - cosines).abs().max() <= 1e-6
    assert label == [odd[int(cosines.argmax())]]


@pytest.mark.parametrize(
    ("text", "encoder", "classifier", "labels", "why"),
    [
        (RESNET, {}, {"sub_centers": 2}, "abc", "2 sub-centers"),
        (RESNET, {"mean_norm": False}, {}, "abc", "mean_norm is off"),
        (RESNET, {}, {}, ["(a, b)", "c", "d"], r"label '\(a, b\)'"),
        (
            RESNET.replace("speechbrain.lobes.features.Fbank", "mine.Bank"),
            {},
            {},
            "abc",
            "mine.Bank is none of SpeechBrain's",
        ),
    ],
)
def test_what_stock_classes_cannot_say_is_said(
    tmp_path, text, encoder, classifier, labels, why
):
    with pytest.raises(NotStockError, match=why):
        write_stock(
            tmp_path,
            text,
            resnet(**encoder),
            AAMSoftmax(12, 3, **classifier),
            [*labels],
        )
    assert not names(tmp_path)


@pytest.mark.usefixtures("_in_this_process")
def test_without_classes_the_stock_part_is_left_out_or_refused(exp, tmp_path):
    copy = shutil.copytree(exp, tmp_path / "exp")
    (copy / "speakers.json").unlink()
    lines = []
    folder = export(copy, onnx="none", log=lines.append)
    assert folder == copy / "export"
    assert names(folder) == OURS | DECIDES
    assert "without what stock SpeechBrain needs" in "\n".join(lines)
    assert "EncoderClassifier" not in (folder / "README.md").read_text()
    with pytest.raises(UserError, match="--stock: stock SpeechBrain can't open"):
        export(copy, tmp_path / "none", onnx="none", stock=True, log=quiet)
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("_in_this_process")
def test_calibrated_scores_decide_as_ratios_do_in_the_experiment(exp, tmp_path):
    copy = shutil.copytree(exp, tmp_path / "exp")
    score(copy, exp.parent / "data", calibrate=True, draws=10)
    folder = export(copy, onnx="none", log=quiet)
    assert names(folder) == OURS | DECIDES | STOCK
    here, there = (
        SpeakerVerifier.from_hparams(source, device="cpu") for source in (copy, folder)
    )
    pair = [here.encode(voice(speaker, 1), 16000) for speaker in (1, 2)]
    assert there.score(*pair) == pytest.approx(here.score(*pair), abs=1e-5)
    assert there.threshold() == here.threshold()
    assert "log-likelihood ratio" in there.decision.label


@pytest.mark.parametrize("place", ["/proc/x", "/dev/null/x"])
def test_a_place_that_can_not_be_written_is_a_message(place):
    with pytest.raises(UserError, match=f"--output {place} can't be written") as caught:
        check_place(Path(place))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("place", ["/proc/x", "/dev/null/x"])
def test_an_onnx_file_that_can_not_be_written_is_a_message(exp, place, capsys):
    code, _, err = exported(capsys, exp, "--format", "onnx", "--output", place)
    assert code == 2
    assert f"--output {place} can't be written" in err


@pytest.mark.usefixtures("_in_this_process")
def test_the_licence_of_the_weights_is_that_which_is_given(codecs, tmp_path, capsys):
    exp = codecs["seanet"]
    code, out, _ = exported(capsys, exp, "--output", tmp_path / "x")
    assert code == 0
    assert "--license ID" in out
    given = ["--output", tmp_path / "x", "--license", "Apache-2.0"]
    code, out, _ = exported(capsys, exp, *given)
    assert code == 0
    assert "--license ID" not in out
    card = (tmp_path / "x" / "README.md").read_text()
    assert "\nlicense: apache-2.0\n" in card
    assert "The weights are shared under `apache-2.0`" in card
    # The example is at a rate that the tables have.
    [rate] = [s["kbps"] for s in read_results(exp / "results.json")["systems"]]
    assert f"kbps={rate:g})" in card
    # Made again, it keeps what was said of it.
    code, out, _ = exported(capsys, exp, "--output", tmp_path / "x")
    assert "stay under apache-2.0" in out
    assert (tmp_path / "x" / "README.md").read_text() == card
    code, _, err = exported(capsys, exp, "--license", "my own: terms")
    assert code == 2
    assert "'my own: terms' is no identifier of a licence" in err


@pytest.mark.usefixtures("_in_this_process")
def test_names_beyond_the_list_are_told_to_whoever_opens_it(codecs, tmp_path):
    allowed = ["torch.nn.Linear"]
    folder = export(codecs["seanet"], tmp_path / "x", allow=allowed, log=quiet)
    assert 'allow=["torch.nn.Linear"]' in (folder / "README.md").read_text()
    SpeechCodec.from_hparams(folder, device="cpu", allow=allowed)


# -- all or nothing ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "wrong"),
    [("embedding", 2e-6), ("score", 1e-4), ("threshold", np.nan), ("stock.cos", 2e-6)],
)
@pytest.mark.usefixtures("_in_this_process")
def test_a_folder_that_computes_something_else_is_not_kept(
    exp, folder, tmp_path, monkeypatch, start, wrong
):
    real = smoke.run_probe

    def off(*args):
        found = real(*args)
        name = next(name for name in found if name.startswith(start))
        return found | {name: found[name] * (1 + wrong)}

    monkeypatch.setattr(smoke, "run_probe", off)
    old = shutil.copytree(folder, tmp_path / "old") if start == "score" else None
    with pytest.raises(WorkError, match="differs from the experiment's"):
        export(exp, old or tmp_path / "new", onnx="none", log=quiet)
    assert list(tmp_path.iterdir()) == ([old] if old else [])
    if old:
        assert names(old) == names(folder)


def test_a_process_that_fails_is_told_with_its_reason(codecs, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "__file__", str(tmp_path / "probe.py"))
    (tmp_path / "probe.py").write_text("raise SystemExit('no such luck')")
    with pytest.raises(WorkError, match="nothing was written: no such luck"):
        export(codecs["transform"], tmp_path / "new", log=quiet)
    assert not (tmp_path / "new").exists()


def test_a_place_on_this_machine_is_not_told(tmp_path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "config.json").write_text(f'{{"a": "{tmp_path}/exp/save"}}')
    with pytest.raises(WorkError, match=r"config\.json would name .*/exp"):
        smoke.check_texts(tmp_path, tmp_path / "exp")
    (tmp_path / "config.json").write_text(f'{{"a": "{tmp_path}/expert"}}')
    (tmp_path / "README.md").write_text(f"data{Path.home()}/x {tmp_path}/exp-2")
    smoke.check_texts(tmp_path, tmp_path / "exp")


def exported(capsys, *arguments):
    code = run(cli, ["export", *map(str, arguments)], "speechbrain-ext")
    return code, *capsys.readouterr()


def test_what_is_no_scored_experiment_is_refused(exp, codecs, tmp_path, capsys):
    code, _, err = exported(capsys, tmp_path)
    assert code == 2
    assert "is no experiment" in err
    bare = shutil.copytree(exp, tmp_path / "bare")
    (bare / "results.json").unlink()
    code, _, err = exported(capsys, bare)
    assert code == 2
    assert "no results.json" in err
    assert "--stage score" in err
    edited = shutil.copytree(codecs["seanet"], tmp_path / "edited")
    text = (edited / "results.json").read_text()
    (edited / "results.json").write_text(text.replace("3.0", "9.0", 1))
    code, _, err = exported(capsys, edited)
    assert code == 2
    assert not (edited / "export").exists()


def test_onnx_of_a_codec_says_that_it_is_for_speaker_models(codecs, capsys):
    code, *_, err = exported(capsys, codecs["seanet"], "--format", "onnx")
    assert code == 2
    assert "ONNX are for speaker models" in err
    assert f"speechbrain-ext export {codecs['seanet']}" in err


def test_figures_of_other_weights_are_refused(exp, codecs, tmp_path, capsys):
    for source, key, value, stage in (
        (exp, "checkpoint", "0" * 16, "embed"),
        (codecs["seanet"], "epoch", 1, "evaluate"),
        (codecs["seanet"], "config_hash", "0" * 64, "evaluate"),
    ):
        copy = shutil.copytree(source, tmp_path / f"{source.name}_{key}")
        results = json.loads((copy / "results.json").read_text())
        results["conditions"][key] = value
        if source == exp:
            results["digest"] = digest_of(results)
        (copy / "results.json").write_text(json.dumps(results))
        code, _, err = exported(capsys, copy)
        assert code == 2
        assert "of other weights" in err
        assert f"--stage {stage} --force" in err


def test_another_folder_is_never_written_over(codecs, tmp_path, capsys):
    mine, model, clone = (tmp_path / name for name in ("mine", "model", "clone"))
    for folder, name, text in (
        (mine, "mine.txt", "dear"),
        (model, "config.json", '{"architectures": ["Wav2Vec2Model"]}'),
        (model, "weights.bin", "dear"),
        (clone, "config.json", json.dumps({"format": FORMAT})),
        (clone, ".git/config", "the history"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for folder in (mine, model, clone):
        before = names(folder)
        code, _, err = exported(capsys, codecs["seanet"], "--output", folder)
        assert code == 2
        assert "something else than an earlier export" in err
        assert names(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stock"], "--stock is for speaker models"),
        (["--onnx_from", "waveform"], "--onnx_from is for speaker models"),
        (["--public"], "--push_to_hub uploads"),
        (["--push_to_hub", "nobody"], "takes USER/REPO, got 'nobody'"),
        (["--format", "onnx", "--stock"], "and nothing else"),
    ],
)
def test_options_that_do_not_fit_are_explained(
    codecs, tmp_path, capsys, arguments, message
):
    code, _, err = exported(
        capsys, codecs["seanet"], "--output", tmp_path / "x", *arguments
    )
    assert code == 2
    assert message in err
    assert not list(tmp_path.iterdir())


def test_what_has_no_known_licence_is_not_uploaded(codecs, tmp_path, capsys):
    words = ["--output", tmp_path / "x", "--push_to_hub", "me/model"]
    code, _, err = exported(capsys, codecs["seanet"], *words)
    assert code == 2
    assert "--license cc-by-4.0" in err
    assert not list(tmp_path.iterdir())


def test_a_missing_package_leaves_onnx_out(exp, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="onnxruntime not installed"):
        export(exp, tmp_path / "x", onnx="features", log=quiet)
    assert not list(tmp_path.iterdir())


# -- the recipe of the model ---------------------------------------------------------

TREE = """\
rate: 16000
bands: 8
unused: !ref <rate>
parts:
    scale: !ref <bands>
    net: !new:torch.nn.Linear
        in_features: !ref <parts[scale]>
        out_features: 2
outer: !new:torch.nn.Sequential
    - !ref <parts[net]>
    - !new:torch.nn.ReLU {}
modules:
    net: !ref <outer>
model_of_mine: 3
"""


def test_a_cut_keeps_what_is_referred_to_and_no_more():
    text = cut(TREE, {"model": "modules.net"})
    found = load_hyperpyyaml(text)
    assert list(found) == ["bands", "parts", "outer", "model"]
    assert found["model"][0] is found["parts"]["net"]
    assert targets(text) == ["torch.nn.Linear", "torch.nn.ReLU", "torch.nn.Sequential"]


def test_a_cut_says_what_is_not_there_or_in_the_way():
    with pytest.raises(UserError, match="no modules.codec"):
        cut(TREE, {"model": "modules.codec"})
    with pytest.raises(UserError, match="key 'bands' is in the way"):
        cut(TREE, {"bands": "modules.net"})
