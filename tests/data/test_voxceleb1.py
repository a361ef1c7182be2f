import shutil
from pathlib import Path

import pytest

from speechbrain_ext.data.corpora import speakers_of, trial_lists_of
from speechbrain_ext.data.corpora.voxceleb1 import VoxCeleb1Corpus, _parts, utt_id_of
from speechbrain_ext.errors import UserError

TEST = ("id10270", "id10271", "id10272")
TRAIN = tuple(f"id{number}" for number in range(10001, 10009))
VIDEOS = ("x6uYqmx31kE", "--a_b-c-")


def speak(folder, speakers, videos=VIDEOS, files=3):
    for speaker in speakers:
        for video in videos:
            place = folder / speaker / video
            place.mkdir(parents=True)
            for number in range(1, files + 1):
                (place / f"{number:05d}.wav").touch()


def trial(label, first, second):
    return f"{label} {first}/{VIDEOS[0]}/00001.wav {second}/{VIDEOS[1]}/00002.wav\n"


@pytest.fixture(
    params=["wav", "dev/wav test/wav", "vox1_dev_wav/wav vox1_test_wav/wav"]
)
def voxceleb(request, tmp_path):
    """VoxCeleb1 in small, in one of the layouts that people have."""
    root = tmp_path / "vox"
    places = request.param.split()
    speak(root / places[0], TRAIN)
    speak(root / places[-1], TEST)
    lines = [trial(1, one, one) for one in TEST]
    lines += [trial(0, one, other) for one in TEST for other in TEST if one != other]
    (root / "veri_test2.txt").write_text("".join(lines))
    return root


@pytest.fixture
def one_folder(tmp_path):
    root = tmp_path / "vox"
    speak(root / "wav", TRAIN + TEST)
    return root


def by_role(corpus, root):
    roles = {}
    for item in corpus.items(Path("no raw"), root):
        roles.setdefault(item.role, []).append(item)
    return roles


def test_official_test_speakers_never_train(voxceleb):
    corpus = VoxCeleb1Corpus(num_speakers=0)
    corpus.fetch(Path("no raw"), voxceleb)
    roles = by_role(corpus, voxceleb)
    assert {item.spk_id for item in roles["train"]} == set(TRAIN)
    assert {item.spk_id for item in roles["test"]} == set(TEST)
    assert not any(item.fault for items in roles.values() for item in items)
    assert len(roles["train"]) == len(TRAIN) * 6
    # Of a test speaker, what the list names.
    assert {item.utt_id for item in roles["test"]} == {
        utt_id
        for one in TEST
        for utt_id in (f"{one}-{VIDEOS[0]}-00001", f"{one}-{VIDEOS[1]}-00002")
    }
    for items in roles.values():
        for item in items:
            assert item.path.parts[-3:] == _parts(item.utt_id)


def test_train_speakers_are_drawn_by_seed(voxceleb):
    def drawn(seed, number):
        corpus = VoxCeleb1Corpus(num_speakers=number, seed=seed)
        return {item.spk_id for item in by_role(corpus, voxceleb)["train"]}

    assert len(drawn(1, 4)) == 4
    assert drawn(1, 4) == drawn(1, 4)
    assert drawn(1, 4) < drawn(1, 5)
    assert len({frozenset(drawn(seed, 4)) for seed in range(6)}) > 1
    assert drawn(1, 1000) == set(TRAIN)


def test_a_train_speaker_gives_at_most_so_many_files(voxceleb):
    roles = by_role(VoxCeleb1Corpus(0, max_files_per_speaker=2), voxceleb)
    counts = {item.spk_id: 0 for item in roles["train"]}
    for item in roles["train"]:
        counts[item.spk_id] += 1
    assert set(counts.values()) == {2}
    assert len(roles["test"]) == 6


def test_what_the_list_names_and_is_missing_is_a_fault(voxceleb):
    gone = next(voxceleb.rglob(f"id10271/{VIDEOS[0]}/00001.wav"))
    gone.unlink()
    shutil.rmtree(next(voxceleb.rglob("id10272")))
    faults = {
        item.utt_id: item.fault
        for item in by_role(VoxCeleb1Corpus(), voxceleb)["test"]
        if item.fault
    }
    assert set(faults) == {
        f"id10271-{VIDEOS[0]}-00001",
        f"id10272-{VIDEOS[0]}-00001",
        f"id10272-{VIDEOS[1]}-00002",
    }
    assert all("veri_test2.txt" in fault for fault in faults.values())


