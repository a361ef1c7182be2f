import json
import os
import stat

import numpy as np
import pytest
import soundfile

from speechbrain_ext.data.corpora.debian import fetch_packages
from speechbrain_ext.data.corpora.espeak import EspeakCorpus
from speechbrain_ext.data.corpora.festival import FestivalCorpus
from speechbrain_ext.data.corpora.synthesis import read_sentences
from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.files import sha256_file

SENTENCES = "# a remark\n# train\nఒకటి రెండు.\nమూడు.\n# valid\nనాలుగు.\n# test\nఐదు.\n"


@pytest.fixture
def sentences(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_text(SENTENCES, encoding="utf-8")
    return path


def hashes(raw):
    return {path.name: sha256_file(path) for path in sorted(raw.glob("*.wav"))}


def test_sentences_have_the_role_of_their_heading(sentences):
    roles = [role for role, _ in read_sentences(sentences)]
    assert roles == ["train", "train", "valid", "test"]


def test_faults_in_a_sentences_file_are_told_together(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("ముందు\n# train\nఒకటి\nఒకటి\n# test\nరెండు\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_sentences(path)
    for part in ("line 1: stands above", "line 4: is line 3 again", "'# valid'"):
        assert part in str(caught.value)


# --- eSpeak ----------------------------------------------------------------------


def test_espeak_gives_the_same_audio_whatever_was_spoken_before(sentences, tmp_path):
    # f2 and f5 have breath noise, which eSpeak draws from its own random source.
    corpus = EspeakCorpus(sentences, voices=["te+f2", "te+f5"], every_voice=True)
    corpus.fetch(tmp_path / "one", None, nj=1)
    corpus.fetch(tmp_path / "three", None, nj=3)
    assert len(hashes(tmp_path / "one")) == 8
    assert hashes(tmp_path / "one") == hashes(tmp_path / "three")
    (tmp_path / "one/esp003_te_f2.wav").unlink()
    corpus.fetch(tmp_path / "one", None)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "three")


def test_espeak_voices_differ_and_are_speech(sentences, tmp_path):
    corpus = EspeakCorpus(sentences, voices=["te+m1", "te+f1"], every_voice=True)
    corpus.fetch(tmp_path, None)
    items = list(corpus.items(tmp_path, None))
    assert {item.spk_id for item in items} == {"te_m1", "te_f1"}
    assert len(set(hashes(tmp_path).values())) == 8
    for item in items:
        assert item.fault is None
        wav, rate = soundfile.read(item.path)
        assert rate == 22050
        assert 0.3 < len(wav) / rate < 5
        assert 0.02 < np.sqrt(np.mean(wav**2)) < 0.5


def test_voices_take_turns_unless_every_voice_is_asked_for(sentences):
    prompts = EspeakCorpus(sentences, voices=["te+m1", "te+f1"]).prompts()
    assert [prompt.voice for prompt in prompts] == ["te+m1", "te+f1"] * 2


@pytest.mark.parametrize("voice", ["te+nobody", "xx+f1", "telugu"])
def test_an_unknown_espeak_voice_is_refused(sentences, voice):
    with pytest.raises(UserError, match="voice"):
        EspeakCorpus(sentences, voices=[voice])


def test_only_what_changed_is_spoken_again(sentences, tmp_path):
    corpus = EspeakCorpus(sentences)
    corpus.fetch(tmp_path / "raw", None)
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "raw").glob("*.wav")}
    sentences.write_text(
        SENTENCES.replace("మూడు", "ముప్పై మూడు").replace("ఐదు.\n", "ఐదు.\nఆరు.\n"),
        encoding="utf-8",
    )
    faults = [item.fault for item in corpus.items(tmp_path / "raw", None)]
    assert [bool(fault) for fault in faults] == [False, True, False, False, True]
    corpus.fetch(tmp_path / "raw", None)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "raw").glob("*.wav")}
    same = {name for name in times if after[name] == times[name]}
    assert len(same) == 3
    assert len(after) == 5
    sentences.write_text(SENTENCES, encoding="utf-8")
    corpus.fetch(tmp_path / "raw", None)
    assert len(list((tmp_path / "raw").glob("*.wav"))) == 4


