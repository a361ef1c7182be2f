"""Promises of a data folder for speaker verification."""

import json
import os
import shutil
from collections import defaultdict
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import soundfile

from speechbrain_ext.data import convert
from speechbrain_ext.data.corpora import Item, Speaker
from speechbrain_ext.data.manifest import ManifestError, read_manifest, verify_manifest
from speechbrain_ext.data.speakers import SpeakerSettings, find_leaks, prepare_speakers
from speechbrain_ext.data.speakers.folder import SplitSettings
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.scoring.trials import read_trials

RATE = 16000
MANIFESTS = ("train", "valid", "cohort", "test")
#: A third of the usual length: the same joints, a third of the time.
SMALL = SpeakerSettings(
    min_test_segments=3,
    split=SplitSettings(segment_seconds=0.5, short_seconds=0.2, short_per_speaker=4),
)


def speak(path, seed, seconds):
    wav = np.random.default_rng(seed).uniform(-0.3, 0.3, int(seconds * RATE))
    soundfile.write(path, wav, RATE)


@pytest.fixture(scope="module", autouse=True)
def no_waiting():
    """The disk's own speed is no promise of ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Eight speakers of two sources with ten utterances; one who says little."""
    folder = tmp_path_factory.mktemp("crowd")
    items = []
    for speaker in range(9):
        for index in range(10 if speaker < 8 else 2):
            name = f"s{speaker}-u{index:02d}"
            path = folder / f"{name}.wav"
            speak(path, 100 * speaker + index, 0.15 + 0.06 * index)
            source = f"p{speaker % 2}"
            items.append(Item(name, path, spk_id=f"s{speaker}", source=source))
    return items


def run(items, folder, settings=SMALL, **options):
    lines = []
    summary = prepare_speakers(items, folder, settings, log=lines.append, **options)
    return summary, "\n".join(lines)


