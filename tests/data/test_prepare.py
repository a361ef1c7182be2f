import json
from functools import partial

import numpy as np
import pytest
import soundfile

from speechbrain_ext.data import convert
from speechbrain_ext.data.corpora import Item
from speechbrain_ext.data.corpora.folder import FolderCorpus
from speechbrain_ext.data.manifest import read_manifest, verify_manifest
from speechbrain_ext.data.prepare import Settings, prepare
from speechbrain_ext.errors import UserError, WorkError

NUM_FILES = 12


def noise(seed, seconds=0.3, rate=16000):
    return np.random.default_rng(seed).uniform(-0.3, 0.3, int(seconds * rate))


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "my recordings"
    folder.mkdir()
    for index in range(NUM_FILES):
        soundfile.write(folder / f"r{index:02d}.wav", noise(index), 16000)
    return folder


def run(recordings, folder, nj=1, **settings):
    items = FolderCorpus().items(folder / "raw", recordings)
    return prepare(items, folder, Settings(**settings), nj=nj, log=lambda line: None)


def contents(folder):
    """All files with their bytes, but not the journal, which holds times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".journal.jsonl"
    }


def test_a_folder_becomes_three_manifests_of_whole_files(recordings, tmp_path):
    summary = run(recordings, tmp_path / "data")
    assert summary.num_utterances == {"train": 6, "valid": 3, "test": 3}
    names = set()
    for role in ("train", "valid", "test"):
        for utt_id, utterance in verify_manifest(
            tmp_path / f"data/{role}.json"
        ).items():
            assert utterance.duration == pytest.approx(0.3)
            assert soundfile.info(utterance.wav).subtype == "PCM_16"
            names.add(utt_id)
    assert names == {f"r{index:02d}" for index in range(NUM_FILES)}
    text = (tmp_path / "data/rejected.tsv").read_text()
    assert text == "utt_id\tpath\treason\n"


def test_other_rates_and_channels_become_16_khz_mono(tmp_path):
    stereo = np.stack([noise(1, 1.0, 44100), noise(2, 1.0, 44100)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 44100)
    target = tmp_path / "out.wav"
    num_samples, _, reason = convert.convert(
        Item("a", tmp_path / "a.wav"), target, 16000
    )
    info = soundfile.info(target)
    assert reason is None
    assert (info.samplerate, info.channels, info.frames) == (16000, 1, num_samples)
    assert num_samples == 16000


def test_a_tone_above_the_new_band_is_rejected_as_silence(tmp_path):
    tone = 0.001 * np.sin(2 * np.pi * 20000 * np.arange(48000) / 48000)
    quiet_ends = tone * np.hanning(48000)
    soundfile.write(tmp_path / "a.wav", quiet_ends, 48000, subtype="FLOAT")
    item = Item("a", tmp_path / "a.wav")
    assert convert.convert(item, tmp_path / "b.wav", 16000)[2].startswith("all zero")
    assert not (tmp_path / "b.wav").exists()


def test_jobs_and_a_second_run_do_not_change_a_byte(recordings, tmp_path):
    run(recordings, tmp_path / "one")
    run(recordings, tmp_path / "three", nj=3)
    first = contents(tmp_path / "one")
    assert contents(tmp_path / "three") == first
    assert run(recordings, tmp_path / "one").num_reused == NUM_FILES
    assert contents(tmp_path / "one") == first


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_anywhere_and_run_again_gives_the_same_bytes(
    recordings, tmp_path, run_killed_at
):
    for index in range(5, NUM_FILES):
        (recordings / f"r{index:02d}.wav").unlink()
    (recordings / "bad.wav").write_text("not found")
    run(recordings, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    num_kills = 0
    for number in range(100):
        folder = tmp_path / f"killed{number}"
        if run_killed_at(partial(run, recordings, folder), number) == 0:
            break
        num_kills += 1
        run(recordings, folder)
        assert contents(folder) == expected
    # Each recording is written and settled; three manifests, two listings, a journal.
    assert num_kills == 2 * 5 + 6


def test_ctrl_c_keeps_what_is_done(recordings, tmp_path, monkeypatch):
    whole = convert.convert
    calls = []

    def interrupted(item, *args):
        calls.append(item)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return whole(item, *args)

    monkeypatch.setattr(convert, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(recordings, tmp_path / "data")
    monkeypatch.setattr(convert, "convert", whole)
    assert run(recordings, tmp_path / "data").num_reused == 5


def test_only_changed_recordings_are_converted_again(recordings, tmp_path):
    run(recordings, tmp_path / "data")
    soundfile.write(recordings / "r03.wav", noise(99), 16000)
    assert run(recordings, tmp_path / "data").num_reused == NUM_FILES - 1
    run(recordings, tmp_path / "fresh")
    assert contents(tmp_path / "data") == contents(tmp_path / "fresh")


def test_damaged_output_is_made_again(recordings, tmp_path):
    run(recordings, tmp_path / "data")
    expected = contents(tmp_path / "data")
    (tmp_path / "data/wav/r01.wav").write_bytes(b"RIFF")
    (tmp_path / "data/wav/r02.wav").unlink()
    run(recordings, tmp_path / "data")
    assert contents(tmp_path / "data") == expected


def test_recordings_that_are_gone_leave_the_data_folder(recordings, tmp_path):
    run(recordings, tmp_path / "data")
    (recordings / "r05.wav").unlink()
    run(recordings, tmp_path / "data")
    run(recordings, tmp_path / "fresh")
    assert contents(tmp_path / "data") == contents(tmp_path / "fresh")


def test_too_many_rejections_stop_and_leave_the_earlier_data(recordings, tmp_path):
    run(recordings, tmp_path / "data")
    before = contents(tmp_path / "data")
    soundfile.write(recordings / "r00.wav", noise(50), 16000)
    for index in range(1, 5):
        (recordings / f"r{index:02d}.wav").write_bytes(b"")
    with pytest.raises(WorkError, match="4 of 12 recordings rejected"):
        run(recordings, tmp_path / "data")
    after = contents(tmp_path / "data")
    assert b"r04.wav\tempty" in after.pop("rejected.failed.tsv")
    after = {k: v for k, v in after.items() if not k.startswith(".staging")}
    assert after == before
    assert len(verify_manifest(tmp_path / "data/train.json")) == 6


def test_a_raised_limit_goes_on_and_lists_what_was_left_out(recordings, tmp_path):
    for index in range(4):
        (recordings / f"r{index:02d}.wav").write_bytes(b"")
    summary = run(recordings, tmp_path / "data", max_rejected=0.4)
    assert sum(summary.num_utterances.values()) == 8
    lines = (tmp_path / "data/rejected.tsv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("r00\t")
    assert not (tmp_path / "data/wav/r00.wav").exists()


def test_a_folder_of_broken_files_is_exit_code_1(tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(5):
        (tmp_path / f"in/{index}.wav").write_text("<html>")
    for limit in (0.2, 1.0):
        with pytest.raises(WorkError) as caught:
            run(tmp_path / "in", tmp_path / "data", max_rejected=limit)
        assert caught.value.exit_code == 1


def test_the_same_audio_is_never_on_both_sides(recordings, tmp_path):
    # A copy in another format, one under another name.
    wav, _ = soundfile.read(recordings / "r00.wav")
    soundfile.write(recordings / "z.flac", wav, 16000, subtype="PCM_16")
    (recordings / "y.wav").write_bytes((recordings / "r00.wav").read_bytes())
    summary = run(recordings, tmp_path / "data")
    assert summary.num_copies == 2
    assert not summary.rejected
    hashes = [
        utterance.sha256
        for role in ("train", "valid", "test")
        for utterance in read_manifest(tmp_path / f"data/{role}.json").values()
    ]
    assert len(set(hashes)) == len(hashes) == NUM_FILES
    assert "z\t" in (tmp_path / "data/rejected.tsv").read_text()


def test_faults_that_the_corpus_sees_are_rejected_with_its_reason(recordings, tmp_path):
    items = list(FolderCorpus().items(tmp_path, recordings))
    items.append(Item("x", items[0].path, fault="wrongly labelled: not in the index"))
    items.append(Item(items[0].utt_id, items[1].path))
    summary = prepare(items, tmp_path / "data", log=lambda line: None)
    reasons = {row.utt_id: row.reason for row in summary.rejected}
    assert reasons["x"] == "wrongly labelled: not in the index"
    assert "second recording" in reasons[items[0].utt_id]


def test_an_empty_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match="no recording at all"):
        prepare([], tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_folder_with_foreign_audio_is_not_written_to(recordings, tmp_path):
    (tmp_path / "data/wav").mkdir(parents=True)
    (tmp_path / "data/wav/mine.wav").touch()
    with pytest.raises(UserError, match="choose another --datadir"):
        run(recordings, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").rglob("*.wav")] == ["mine.wav"]


def test_prepared_audio_is_not_taken_for_recordings(recordings):
    run(recordings, recordings / "data")
    with pytest.raises(UserError, match="is prepared audio"):
        run(recordings, recordings / "data")


def test_two_runs_at_once_do_not_mix(recordings, tmp_path):
    def items():
        yield from FolderCorpus().items(tmp_path, recordings)

    import fcntl

    (tmp_path / "data").mkdir()
    with open(tmp_path / "data/.journal.jsonl", "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run"):
            prepare(items(), tmp_path / "data")


def test_the_command_is_kept_for_later_messages(recordings, tmp_path):
    items = FolderCorpus().items(tmp_path, recordings)
    prepare(items, tmp_path / "data", command="python x.py", log=lambda line: None)
    state = json.loads((tmp_path / "data/prepare.json").read_text())
    assert state["command"] == "python x.py"
    assert state["split"] == "utterance"