def test_without_a_list_the_forty_e_speakers_are_test(one_folder):
    roles = by_role(VoxCeleb1Corpus(), one_folder)
    assert {item.spk_id for item in roles["test"]} == set(TEST)
    assert len(roles["test"]) == 18
    assert trial_lists_of(VoxCeleb1Corpus(), one_folder / "raw", one_folder) == {}


@pytest.mark.parametrize(
    ("speaker", "video", "file"),
    [
        ("id10270", "x6uYqmx31kE", "00001"),
        ("id10270", "--a_b-c-", "00001"),
        ("id10270", "a.b", "0.1"),
        ("id10270", "a", "b-c"),
        ("id10270", "a-b", "c"),
        ("id10270", "a=2db", "=2e.=3d"),
    ],
)
def test_names_are_joined_without_loss(speaker, video, file):
    utt_id = utt_id_of(speaker, video, file)
    assert _parts(utt_id) == (speaker, video, f"{file}.wav")
    assert "." not in utt_id
    assert "/" not in utt_id


def test_official_lists_are_given_with_our_names(voxceleb, tmp_path):
    (voxceleb / "veri_test.txt").write_text(
        trial(1, TEST[0], TEST[0])
        + trial(0, TEST[0], TEST[1]).replace("00002", "00003")
    )
    (voxceleb / "list_test_hard2.txt").write_text(
        trial(1, TEST[0], TEST[0])
        + trial(0, TEST[0], TEST[1])
        + trial(1, TRAIN[0], TRAIN[0])
        + trial(0, TEST[0], TRAIN[0])
    )
    # Nothing of this one is left without train speakers.
    (voxceleb / "list_test_all2.txt").write_text(
        trial(1, TRAIN[0], TRAIN[0]) + trial(0, TRAIN[0], TRAIN[1])
    )
    raw = tmp_path / "raw"
    lists = trial_lists_of(VoxCeleb1Corpus(), raw, voxceleb)
    assert set(lists) == {"main", "original", "hard"}
    lines = lists["main"].read_text().splitlines()
    assert lines[0] == f"1 id10270-{VIDEOS[0]}-00001 id10270-{VIDEOS[1]}-00002"
    assert [line[0] for line in lines].count("0") == 6
    assert len(lists["hard"].read_text().splitlines()) == 2
    known = {item.utt_id for item in by_role(VoxCeleb1Corpus(), voxceleb)["test"]}
    for path in lists.values():
        for line in path.read_text().splitlines():
            assert set(line.split()[1:]) <= known


def test_a_list_in_another_format_is_refused_with_its_lines(voxceleb):
    with open(voxceleb / "veri_test2.txt", "a") as stream:
        stream.write("2 id10270/a/1.wav id10270/a/2.wav\nfoo\n")
    with pytest.raises(UserError, match="2 lines") as caught:
        VoxCeleb1Corpus().fetch(Path("raw"), voxceleb)
    assert "line 11: 'foo'" in str(caught.value)


def test_meta_data_tells_the_source(one_folder):
    (one_folder / "vox1_meta.csv").write_text(
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
        "id10001\tA.J._Buckley\tm\tIreland\tdev\nid10270\tEartha_Kitt\tf\tUSA\ttest\n"
    )
    items = list(VoxCeleb1Corpus().items(Path("raw"), one_folder))
    sources = {item.spk_id: item.source for item in items}
    assert sources["id10001"] == "m-Ireland"
    assert sources["id10270"] == "f-USA"
    assert sources["id10002"] is None
    known = speakers_of(VoxCeleb1Corpus(), Path("raw"), one_folder)
    assert known["id10001"].source == "m-Ireland"
    assert all(speaker.may_test for speaker in known.values())


def test_a_folder_that_lacks_a_part_says_which(tmp_path):
    with pytest.raises(UserError, match="needs --data_folder"):
        VoxCeleb1Corpus().fetch(tmp_path, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no wav/id10001"):
        VoxCeleb1Corpus().fetch(tmp_path, tmp_path / "empty")
    speak(tmp_path / "dev" / "wav", TRAIN)
    with pytest.raises(UserError, match="vox1_test_wav"):
        VoxCeleb1Corpus().fetch(tmp_path, tmp_path / "dev")
    speak(tmp_path / "test" / "wav", TEST)
    with pytest.raises(UserError, match="vox1_dev_wav"):
        VoxCeleb1Corpus().fetch(tmp_path, tmp_path / "test")
    with pytest.raises(UserError, match="num_speakers"):
        VoxCeleb1Corpus(num_speakers=-1)