def test_audio_that_does_not_fit_its_label_is_a_fault(sentences, tmp_path):
    corpus = EspeakCorpus(sentences)
    corpus.fetch(tmp_path, None)
    items = list(corpus.items(tmp_path, None))
    items[0].path.write_bytes(items[1].path.read_bytes())
    items[2].path.with_suffix(".json").write_text("{")
    faults = [item.fault for item in corpus.items(tmp_path, None)]
    assert faults[0] == "wrongly labelled: the audio is not what was spoken"
    assert faults[2].startswith("missing: not spoken yet")
    assert faults[1] is None


def test_a_data_folder_for_synthetic_voices_is_a_mistake(sentences, tmp_path):
    with pytest.raises(UserError, match="--corpus folder"):
        EspeakCorpus(sentences).fetch(tmp_path / "raw", tmp_path)


# --- Festival and Debian, played by stand-ins on PATH -----------------------------


def program(folder, name, text):
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


FESTIVAL = """
script=$(eval echo '$'$#)
case "$script" in
  "(begin (voice_telugu_NSK_diphone))") exit 0 ;;
  "("*) exit 255 ;;
esac
echo "$@" >> "%(log)s"
grep -q "DuffInt" "$script" || exit 255
grep -q "FAIL" "$script" && { echo "SIOD ERROR" >&2; exit 255; }
wav=$(sed -n 's/.*utt.save.wave spoken "\\(.*\\)".*/\\1/p' "$script")
cp "%(wav)s" "$wav"
"""


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """A folder that is the whole PATH but for the shell's own tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "cp", "sed", "grep", "mkdir", "chmod", "cat", "basename"):
        for place in ("/bin", "/usr/bin"):
            if os.path.exists(f"{place}/{tool}") and not (folder / tool).exists():
                (folder / tool).symlink_to(f"{place}/{tool}")
    monkeypatch.setenv("PATH", str(folder))
    soundfile.write(tmp_path / "spoken.wav", np.full(8000, 0.1), 16000)
    return folder


def festival_text(tmp_path):
    return FESTIVAL % {"log": tmp_path / "calls", "wav": tmp_path / "spoken.wav"}


def test_festival_speaks_each_sentence_with_its_text(sentences, stand_ins, tmp_path):
    program(stand_ins, "festival", festival_text(tmp_path))
    raw = tmp_path / "raw with space"
    FestivalCorpus(sentences).fetch(raw, None, nj=2)
    items = list(FestivalCorpus(sentences).items(raw, None))
    assert [item.fault for item in items] == [None] * 4
    label = json.loads((raw / "fest001_telugu_NSK_diphone.json").read_text())
    assert label["text"] == "ఒకటి రెండు."
    FestivalCorpus(sentences).fetch(raw, None)
    assert len((tmp_path / "calls").read_text().splitlines()) == 4
    assert not list(raw.glob(".*"))


def test_a_sentence_that_festival_cannot_speak_is_named(stand_ins, tmp_path):
    program(stand_ins, "festival", festival_text(tmp_path))
    path = tmp_path / "s.txt"
    path.write_text('# train\na\n# valid\nFAIL "quoted\\ "\n# test\nc\n')
    with pytest.raises(WorkError, match="fest002") as caught:
        FestivalCorpus(path).fetch(tmp_path / "raw", None)
    assert "SIOD ERROR" in str(caught.value)
    assert len(hashes(tmp_path / "raw")) == 1


def test_without_festival_and_apt_the_install_command_is_told(
    sentences, stand_ins, tmp_path
):
    with pytest.raises(UserError) as caught:
        FestivalCorpus(sentences).fetch(tmp_path / "raw", None)
    assert "apt-get install festival festival-te festvox-te-nsk" in str(caught.value)
    assert "--corpus folder" in str(caught.value)


APT = """
echo "$@" >> "%(log)s"
case "$*" in
  *--print-uris*) echo "'http://x/a_1.deb' a_1.deb 33712345 SHA256:0"; %(knows)s ;;
  *--simulate*) echo "Inst libestools2.5 (2.5)"; echo "Inst festival (2.5)" ;;
  *update*) : > "%(log)s.updated" ;;
  *download*)
    while [ "$1" != download ]; do shift; done; shift
    for name in "$@"; do echo x > "${name}_1%%3a2_all.deb"; done ;;
