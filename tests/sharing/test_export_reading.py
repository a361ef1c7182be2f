"""What is opened is what was exported; the rest is refused, and nothing fetched."""

import json
import pickle
import shutil
import sys
import types

import numpy as np
import pytest
import torch

from speechbrain_ext.data.audio import AudioError
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.files import sha256_file
from speechbrain_ext.inference import SpeakerVerifier, SpeechCodec
from speechbrain_ext.inference.folder import FORMAT
from speechbrain_ext.inference.source import find_folder
from speechbrain_ext.sharing.export import export, outputs, smoke
from speechbrain_ext.sharing.export.hub import check_target, push
from tests.sharing import toy_experiments
from tests.tasks.voices import voice


def in_this_process(folder, words, signals, sample_rate, allow=()):
    return outputs.compute(outputs.open_model(folder, words[-1]), signals, sample_rate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("codec")
    exp = toy_experiments.codec_experiment(root / "exp", toy_experiments.TRANSFORM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smoke, "run_probe", in_this_process)
        return export(exp, root / "model", log=lambda line: None)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def codec(folder):
    return SpeechCodec.from_hparams(folder, device="cpu")


# -- files ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "model.yaml"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "pickled"])
def test_a_damaged_file_is_named(copy, name, damage):
    path = copy / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        changed = data[:-1] + bytes([data[-1] ^ 1])
        new = {"truncated": data[: len(data) // 2], "changed": changed}
        path.write_bytes(new.get(damage, pickle.dumps({"weight": 1})))
    with pytest.raises(
        UserError, match=rf"{name}: (.|\n)*get the whole folder again"
    ) as found:
        SpeechCodec.from_hparams(copy, device="cpu")
    assert "\n\n" not in str(found.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"format": "other"}',
        "[" * 9999,
        "\xff",
        *(
            json.dumps({"format": FORMAT, "task": "codec", "files": {}})[:-1]
            + f', "sample_rate": {r}}}'
            for r in ("Infinity", "-1", '"16000"', "1e9", "true")
        ),
    ],
)
def test_a_config_of_something_else_is_told(copy, text):
    (copy / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="not written by speechbrain-ext export"):
        SpeechCodec.from_hparams(copy, device="cpu")


def test_a_model_of_the_other_task_names_its_class(folder):
    with pytest.raises(UserError, match=r"SpeechCodec\.from_hparams"):
        SpeakerVerifier.from_hparams(folder, device="cpu")


def test_a_model_of_another_kind_is_told(copy):
    (copy / "model.yaml").write_text("model: !new:torch.nn.Linear [3, 4]\n")
    config = json.loads((copy / "config.json").read_text())
    config["files"]["model.yaml"] = sha256_file(copy / "model.yaml")
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="Linear has no sample_rate, bitrates"):
        SpeechCodec.from_hparams(copy, device="cpu")


def test_weights_of_another_model_are_told(copy):
    text = (copy / "model.yaml").read_text().replace("width: 16", "width: 8")
    (copy / "model.yaml").write_text(text)
    config = json.loads((copy / "config.json").read_text())
    config["files"]["model.yaml"] = sha256_file(copy / "model.yaml")
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model\.safetensors does not fit model\.yaml"):
        SpeechCodec.from_hparams(copy, device="cpu")


def test_a_recipe_that_is_not_strict_is_refused_and_runs_nothing(copy, tmp_path):
    canary = tmp_path / "canary"
    (copy / "model.yaml").write_text(
        f"model: !!python/object/apply:os.system ['touch {canary}']\n"
    )
    config = json.loads((copy / "config.json").read_text())
    config["files"]["model.yaml"] = sha256_file(copy / "model.yaml")
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError):
        SpeechCodec.from_hparams(copy, device="cpu")
    assert not canary.exists()


# -- the codec -----------------------------------------------------------------------


def test_codes_and_waveforms_are_the_models(codec):
    wav = voice(1, 2)
    with torch.no_grad():
        codes = codec.codec.encode(torch.from_numpy(wav)[None])
        again = codec.codec.decode(codes, length=len(wav))[0].numpy()
    assert np.array_equal(codec.encode(wav, 16000), codes[0].numpy())
    assert np.array_equal(codec.reconstruct(wav, 16000), again)
    first = codec.encode(wav, 16000, kbps=codec.bitrates[1])
    assert np.array_equal(first, codes[0, :2].numpy())
    noise = np.abs(codec.reconstruct(wav, 16000, kbps=codec.bitrates[0]) - wav).mean()
    assert np.abs(again - wav).mean() < noise


