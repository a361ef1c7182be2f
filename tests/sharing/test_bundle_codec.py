"""A codec's result as a bundle: means from files, and measured again by ear."""

import concurrent.futures
import hashlib
import json
import re
import shutil

import pytest
from safetensors.numpy import load

from speechbrain_ext.sharing.bundle import pack, unpack, verify
from speechbrain_ext.sharing.card import render_card
from speechbrain_ext.tasks.author import tell_author
from speechbrain_ext.tasks.codec.evaluate import evaluate
from speechbrain_ext.tasks.codec.train import train
from tests.sharing.test_bundle import edited, failed, members_of
from tests.tasks.test_codec_task import data, recipe

__all__ = ["data"]  # a fixture


@pytest.fixture(scope="module", autouse=True)
def _measured_in_a_thread():
    """Starting a process that measures takes seconds; here are seconds of audio."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            concurrent.futures,
            "ProcessPoolExecutor",
            lambda jobs, mp_context: concurrent.futures.ThreadPoolExecutor(jobs),
        )
        yield


@pytest.fixture(scope="module")
def shared(data, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("codec")
    train(recipe(data, folder / "tiny", number_of_epochs=1))
    results = evaluate(folder / "tiny", data / "test.json", jobs=1)
    return results, pack(folder / "tiny", folder / "tiny.zip")


def test_elsewhere_the_codec_gives_the_same_figures(shared, data, tmp_path):  # noqa: F811
    results, packed = shared
    assert json.loads(members_of(packed.path)["manifest.json"])["task"] == "codec"
    assert verify(packed.path).ok
    members = members_of(packed.path)
    [weights] = re.findall(
        r"model.safetensors, SHA-256 \| (\w+) ", members["README.md"].decode()
    )
    assert weights == hashlib.sha256(members["model.safetensors"]).hexdigest()
    count = results["conditions"]["parameters"] + results["conditions"]["buffers"]
    assert count == sum(t.size for t in load(members["model.safetensors"]).values())
    there = unpack(packed.path, tmp_path / "there")
    again = evaluate(there, data / "test.json", jobs=1)
    assert again["systems"] == results["systems"]
    for key in ("config_hash", "split_hash", "valid_snr_db", "epoch"):
        assert again["conditions"][key] == results["conditions"][key]


def test_scored_elsewhere_nothing_is_a_zero_that_nobody_counted(shared, data, tmp_path):  # noqa: F811
    def counted(results):
        results["command"] = "./run.sh --tag=authors"
        results["health"] = {"rejected_files": 402, "rejected_batches": 4}
        results["left_out"] = [{"utt_id": "bad", "reason": "NaN", "dump": None}]

    bundle = edited(shared[1].path, counted, tmp_path / "a.zip")
    there = unpack(bundle, tmp_path / "there")
    unknown = shutil.copytree(there, tmp_path / "unknown")
    authors = (there / "README.md").read_text()
    again = evaluate(there, data / "test.json", jobs=1)
    twice = {**again, "health": {"rejected_files": 0, "rejected_batches": 0}}
    tell_author(twice, there, there / "save")
    assert twice["health"] == again["health"]
    assert again["health"] == {"rejected_files": 402, "rejected_batches": 4}
    assert [entry["utt_id"] for entry in again["left_out"]] == ["bad"]
    card = render_card(again, name="x")
    assert "| rejected files | 402 (by the bundle's author) |" in card
    assert f"| weights from bundle | {verify(bundle).digest} |" in card
    assert "./run.sh --tag=authors" in card
    assert not (there / "README.md").exists()
    assert (there / "author" / "README.md").read_text() == authors

    (unknown / "results.json").unlink()
    tell_author(twice, unknown, unknown / "save")
    card = render_card(twice, name="x")
    assert "| rejected batches | not recorded |" in card
    assert "how they were trained was not recorded" in card


def test_an_edited_mean_and_an_edited_file_are_found(shared, data, tmp_path):  # noqa: F811
    def mean(results):
        results["systems"][0]["mean"]["snr_db"] += 1

    def file_and_mean(results):
        for system in results["systems"]:
            for file in system["files"]:
                file["snr_db"] += 1
            system["mean"]["snr_db"] += 1

    path = shared[1].path
    text = failed(verify(edited(path, mean, tmp_path / "a.zip")))
    assert "mean.snr_db: is" in text
    assert "the files give" in text
    both = edited(path, file_and_mean, tmp_path / "b.zip")
    assert "snr_db: is" in failed(verify(both, data=data))
