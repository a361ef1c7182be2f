"""What tells of a machine or a person never gets into a bundle."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from speechbrain_ext.errors import UserError
from speechbrain_ext.sharing.bundle import pack
from speechbrain_ext.sharing.bundle.privacy import (
    Machine,
    clean_environment,
    clean_results,
    find_private,
    refuse_private,
    without_paths,
)
from tests.sharing.bundles import npz, safetensors, scores

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "speaker" / "ecapa_mini.yaml"
HERE = Machine(
    {"zoltan": "user name", "weatherwax": "host name"},
    {
        "/srv/zoltan": "home folder",
        "correct-horse": "value of the environment variable API_TOKEN",
        "git@example.org:zoltan/x.git": "git remote",
    },
)
TOKEN = "hf_" + "a1B2" * 6


def found(text, name="train_log.txt", **kwargs):
    return find_private({name: text.encode()}, HERE, **kwargs)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("see /home/ann/wav/1.wav", "absolute path /home/ann/wav/1.wav"),
        ('{"dump": "/data"}', "absolute path /data"),
        ("a file:///srv/x", "absolute path file:///srv/x"),
        ("cd /tmp/pytest-1/x", "absolute path /tmp/pytest-1/x"),
        ("in ~/speech/x", "absolute path ~/speech/x"),
        ("in C:\\Users\\ann", "absolute path C:\\Users\\ann"),
        ("by zoltan.", "user name 'zoltan'"),
        ("x@weatherwax:", "host name 'weatherwax'"),
        ("=/srv/zoltan", "home folder"),
        ("p=correct-horse", "environment variable API_TOKEN corr..."),
        ("git@example.org:zoltan/x.git", "git remote"),
        (f"token {TOKEN}", "token of the Hugging Face Hub hf_a..."),
        ("sk-abcdefghij0123456789", "API key sk-a..."),
        ("AKIAIOSFODNN7EXAMPLE", "AWS key AKIA..."),
        ("ghp_" + "a" * 36, "GitHub token ghp_..."),
        ("https://u:pw@host.org/x", "address with a password"),
        ("-----BEGIN RSA PRIVATE KEY-----", "private key"),
    ],
)
def test_it_is_found_in_text_and_no_secret_is_told_again(text, what):
    hits = found(text)
    assert any(what in hit for hit in hits), hits
    told = "".join(hits)
    assert TOKEN not in told
    assert "correct-horse" not in told


@pytest.mark.parametrize(
    "text",
    [
        "https://arxiv.org/abs/1904.03479 and and/or 3/4, m/s, n_fft // 2, a / b",
        "save_folder: !ref <output_folder>/save/averaged",
        "../data/x.json ./run.sh exp/a/b.zip recipes/speaker/train.py",
        "#!/usr/bin/env python",
        "zoltanic weatherwaxed task-learning-rate-is-not-a-key",
        "{output_folder}/debug_nan/dump",
    ],
)
def test_what_tells_nothing_passes(text):
    assert found(text) == []


def test_a_home_folder_is_not_the_end_of_a_relative_path():
    machine = Machine(literals={"/root": "home folder"})
    assert find_private({"a": b"./run.sh --data_folder=data/raw/root"}, machine) == []
    for text in (b"--data_folder=/root", b"/root/raw", b'"/root"'):
        assert find_private({"a": text}, machine), text


def test_it_is_found_in_arrays_weights_and_names():
    ids = np.array(["zoltan", "b"])
    assert found_in("scores/a.npz", npz(**scores(ids=ids)))
    ids = np.array(["x", "/home/zoltan/b"])
    assert found_in("scores/a.npz", npz(**scores(ids=ids)))
    header = {"__metadata__": {"made": "/srv/zoltan/x"}}
    assert found_in("model.safetensors", safetensors(header))
    tensor = {"a": {"dtype": "U8", "shape": [13], "data_offsets": [0, 13]}}
    assert found_in("model.safetensors", safetensors(tensor, b"correct-horse"))
    assert found_in("scores/zoltan_main.npz", npz(**scores()))


def found_in(name, data):
    return find_private({name: data}, HERE)


def test_a_name_that_is_something_else_here_can_be_kept():
    with pytest.raises(UserError, match="--keep zoltan"):
        refuse_private({"speakers.json": b'["zoltan"]'}, HERE)
    refuse_private({"speakers.json": b'["zoltan"]'}, HERE, keep=["zoltan"])
    with pytest.raises(UserError, match="absolute path"):
        refuse_private({"a.txt": b"/home/zoltan/x"}, HERE, keep=["zoltan"])


def test_this_machine_is_known(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "swordfish-9")
    monkeypatch.setenv("USER", "esmeralda")
    monkeypatch.setenv("EDITOR_KEYS", "emacs-keys")
    here = Machine.here()
    assert here.literals["swordfish-9"].endswith("MY_SECRET")
    assert str(Path.cwd()) in here.literals
    assert here.names["esmeralda"] == "user name"
    assert "emacs-keys" not in here.literals
    assert "root" not in here.names


def test_canaries_planted_everywhere_are_in_no_byte_of_a_recipe_bundle(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HUB_TOKEN", "canary-of-the-environment")
    monkeypatch.chdir(tmp_path)
    words = [f"--output_folder={tmp_path}/exp", "--train_manifest=/home/canary/t.json"]
    words += ["--noise_folder=/home/canary/musan", "--init_from=/home/canary/e.ckpt"]
    packed = pack(RECIPE, tmp_path / "out.zip", overrides=words)
    with zipfile.ZipFile(packed.path) as archive:
        texts = [archive.read(name) for name in archive.namelist()]
        manifest = json.loads(archive.read("manifest.json"))
    everything = b"".join([*texts, packed.path.read_bytes()])
    for canary in (b"canary", str(tmp_path).encode(), b"/home/", TOKEN.encode()):
        assert canary not in everything
    assert {"noise_folder", "init_from", "output_folder"} <= set(manifest["inputs"])


@pytest.mark.parametrize(
    "word",
    [f"--wandb={TOKEN}", "--wandb=canary-of-the-environment", "--wandb=zoltan"],
)
def test_nothing_is_written_if_a_recipe_holds_one(tmp_path, monkeypatch, word):
    monkeypatch.setenv("HUB_TOKEN", "canary-of-the-environment")
    monkeypatch.setenv("USER", "zoltan")
    with pytest.raises(UserError, match="nothing was written") as refused:
        pack(RECIPE, tmp_path / "out.zip", overrides=[word])
    assert TOKEN not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_results_keep_their_figures_and_lose_their_paths():
    results = {
        "command": "./run.sh '--data_folder=/home/a b/c' --tag=x /srv/y",
        "left_out": [
            {
                "utt_id": "u",
                "reason": "NaN in /srv/a/b.wav",
                "cause": None,
                "dump": "/d",
            }
        ],
        "nan_trials": {"named": [{"file": "home/ann/x.wav, home/ann/y.wav"}]},
        "systems": [1],
        "digest": "old",
    }
    cleaned = clean_results(results)
    assert cleaned["command"] == "./run.sh --data_folder=PATH --tag=x PATH"
    assert cleaned["left_out"][0]["dump"] is None
    assert cleaned["left_out"][0]["reason"] == "NaN in PATH"
    assert cleaned["nan_trials"]["named"][0]["file"] == "x.wav, y.wav"
    assert cleaned["systems"] == [1]
    assert results["left_out"][0]["dump"] == "/d"
    assert without_paths("it's ~/x/y") == "it's PATH"


def test_an_environment_keeps_versions_and_processor_only():
    kept = clean_environment(
        {
            "versions": {"torch": "2"},
            "git": {"commit": "a", "dirty": False, "remote": "git@x:y"},
            "threads": 2,
            "hostname": "weatherwax",
            "run_opts": {"device": "cpu", "log_config": "/home/x.yaml"},
        }
    )
    assert kept["git"] == {"commit": "a", "dirty": False}
    assert kept["run_opts"] == {"device": "cpu"}
    assert "hostname" not in kept