def contents(folder):
    """All files with their bytes, but not the journal, which holds times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".journal.jsonl"
    }


def windows_of(paths):
    """Stretches of 10 ms of the files, one from every seventh sample on."""
    found = set()
    for path in paths:
        wav = soundfile.read(path, dtype="int16")[0]
        found |= {wav[i : i + 160].tobytes() for i in range(0, len(wav) - 160, 7)}
    return found


@pytest.fixture(scope="module")
def prepared(crowd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "data"
    return folder, *run(crowd, folder)


@pytest.mark.smoke
def test_the_folder_is_as_drawn_and_every_file_whole(crowd, prepared):
    folder, summary, text = prepared
    split = folder / "split1"
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("wav", "utterances.json", "rejected.tsv", "speakers.tsv", "prepare.json"),
        "split1",
    }
    assert {path.name for path in split.iterdir()} == {
        *(f"{name}.json" for name in (*MANIFESTS, "parts", "split")),
        *("segments", "trials"),
    }
    assert len(verify_manifest(folder / "utterances.json")) == len(crowd)
    for name in MANIFESTS:
        manifest = verify_manifest(split / f"{name}.json")
        assert len(manifest) == summary.counts[name]
        assert {one.source for one in manifest.values()} == {"p0", "p1"}
        for one in manifest.values():
            assert soundfile.info(one.wav).frames == one.num_samples
    facts = json.loads((split / "split.json").read_text())
    assert sorted(facts["speakers"]["test"]) == summary.speakers["test"]
    assert "left out" not in (folder / "speakers.tsv").read_text()
    assert f"{len(summary.speakers['test'])} test speakers" in text
    # As it stands, after a move to another place.
    moved = folder.parent / "else where"
    shutil.copytree(folder, moved)
    assert len(verify_manifest(moved / "split1/train.json")) == summary.counts["train"]


def test_no_speaker_and_no_sound_is_on_both_sides(prepared):
    folder, *_ = prepared
    split = folder / "split1"
    manifests = {name: read_manifest(split / f"{name}.json") for name in MANIFESTS}
    heard = defaultdict(set)
    paths = defaultdict(list)
    for name, manifest in manifests.items():
        side = "test" if name == "test" else "train"
        heard[side] |= {one.spk_id for one in manifest.values()}
        paths[side] += [one.wav for one in manifest.values()]
    assert not heard["train"] & heard["test"]
    assert min(map(len, heard.values())) >= 2
    # The sound itself: no stretch of noise occurs twice by chance. One side at every
    # seventh sample, the other at all of a few places.
    known = windows_of(paths["train"])
    for path in paths["test"]:
        wav = soundfile.read(path, dtype="int16")[0]
        for start in range(0, len(wav) - 170, 800):
            spots = {wav[i : i + 160].tobytes() for i in range(start, start + 7)}
            assert not spots & known
    valid = {one.sha256 for one in manifests["valid"].values()}
    assert not valid & {one.sha256 for one in manifests["train"].values()}
    assert find_leaks(split) == []


def test_trials_name_the_test_manifest_only_and_tell_the_truth(prepared):
    split = prepared[0] / "split1"
    test = read_manifest(split / "test.json")
    parts = json.loads((split / "parts.json").read_text())
    for name in ("main", "hard", "short"):
        trials = read_trials(split / f"trials/{name}.txt", test)
        for label, a, b in zip(trials.labels, trials.enroll, trials.test, strict=True):
            one, other = test[trials.ids[a]], test[trials.ids[b]]
            assert label == (one.spk_id == other.spk_id)
            assert (one.utt_id in parts) == (name != "short")
            if name == "hard" and not label:
                assert one.source == other.source
            if name == "short":
                assert min(one.duration, other.duration) >= 0.2


@pytest.mark.parametrize(
    ("role", "entry", "leak"),
    [
        ("train", "speaker", "speakers on both sides"),
        ("cohort", "sound", "audio contents on both sides"),
        ("valid", "train", "utterances in train and valid"),
        ("test", "gone", "keys of main.txt that test.json lacks"),
    ],
)
def test_each_leak_is_found_and_named(prepared, tmp_path, role, entry, leak):
    folder, summary, _ = prepared
    shutil.copytree(folder, tmp_path / "data")
    split = tmp_path / "data/split1"
    path = split / f"{role}.json"
    manifest = json.loads(path.read_text())
    test = json.loads((split / "test.json").read_text())
    train = json.loads((split / "train.json").read_text())
    key, other = next(iter(manifest)), next(iter(test.values()))
    if entry == "speaker":
        manifest[key]["spk_id"] = other["spk_id"]
    elif entry == "sound":
        manifest[key]["sha256"] = other["sha256"]
    elif entry == "train":
        manifest |= dict([next(iter(train.items()))])
    else:
        del manifest[next(key for key in manifest if "-seg" in key)]
    path.write_text(json.dumps(manifest))
    leaks = find_leaks(split)
    assert any(leak in line for line in leaks), leaks


def test_another_seed_takes_over_all_audio_and_leaves_the_first_split(crowd, tmp_path):
    run(crowd, tmp_path / "data")
    before = contents(tmp_path / "data")
    summary, _ = run(crowd, tmp_path / "data", replace(SMALL, split_seed=2))
    assert summary.num_reused == len(crowd)
    after = contents(tmp_path / "data")
    assert {name: after[name] for name in before if name != "prepare.json"} == {
        name: data for name, data in before.items() if name != "prepare.json"
    }
    new = after.keys() - before.keys()
    assert new
    assert all(name.startswith("split2/") for name in new)
    first, second = (
        json.loads(after[f"split{seed}/split.json"])["speakers"]["test"]
        for seed in (1, 2)
    )
    assert first.keys() != second.keys()
    # A speaker who is tested in both makes the same segments.
    for spk_id in first.keys() & second.keys():
        name = f"segments/{spk_id}-seg01.wav"
        assert after[f"split1/{name}"] == after[f"split2/{name}"]


def test_an_inner_split_never_meets_the_test_speakers_of_the_split(crowd, tmp_path):
    def inner(seed):
        settings = replace(SMALL, split_seed=seed, inner_split=2)
        summary, _ = run(crowd, tmp_path / "data", settings)
        assert summary.split_folder.name == f"split{seed}_inner2"
        facts = json.loads((summary.split_folder / "split.json").read_text())
        assert (facts["split_seed"], facts["inner_split"]) == (seed, 2)
        named = verify_manifest(summary.split_folder / "test.json").values()
        assert {one.spk_id for one in named} == set(summary.speakers["test"])
        return summary.speakers

    for seed in (1, 2):
        outer = run(crowd, tmp_path / "data", replace(SMALL, split_seed=seed))[0]
        sides = inner(seed)
        assert not set(outer.speakers["test"]) & {*sides["train"], *sides["test"]}
        assert sorted(sides["train"] + sides["test"]) == outer.speakers["train"]


def test_an_inner_split_of_a_published_one_draws_its_own_trials(celebrities, tmp_path):
    items, path, _ = celebrities
    settings = replace(SMALL, inner_split=1)
    lists = {"main": path}
    summary, _ = run(items, tmp_path / "data", settings, trial_lists=lists)
    assert not set(summary.speakers["test"]) & {
        one.spk_id for one in items if one.role == "test"
    }
    assert summary.trials["main"][0] > 0


def poison(crowd, folder):
    """Return faulty recordings of the speakers and of one who has no other."""
    folder.mkdir()
    wav = np.random.default_rng(7).uniform(-0.3, 0.3, RATE)
    sick = {name: wav.copy() for name in ("nan", "inf", "zero", "one_frame")}
    sick["nan"][5000] = np.nan
    sick["inf"][5000] = -np.inf
    sick["zero"][:] = 0
    sick["one_frame"] = wav[:1]
    items = []
    for name, samples in sick.items():
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "page.wav").write_text("<html>not found</html>")
    for index, name in enumerate([*sick, "empty", "page"]):
        spk_id = f"s{index}" if index < 5 else "sick"
        items.append(Item(f"bad-{name}", folder / f"{name}.wav", spk_id, source="p0"))
    items.append(replace(crowd[0], utt_id="bad-label", fault="wrongly labelled: x"))
    items.append(replace(crowd[1], utt_id="bad-nobody", spk_id=None))
    return items


def test_a_poisoned_corpus_gives_the_same_bytes_for_the_sound_files(crowd, tmp_path):
    run(crowd, tmp_path / "clean")
    bad = poison(crowd, tmp_path / "bad")
    # Among the others, not behind them.
    mixed = [item for pair in zip(bad, crowd, strict=False) for item in pair]
    summary, text = run(mixed + crowd[len(bad) :], tmp_path / "poisoned")
    assert f"{len(bad)} of {len(crowd) + len(bad)} recordings rejected" in text
    clean, poisoned = contents(tmp_path / "clean"), contents(tmp_path / "poisoned")
    rejected = poisoned.pop("rejected.tsv").decode()
    kinds = "non-finite", "all zero", "too short", "empty", "wrongly labelled"
    assert all(kind in rejected for kind in kinds)
    assert all(item.utt_id in rejected for item in bad)
    speakers = poisoned.pop("speakers.tsv").decode().splitlines()
    assert [line for line in speakers if "left out" in line] == [
        "sick\t-\t0\t0.0\t0\tleft out\t0 usable recordings, at least 2 are needed"
    ]
    for name in ("rejected.tsv", "speakers.tsv"):
        clean.pop(name)
    assert poisoned == clean
    assert {one.reason.split(":")[0] for one in summary.rejected} >= set(kinds)


def test_what_the_corpus_knows_is_kept_and_told(crowd, tmp_path):
    known = {
        "s2": Speaker("s2", same_side="pair"),
        "s4": Speaker("s4", same_side="pair"),
        "s6": Speaker("s6", same_side="s0"),
        "s0": Speaker("s0", may_test=False, same_side="s0", note="two voices"),
    }
    for seed in range(1, 5):
        settings = replace(SMALL, split_seed=seed, num_test=4)
        summary, _ = run(crowd, tmp_path / "data", settings, known=known)
        test = set(summary.speakers["test"])
        assert not test & {"s0", "s6", "s8"}
        assert len(test & {"s2", "s4"}) in (0, 2)
        trials = read_trials(summary.split_folder / "trials/main.txt")
        names = {
            frozenset(trials.ids[i].split("-")[0] for i in pair)
            for pair in zip(trials.enroll, trials.test, strict=True)
        }
        assert frozenset({"s2", "s4"}) not in names
    rows = (tmp_path / "data/speakers.tsv").read_text().splitlines()
    remarks = {row.split("\t")[0]: row.split("\t")[-2:] for row in rows}
    assert remarks["s0"] == ["train", "two voices"]
    assert remarks["s2"] == ["train or test", "stays with pair"]
    assert remarks["s6"][0] == "train"
    assert remarks["s6"][1].startswith("maybe the same as s0, who may not be tested")
    assert remarks["s8"][0] == "train"
    assert "at least 3 are needed for the test" in remarks["s8"][1]


def test_copies_leave_one_and_speakers_who_share_them_are_told(crowd, tmp_path):
    copies = [
        replace(item, utt_id=f"z{item.utt_id}", spk_id="zcopy")
        for item in crowd
        if item.spk_id == "s3"
    ]
    summary, text = run([*crowd, *copies], tmp_path / "data")
    assert summary.num_copies == 10
    assert "speakers s3 and zcopy have 10 recordings in common" in text
    assert "zcopy" not in summary.speakers["train"] + summary.speakers["test"]


def test_short_utterances_are_joined_to_chunks_without_a_loss(crowd, tmp_path):
    chunked = replace(SMALL, split=replace(SMALL.split, chunk_seconds=1.0))
    plain = replace(SMALL, split=replace(SMALL.split, chunk_seconds=0.0))
    run(crowd, tmp_path / "plain", plain)
    run(crowd, tmp_path / "data", chunked)
    alone = verify_manifest(tmp_path / "plain/split1/train.json")
    both = verify_manifest(tmp_path / "data/split1/train.json")
    assert alone.keys() <= both.keys()
    parts = json.loads((tmp_path / "data/split1/parts.json").read_text())
    chunks = both.keys() - alone.keys()
    assert chunks
    for chunk in chunks:
        assert len(parts[chunk]) > 1
        assert {alone[part].spk_id for part in parts[chunk]} == {both[chunk].spk_id}
        assert both[chunk].num_samples == sum(
            alone[p].num_samples for p in parts[chunk]
        )
    used = [part for chunk in chunks for part in parts[chunk]]
    assert len(used) == len(set(used))
    short = {name for name, one in alone.items() if one.duration < 1}
    # A speaker's last one may find no partner.
    assert len(short - set(used)) <= len({one.spk_id for one in alone.values()})
    for name in ("cohort", "valid"):
        files = [tmp_path / f"{made}/split1/{name}.json" for made in ("plain", "data")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.fixture
def celebrities(crowd, tmp_path):
    """The crowd with a published split and list; one of its files is not there."""
    items = [
        replace(item, role="test" if item.spk_id in ("s0", "s1", "s2") else "train")
        for item in crowd
    ]
    rows = [
        f"{int(a.spk_id == b.spk_id)} {a.utt_id} {b.utt_id}"
        for a in items[:30:5]
        for b in items[3:30:7]
        if a != b
    ]
    path = tmp_path / "official.txt"
    path.write_text("\n".join([*rows, "1 s0-u00 s0-gone"]) + "\n")
    return items, path, len(rows)


def test_a_published_list_is_taken_as_it_is_but_for_what_is_not_there(
    celebrities, tmp_path
):
    items, path, num_rows = celebrities
    summary, text = run(items, tmp_path / "data", trial_lists={"main": path})
    assert summary.speakers["test"] == ["s0", "s1", "s2"]
    assert sum(summary.trials["main"]) == num_rows
    assert "list main: 1 of" in text
    assert "such as s0-gone" in text
    split = tmp_path / "data/split1"
    test = read_manifest(split / "test.json")
    made = read_trials(split / "trials/main.txt", test)
    assert set(made.ids) == set(test)
    assert path.read_text().startswith((split / "trials/main.txt").read_text())
    hard = read_trials(split / "trials/hard.txt", test)
    assert {
        len({test[hard.ids[a]].source, test[hard.ids[b]].source})
        for a, b in zip(hard.enroll, hard.test, strict=True)
    } == {1}
    assert not (split / "trials/short.txt").exists()
    assert find_leaks(split) == []


def test_a_published_list_that_lies_is_refused(celebrities, tmp_path):
    items, path, _ = celebrities
    path.write_text("1 s0-u00 s1-u00\n0 s0-u01 s1-u01\n")
    with pytest.raises(WorkError, match="1 trials contradict the speakers"):
        run(items, tmp_path / "data", trial_lists={"main": path})


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda items: items[:20], WorkError, "each side needs 2 at least"),
        (lambda items: items[:3] + items[10:13], WorkError, "each side needs 2"),
        (lambda items: [replace(i, fault="x") for i in items], WorkError, "rejected"),
        (lambda items: [replace(i, spk_id=None) for i in items], WorkError, "speaker"),
        (lambda items: [], UserError, "no recording at all"),
    ],
)
def test_a_run_that_fails_leaves_the_earlier_data(
    crowd, tmp_path, spoil, error, message
):
    run(crowd, tmp_path / "data")
    before = contents(tmp_path / "data")
    with pytest.raises(error, match=message):
        run(spoil(crowd), tmp_path / "data")
    after = contents(tmp_path / "data")
    after.pop("rejected.failed.tsv", None)
    assert after == before


def test_too_many_test_speakers_are_refused_with_the_reason(crowd, tmp_path):
    with pytest.raises(UserError, match="only 8 speakers may be tested") as caught:
        run(crowd, tmp_path / "data", replace(SMALL, num_test=9))
    assert "s8: 0 segments of 0.5 s" in str(caught.value)


def test_one_source_makes_hard_the_same_as_main_and_says_so(crowd, tmp_path):
    items = [replace(item, source=None) for item in crowd]
    summary, text = run(items, tmp_path / "data")
    assert summary.trials["hard"] == summary.trials["main"]
    assert "all test speakers have one source" in text
    assert '"source"' not in (tmp_path / "data/utterances.json").read_text()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_anywhere_and_run_again_gives_the_same_bytes(
    crowd, tmp_path, run_killed_at
):
    few = [item for item in crowd if item.spk_id in ("s0", "s1", "s2", "s3")]
    other = [replace(item, source="x") for item in few]
    places = []
    with pytest.MonkeyPatch.context() as patch:
        place = os.replace
        patch.setattr(os, "replace", lambda *args: places.append(args) or place(*args))
        run(few, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    # Each recording is written and moved in; then come manifests and lists. Some
    # of the last steps in a new folder, others over an earlier split.
    last = range(len(places) - 14, len(places))
    for number in [3, len(few) + 4, 2 * len(few) - 1, *last[::3]]:
        folder = tmp_path / f"killed{number}"
        assert run_killed_at(partial(run, few, folder), number) == -9
        run(few, folder)
        assert contents(folder) == expected
    assert run_killed_at(partial(run, few, tmp_path / "all"), len(places)) == 0
    folder = tmp_path / "earlier"
    for number in last[1::3]:
        run(other, folder)
        # Its audio is there and is neither written nor moved again.
        number -= 2 * len(few) - 1
        assert run_killed_at(partial(run, few, folder), number) == -9
        run(few, folder)
        assert contents(folder) == expected
    assert not list(tmp_path.glob("*/.split*"))


def test_an_earlier_split_survives_a_kill_between_its_two_renames(crowd, tmp_path):
    run(crowd, tmp_path / "data")
    before = contents(tmp_path / "data")
    os.replace(tmp_path / "data/split1", tmp_path / "data/.split1.old")
    with pytest.raises(WorkError):
        run(crowd[:10], tmp_path / "data")
    after = contents(tmp_path / "data")
    assert after == before


def test_trimming_is_part_of_what_is_remembered(crowd, tmp_path):
    class Half:
        stamp = "half"

        def __call__(self, wav, sample_rate):
            return wav[: len(wav) // 2], None

    settings = replace(SMALL, min_test_segments=2)
    run(crowd, tmp_path / "data", settings)
    summary, _ = run(crowd, tmp_path / "data", settings, trim=Half())
    assert summary.num_reused == 0
    whole = soundfile.info(crowd[9].path).frames
    assert soundfile.info(tmp_path / "data/wav/s0-u09.wav").frames == whole // 2
    assert run(crowd, tmp_path / "data", settings, trim=Half())[0].num_reused == 82


def test_a_missing_file_names_the_command_that_made_this_split(crowd, tmp_path):
    for seed in (1, 2):
        settings = replace(SMALL, split_seed=seed)
        run(crowd, tmp_path / "data", settings, command=f"prepare --split_seed={seed}")
    test = read_manifest(tmp_path / "data/split1/test.json")
    test[min(test)].wav.unlink()
    with pytest.raises(ManifestError, match="prepare --split_seed=1"):
        verify_manifest(tmp_path / "data/split1/test.json")


def test_jobs_do_not_change_a_byte(crowd, prepared, tmp_path):
    run(crowd, tmp_path / "data", nj=3)
    assert contents(tmp_path / "data") == contents(prepared[0])


def test_convert_sees_each_recording_once(crowd, tmp_path, monkeypatch):
    calls = []
    whole = convert.convert
    monkeypatch.setattr(
        convert, "convert", lambda *args: calls.append(args[0].utt_id) or whole(*args)
    )
    for seed in (1, 2, 3):
        run(crowd, tmp_path / "data", replace(SMALL, split_seed=seed))
    assert sorted(calls) == sorted(item.utt_id for item in crowd)