esac
"""
DPKG = """
mkdir -p "$3/usr/bin" "$3/usr/lib"
cp "%(festival)s" "$3/usr/bin/festival"
: > "$3/usr/lib/libx.so.1"
"""


def test_festival_is_fetched_without_root_where_it_is_missing(
    sentences, stand_ins, tmp_path
):
    program(tmp_path, "the-festival", festival_text(tmp_path))
    log = tmp_path / "apt.log"
    program(stand_ins, "apt-get", APT % {"log": log, "knows": "true"})
    program(stand_ins, "dpkg-deb", DPKG % {"festival": tmp_path / "the-festival"})
    FestivalCorpus(sentences).fetch(tmp_path / "raw", None)
    assert len(hashes(tmp_path / "raw")) == 4
    downloads = [line for line in log.read_text().splitlines() if "print" not in line]
    assert downloads[-1].endswith(
        "download festival festival-te festvox-te-nsk libestools2.5"
    )
    assert "--datadir" in (tmp_path / "calls").read_text()


def test_packages_are_unpacked_once_and_lists_fetched_if_unknown(stand_ins, tmp_path):
    log = tmp_path / "apt.log"
    apt = APT % {"log": log, "knows": f'[ -e "{log}.updated" ]'}
    program(stand_ins, "apt-get", apt)
    program(stand_ins, "dpkg-deb", 'mkdir -p "$3"; echo "$2" >> "$3/unpacked.txt"')
    sizes = []
    root = fetch_packages(
        ["voices-a", "voices-b"], tmp_path / "deb", begins=sizes.append
    )
    assert sizes == ["34 MB"]
    assert "update" in log.read_text()
    assert len((root / "unpacked.txt").read_text().splitlines()) == 2
    calls = log.read_text()
    assert fetch_packages(["voices-b", "voices-a"], tmp_path / "deb") == root
    assert log.read_text() == calls
    fetch_packages(["voices-a", "voices-c"], tmp_path / "deb")
    assert log.read_text().splitlines()[-1].endswith("download voices-c")


def test_own_lists_are_fetched_once_a_day(stand_ins, tmp_path):
    log, deb = tmp_path / "apt.log", tmp_path / "deb"
    apt = APT % {"log": log, "knows": f'[ -e "{log}.updated" ]'}
    # Only with our own lists the packages are known.
    apt = apt.replace(
        "--print-uris*)",
        '--print-uris*) echo x; case "$*" in *Lists*) ;; *) exit 100 ;; esac;',
    )
    program(stand_ins, "apt-get", apt)
    program(stand_ins, "dpkg-deb", 'mkdir -p "$3"')

    def num_updates():
        calls = log.read_text().splitlines()
        return sum(call.endswith("update") for call in calls)

    fetch_packages(["voices-a"], deb)
    fetch_packages(["voices-b"], deb)
    assert num_updates() == 1
    yesterday = (deb / "apt/updated").stat().st_mtime - 25 * 3600
    os.utime(deb / "apt/updated", (yesterday, yesterday))
    fetch_packages(["voices-c"], deb)
    assert num_updates() == 2


def test_an_unknown_package_is_reported_with_the_sources(stand_ins, tmp_path):
    program(stand_ins, "apt-get", APT % {"log": tmp_path / "log", "knows": "exit 100"})
    program(stand_ins, "dpkg-deb", "exit 1")
    with pytest.raises(WorkError, match=r"don't hold nothing-such.*sources\.list"):
        fetch_packages(["nothing-such"], tmp_path / "deb")


def test_a_failing_apt_is_quoted(stand_ins, tmp_path):
    program(
        stand_ins,
        "apt-get",
        'case "$*" in *print-uris*) exit 0;; esac; echo "E: Hash mismatch" >&2; exit 9',
    )
    program(stand_ins, "dpkg-deb", "exit 0")
    with pytest.raises(WorkError, match="Hash mismatch"):
        fetch_packages(["a"], tmp_path / "deb")