def test_a_batch_is_each_of_its_items(codec):
    wavs = np.stack([voice(1, 1), voice(2, 1)])
    codes = codec.encode(wavs, 16000)
    assert np.array_equal(codes[1], codec.encode(wavs[1], 16000))
    assert np.allclose(codec.decode(codes)[1], codec.decode(codes[1]), atol=1e-6)
    assert codec.reconstruct(torch.from_numpy(wavs), 16000).shape == wavs.shape


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_any_rate_goes_in_and_the_codecs_comes_out(codec, rate):
    found = codec.reconstruct(np.zeros(rate // 2, np.float32), rate)
    assert found.shape == (8000,)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 1e-2  # silence is speech like any other
    assert codec.reconstruct(np.full(1, 0.1), 16000).shape == (1,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e4])
def test_samples_that_are_none_are_refused(codec, bad):
    wav = voice(1, 1)
    wav[5] = bad
    with pytest.raises(AudioError):
        codec.encode(wav, 16000)
    with pytest.raises(AudioError, match="empty"):
        codec.encode(np.zeros(0), 16000)


@pytest.mark.parametrize("wav", [np.zeros((1, 1, 9)), np.float32(0), np.zeros(9, int)])
def test_another_shape_or_type_is_a_value_error(codec, wav):
    with pytest.raises(ValueError, match="wav must be float"):
        codec.encode(wav, 16000)


def test_a_rate_that_there_is_not_names_those_that_there_are(codec):
    with pytest.raises(ValueError, match="kbps must be between"):
        codec.encode(voice(1, 1), 16000, kbps=99)


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((2, 3)),
        np.zeros(5, int),
        np.zeros((0, 5), int),
        np.zeros((2, 0), int),
        np.zeros((9, 5), int),
        np.full((2, 5), -1),
        np.full((2, 5), 16),
    ],
)
def test_codes_of_no_such_codec_are_refused(codec, codes):
    with pytest.raises(ValueError, match="SpeechCodec: codes must"):
        codec.decode(codes)


# -- the Hub -------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """Put a Hub in place of the real package; nothing reaches the network."""
    fake = types.ModuleType("huggingface_hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_elsewhere")
def test_a_name_is_downloaded_without_anything_that_could_be_code(hub, folder):
    asked = {}

    def snapshot_download(name, **options):
        asked.update(options, name=name)
        return str(folder)

    hub.snapshot_download = snapshot_download
    codec = SpeechCodec.from_hparams("someone/codec", device="cpu", revision="v1")
    assert codec.encode(voice(1, 1), 16000).shape[0] == 8
    assert (asked["name"], asked["revision"]) == ("someone/codec", "v1")
    assert {name.rpartition(".")[2] for name in asked["allow_patterns"]} == {
        "json", "yaml", "safetensors",
    }  # fmt: skip
    assert not any("*" in name for name in asked["allow_patterns"])


@pytest.mark.usefixtures("_elsewhere")
def test_a_name_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'speechbrain-ext\[hub\]'"):
        SpeechCodec.from_hparams("someone/codec")


@pytest.mark.usefixtures("_elsewhere")
def test_what_the_hub_refuses_is_one_message(hub):
    def snapshot_download(name, **options):
        raise OSError("401 Client Error\nmany\nlines")

    hub.snapshot_download = snapshot_download
    with pytest.raises(
        UserError, match="can't be had at revision x: 401 Client Error\n  Next"
    ):
        SpeakerVerifier.from_hparams("someone/else", revision="x")


def test_a_folder_is_never_looked_for_on_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp").mkdir()
    (tmp_path / "file").touch()
    assert find_folder("exp").name == "exp"
    for name, message in (
        ("exp/gone", "exp is a folder here"),
        ("/exp/gone/far", "no such folder, and no name of"),
        ("gone", "no such folder, and no name of"),
        ("../../gone", "no such folder"),
        ("file", "is a file"),
    ):
        with pytest.raises(UserError, match=message):
            find_folder(name)
    with pytest.raises(UserError, match="has no revision"):
        find_folder("exp", revision="main")


