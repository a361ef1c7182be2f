import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_ext.data.check import kind_of
from speechbrain_ext.data.corpora import CORPORA, open_corpus, require_folder
from speechbrain_ext.data.corpora.commonvoice import CommonVoiceCorpus
from speechbrain_ext.data.corpora.folder import FolderCorpus, clean_name, name_all
from speechbrain_ext.data.corpora.openslr66 import OpenSLR66Corpus
from speechbrain_ext.data.prepare import Settings, prepare
from speechbrain_ext.errors import UserError, WorkError

NOISE = np.random.default_rng(0)


def record(path, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, NOISE.uniform(-0.3, 0.3, rate // 4), rate)


def by_id(corpus, folder, raw=Path("no such folder")):
    items = list(corpus.items(raw, folder))
    named = {item.utt_id: item for item in items}
    assert len(named) == len(items)
    return named


def test_an_unknown_corpus_names_the_nearest_and_all():
    with pytest.raises(UserError, match="did you mean 'espeak'") as caught:
        open_corpus("espeek")
    assert all(name in str(caught.value) for name in CORPORA)


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_can_be_opened_by_name(name, tmp_path):
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("# en\n" + "".join(f"{number}\n" for number in range(8)))
    speaks = ("espeak", "espeak_voices", "festival")
    options = {"sentences": sentences} if name in speaks else {}
    corpus = open_corpus(name, **options)
    assert callable(corpus.fetch)
    assert callable(corpus.items)


# --- folders ---------------------------------------------------------------------


def test_a_missing_folder_names_the_nearest_that_exists(tmp_path):
    (tmp_path / "recordings").mkdir()
    with pytest.raises(UserError, match="no such folder") as caught:
        require_folder(tmp_path / "recordigns" / "x", "folder", "hint")
    assert f"exists is {tmp_path})" in str(caught.value)
    assert f"did you mean {tmp_path / 'recordings'}?" in str(caught.value)
    with pytest.raises(UserError, match="needs --data_folder"):
        require_folder(None, "folder", "hint")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a folder"):
        require_folder(tmp_path / "file", "folder", "hint")


def test_any_tree_is_searched_and_hidden_files_are_passed_over(tmp_path):
    wanted = [
        "a.wav",
        "day 1/take.2.WAV",
        "తెలుగు/మాట.flac",
        "day 1/deep/er/b.ogg",
        "c.g722",
    ]
    for name in wanted:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in [
        ".hidden.wav",
        "._a.wav",
        ".git/x.wav",
        "__MACOSX/a.wav",
        "notes.txt",
        "cover.jpg",
        "wav",
    ]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    items = by_id(FolderCorpus(), tmp_path)
    assert {str(item.path.relative_to(tmp_path)) for item in items.values()} == set(
        wanted
    )
    assert set(items) == {"a", "day_1-take_2", "తెలుగు-మాట", "day_1-deep-er-b", "c"}


def test_names_never_collide():
    paths = ["a b.wav", "a_b.wav", "A_b.wav", "a/b.wav", "a-b.wav", "a-b.flac", "c.wav"]
    names = name_all([Path(path) for path in paths])
    assert len({name.casefold() for name in names}) == len(paths)
    assert names[-1] == "c"
    assert names[0].startswith("a_b-")
    # A name does not depend on what stands before it.
    assert name_all([Path(path) for path in paths[::-1]])[::-1] == names


@pytest.mark.parametrize("char", ["a", "త"])
def test_very_long_names_fit_into_a_file_system(char, tmp_path):
    deep = Path(*[char * 60] * 5, "x.wav")
    other = Path(*[char * 60] * 5, "y.wav")
    names = name_all([deep, other])
    assert names[0] != names[1]
    for name in names:
        (tmp_path / f"{name}.wav").touch()


def test_names_are_safe_as_files_and_keys():
    odd = ["..", "a/b", "x\ty\n", os.fsdecode(b"\xff\xfe"), "", "con:1*?", "a.b.c"]
    for name in odd:
        cleaned = clean_name(name)
        assert cleaned
        assert not set(cleaned) & set("./\\:*?\t\n ")
        cleaned.encode("utf-8")


def test_the_first_sub_folder_is_the_speaker_only_if_asked(tmp_path):
    for name in ["anna/1.wav", "anna/x/2.wav", "bo/1.wav", "top.wav"]:
        record(tmp_path / name)
    assert {item.spk_id for item in by_id(FolderCorpus(), tmp_path).values()} == {None}
    items = by_id(FolderCorpus(speaker_from_folder=True), tmp_path)
    assert {utt_id: item.spk_id for utt_id, item in items.items()} == {
        "anna-1": "anna",
        "anna-x-2": "anna",
        "bo-1": "bo",
        "top": None,
    }


def test_where_speakers_are_needed_a_file_without_one_is_rejected(tmp_path):
    for name in ["anna/1.wav", "an na/1.wav", "a.b/1.wav", "a.c/1.wav", "top.wav"]:
        record(tmp_path / name)
    corpus = FolderCorpus(speaker_from_folder=True, require_speaker=True)
    items = by_id(corpus, tmp_path)
    assert {item.utt_id for item in items.values() if item.fault} == {"top"}
    assert kind_of(items["top"].fault) == "wrongly labelled"
    # Four folders are four people, even where a dot or a space is all between them.
    speakers = {item.spk_id for item in items.values() if not item.fault}
    assert speakers == {"anna", "an_na", "a_b", "a_c"}
    record(tmp_path / "an_na/1.wav")
    speakers = {item.spk_id for item in by_id(corpus, tmp_path).values()} - {None}
    assert len(speakers) == 5


def test_a_folder_without_audio_says_what_would_do(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(UserError, match="no audio found") as caught:
        FolderCorpus().fetch(tmp_path / "raw", tmp_path)
    assert ".flac" in str(caught.value)
    assert caught.value.exit_code == 2


# --- OpenSLR SLR66 ---------------------------------------------------------------


@pytest.fixture
def slr66(tmp_path):
    """Both folders of SLR66 in small, without faults."""
    root = tmp_path / "my తెలుగు corpus"
    for gender, letter, speakers in (("female", "f", 4), ("male", "m", 3)):
        folder = root / f"te_in_{gender}"
        lines = []
        for speaker in range(speakers):
            for line in range(4):
                name = f"te{letter}_{speaker:05d}_{speaker * 10 + line:011d}"
                record(folder / f"{name}.wav", rate=48000)
                lines.append(f"{name}\tవాక్యం {line}\n")
        (folder / "line_index.tsv").write_text("".join(lines), encoding="utf-8")
        (folder / "LICENSE").touch()
    return root


def test_slr66_is_read_with_speakers_and_texts(slr66, tmp_path):
    corpus = OpenSLR66Corpus()
    corpus.fetch(tmp_path / "raw", slr66)
    items = by_id(corpus, slr66)
    assert len(items) == 28
    assert not any(item.fault for item in items.values())
    item = items["tef_00003_00000000031"]
    assert (item.spk_id, item.text) == ("tef_00003", "వాక్యం 1")
    assert len({item.spk_id for item in items.values()}) == 7
    summary = prepare(items.values(), tmp_path / "data", log=lambda line: None)
    assert summary.split_by == "speaker"
    assert sum(summary.num_utterances.values()) == 28


def test_slr66_damage_is_rejected_with_a_reason_each(slr66, tmp_path):
    female, male = slr66 / "te_in_female", slr66 / "te_in_male"
    (female / "tef_00000_00000000000.wav").unlink()
    (female / "tef_00001_00000000010.wav").write_bytes(b"")
    record(female / "tef_00009_00000000099.wav")
    record(female / "tem_00009_00000000098.wav")
    record(male / "recording.wav")
    with open(female / "line_index.tsv", "a", encoding="utf-8") as index:
        index.write("tem_00009_00000000098\tవాక్యం\n\n")
    with open(male / "line_index.tsv", "a", encoding="utf-8") as index:
        index.write("recording\t\tవాక్యం\n")
    text = (male / "line_index.tsv").read_text(encoding="utf-8").splitlines()
    text[0] = text[0].split("\t")[0] + "\t"
    (male / "line_index.tsv").write_text("\n".join(text), encoding="utf-8")
    items = by_id(OpenSLR66Corpus(), slr66)
    faults = {utt_id: item.fault for utt_id, item in items.items() if item.fault}
    assert kind_of(faults.pop("tef_00000_00000000000")) == "missing"
    assert faults == {
        "tef_00009_00000000099": "wrongly labelled: not in line_index.tsv",
        "tem_00009_00000000098": "wrongly labelled: in the folder te_in_female",
        "recording": "wrongly labelled: the name is not te<f|m>_<speaker>_<line>",
        "tem_00000_00000000000": "wrongly labelled: no text in line_index.tsv",
    }
    settings = Settings(max_rejected=0.5)
    summary = prepare(
        items.values(), tmp_path / "data", settings, log=lambda line: None
    )
    assert len(summary.rejected) == 6


def test_slr66_archives_are_unpacked_once(slr66, tmp_path):
    archives = tmp_path / "downloads"
    archives.mkdir()
    for gender in ("female", "male"):
        with zipfile.ZipFile(archives / f"te_in_{gender}.zip", "w") as archive:
            for path in sorted((slr66 / f"te_in_{gender}").iterdir()):
                archive.write(path, path.name)  # flat, as published
    corpus, raw = OpenSLR66Corpus(), tmp_path / "raw"
    corpus.fetch(raw, archives)
    unpacked = raw / "te_in_male" / "line_index.tsv"
    before = unpacked.stat().st_mtime_ns
    corpus.fetch(raw, archives)
    assert unpacked.stat().st_mtime_ns == before
    assert set(by_id(corpus, archives, raw)) == set(by_id(corpus, slr66))


def test_a_broken_slr66_archive_is_named(tmp_path):
    (tmp_path / "te_in_male.zip").write_bytes(b"PK\x03\x04 half a download")
    with pytest.raises(WorkError, match=r"te_in_male\.zip.*get it again"):
        OpenSLR66Corpus().fetch(tmp_path / "raw", tmp_path)


def test_a_folder_without_slr66_says_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"https://www\.openslr\.org/66/"):
        OpenSLR66Corpus().fetch(tmp_path / "raw", tmp_path)


# --- Common Voice ----------------------------------------------------------------

HEADER = "client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale\n"


def write_table(path, rows):
    lines = [
        f"{client}\t{clip}\t1\t{text}\t2\t{locale}\n"
        for client, clip, text, locale in rows
    ]
    path.write_text(HEADER + "".join(lines), encoding="utf-8")


@pytest.fixture
def common_voice(tmp_path):
    """A release of one locale in small: the published split and one validated clip."""
    folder = tmp_path / "cv-corpus-17.0-2024-03-15" / "te"
    everything = []
    for table, speakers in (("train", "abc"), ("dev", "d"), ("test", "ef")):
        rows = [
            (speaker * 8, f"common_voice_te_{ord(speaker)}{i}.mp3", 'ఒక "మాట', "te")
            for speaker in speakers
            for i in range(2)
        ]
        everything += rows
        for row in rows:
            record(folder / "clips" / row[1], 32000)
        write_table(folder / f"{table}.tsv", rows)
    everything.append(("gggg", "common_voice_te_999.mp3", "ఇంకొకటి", "te"))
    record(folder / "clips" / "common_voice_te_999.mp3", 32000)
    write_table(folder / "validated.tsv", everything)
    return folder


@pytest.mark.parametrize("levels_up", [0, 1, 2])
def test_common_voice_keeps_its_published_split(common_voice, levels_up, tmp_path):
    folder = [common_voice, *common_voice.parents][levels_up]
    corpus = CommonVoiceCorpus()
    corpus.fetch(tmp_path / "raw", folder)
    items = by_id(corpus, folder)
    assert "common_voice_te_999" not in items
    roles = {item.spk_id[0]: item.role for item in items.values()}
    assert roles == dict.fromkeys("abc", "train") | {"d": "valid"} | dict.fromkeys(
        "ef", "test"
    )
    assert {item.text for item in items.values()} == {'ఒక "మాట'}
    summary = prepare(items.values(), tmp_path / "data", log=lambda line: None)
    assert summary.num_utterances == {"train": 6, "valid": 2, "test": 4}
    assert summary.split_by == "corpus"


def test_common_voice_without_a_published_split_is_split_by_speaker(
    common_voice, tmp_path
):
    (common_voice / "dev.tsv").unlink()
    items = by_id(CommonVoiceCorpus(), common_voice)
    assert len(items) == 13
    assert {item.role for item in items.values()} == {None}
    summary = prepare(items.values(), tmp_path / "data", log=lambda line: None)
    assert summary.split_by == "speaker"


def test_common_voice_damage_is_rejected_with_a_reason_each(common_voice):
    rows = [
        ("h", "both.mp3", "మాట", "te"),
        ("h", "../secret.mp3", "మాట", "te"),
        ("", "b.mp3", "మాట", "te"),
        ("h", "c.mp3", "", "te"),
        ("h", "d.mp3", "word", "en"),
    ]
    write_table(common_voice / "dev.tsv", rows[:1])
    write_table(common_voice / "test.tsv", rows)
    items = list(CommonVoiceCorpus().items(common_voice, common_voice))
    faults = [item.fault for item in items if item.fault]
    assert faults == [
        "wrongly labelled: path '../secret.mp3' is not a name in clips/",
        "wrongly labelled: no client_id or no sentence in test.tsv",
        "wrongly labelled: no client_id or no sentence in test.tsv",
        "wrongly labelled: locale 'en' is not 'te'",
        "wrongly labelled: in test.tsv and again in dev.tsv",
    ]


def test_common_voice_of_another_shape_is_explained(common_voice, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"commonvoice\.mozilla\.org"):
        CommonVoiceCorpus().fetch(tmp_path / "raw", tmp_path / "empty")
    (common_voice / "train.tsv").write_text("path\ttext\n")
    with pytest.raises(UserError, match="no column client_id, sentence"):
        list(CommonVoiceCorpus().items(tmp_path, common_voice))