def answered(status):
    """An error of the Hub as huggingface_hub raises it."""
    error = OSError("Got: something\nof many lines")
    error.response = types.SimpleNamespace(status_code=status)
    return error


def named(name, text="Got: ConnectError: [Errno -2]\nmore"):
    return type(name, (Exception,), {})(text)


CAUSES = [
    (named("LocalTokenNotFoundError"), "nobody is logged in"),
    (answered(401), "does not know this token"),
    (answered(403), r"no right to do that at me/codec \(403\)"),
    (answered(404), "there is no me/codec"),
    (answered(400), "takes no such name"),
    (named("HFValidationError", "no --"), "takes no such name: no --"),
    (named("LocalEntryNotFoundError"), "can't be reached: no network"),
    (ConnectionError("offline mode"), "can't be reached: no network"),
    (answered(500), "Got: something"),
]


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(("error", "message"), CAUSES)
def test_each_cause_has_its_own_ending_wherever_the_hub_is_asked(
    hub, copy, error, message
):
    def fail(*args, **options):
        raise error

    hub.snapshot_download = fail
    hub.HfApi = lambda: types.SimpleNamespace(whoami=fail, create_repo=fail)
    for asks in (
        lambda: find_folder("me/codec"),
        lambda: check_target("me/codec"),
        lambda: push(copy, "me/codec", log=lambda line: None),
    ):
        with pytest.raises(UserError, match=f"{message}(.|\n)*Next: ") as found:
            asks()
        assert len(str(found.value).splitlines()) == 2


@pytest.mark.parametrize("name", ["me/x--y", "me/x.git", "me/x-", "me/" + "x" * 99])
def test_a_name_that_the_hub_would_not_take_is_told_without_asking_it(hub, name):
    with pytest.raises(UserError, match="takes USER/REPO, got"):
        check_target(name)


def test_who_may_not_write_is_told_before_anything_is_computed(hub):
    who = {"name": "Me", "orgs": [{"name": "lab"}]}
    hub.HfApi = lambda: types.SimpleNamespace(whoami=lambda: who)
    check_target("me/codec")
    check_target("lab/codec")
    with pytest.raises(UserError, match=r"may write to Me, lab, not to you(.|\n)*Me/x"):
        check_target("you/x")


class FakeApi:
    """Remembers what is done to it."""

    def __init__(self, private=True, error=None):
        self.private, self.error, self.done = private, error, []

    def create_repo(self, name, **options):
        if self.error:
            raise self.error
        self.done.append(("create", name, options))

    def repo_info(self, name):
        return types.SimpleNamespace(private=self.private)

    def upload_folder(self, **options):
        self.done.append(("upload", options["repo_id"], options))
        return types.SimpleNamespace(oid="abc")


@pytest.mark.parametrize("public", [False, True])
def test_a_push_says_what_it_uploads_and_is_private_unless_told(hub, copy, public):
    (copy / "secret.txt").write_text("not of the export")
    api, lines = FakeApi(private=not public), []
    hub.HfApi = lambda: api
    address = push(copy, "me/codec", public=public, log=lines.append)
    assert address == "https://huggingface.co/me/codec"
    (create, upload) = api.done
    assert create == ("create", "me/codec", {"private": not public, "exist_ok": True})
    assert upload[2]["folder_path"] == str(copy)
    wanted = {"README.md", "config.json", "model.yaml", "model.safetensors"}
    assert set(upload[2]["allow_patterns"]) == wanted
    told = "\n".join(lines)
    assert "to me/codec (public)" in told if public else "(private)" in told
    assert all(name in told for name in wanted)
    assert "secret" not in told


def test_nothing_goes_to_a_public_repository_without_the_word(hub, copy):
    api = FakeApi(private=False)
    hub.HfApi = lambda: api
    with pytest.raises(UserError, match="public, so nothing was uploaded"):
        push(copy, "me/codec", log=lambda line: None)
    assert [step for step, *_ in api.done] == ["create"]


def test_a_hub_that_refuses_leaves_the_folder_and_one_message(hub, copy):
    hub.HfApi = lambda: FakeApi(error=OSError("401 Unauthorized\n trace"))
    with pytest.raises(WorkError, match="was not uploaded: 401 Unauthorized\n.*whole"):
        push(copy, "me/codec", log=lambda line: None)
    assert (copy / "model.safetensors").exists()
