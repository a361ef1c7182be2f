import shutil
from collections import Counter

import pytest
import soundfile

from speechbrain_ext.data.corpora import choice, debian_voices, speakers_of
from speechbrain_ext.data.corpora.choice import choose_corpus
from speechbrain_ext.data.corpora.debian_voices import DebianVoices, read_table
from speechbrain_ext.errors import UserError, WorkError

#: Files as the packages have them -> the speaker each belongs to, None for none.
FILES = {
    "klettres/de/alpha/A.ogg": "klet_de",
    "klettres/de/alpha/a.ogg": "klet_de",
    "klettres/de/syllab/ab-1.2.ogg": "klet_de",
    "klettres/en/alpha/a.ogg": "klet_en",
    "klettres/en_GB/alpha/a.ogg": "klet_en_GB",
    "klettres/nn/sounds.xml": None,
    "klettres/pics/desert/a.ogg": None,
    "ktuberling/sounds/sr/nos.ogg": "ktub_sr",
    "ktuberling/sounds/sr@latin/nos.ogg": None,
    "ktuberling/sounds/ru/egypt_arch.ogg": "ktub_ru",
    "ktuberling/sounds/fr/bouche.wav": None,
    "ktuberling/sounds/fr/patate_bouche.wav": None,
    "ktuberling/sounds/fr/noel_ange.wav": "ktub_fr",
    "ktuberling/sounds/fi/nena.wav": "ktub_fi",
    "tuxpaint/stamps/animals/birds/crow.ogg": None,
    "tuxpaint/stamps/animals/birds/crow_fr.ogg": None,
    "tuxpaint/stamps/animals/birds/crow_desc.ogg": "tux_en",
    "tuxpaint/stamps/animals/birds/crow_desc_fr.ogg": "tux_fr",
    "tuxpaint/stamps/animals/birds/crow_desc_be.ogg": "tux_be",
    "tuxpaint/stamps/animals/birds/pigeon_desc_fr.ogg": "tux_fr",
    "tuxpaint/stamps/animals/birds/pigeon_desc_nl.ogg": None,
    "tuxpaint/stamps/animals/birds/pigeon_desc.ogg": None,
    "games/fillets-ng/sound/atlantis/cs/atl-m-co.ogg": "fil_cs_m",
    "games/fillets-ng/sound/atlantis/cs/atl-v-co.ogg": "fil_cs_v",
    "games/fillets-ng/sound/share/border/nl/bor-v-m-1.ogg": "fil_nl_v",
    "games/fillets-ng/sound/atlantis/cs/atl-x-m-co.ogg": None,
    "games/fillets-ng/sound/hanoi/cs/m-bude.ogg": None,
    "asterisk/sounds/en_US_f_Allison/digits/1.g722": "ast_en_allison",
    "asterisk/sounds/en_US_f_Allison/silence/1.g722": None,
    "asterisk/sounds/es_MX_f_Allison/agent-pass.g722": "ast_en_allison",
    "asterisk/sounds/es/beep.gsm": "ast_es_co",
    "asterisk/sounds/es/digits/1.gsm": "ast_es_co",
    "asterisk/sounds/it_IT_f_Menardi/silence/1.wav": None,
    "asterisk/sounds/it_IT_f_Menardi/letters/a.wav": "ast_it_menardi",
}


@pytest.fixture
def root(tmp_path):
    """Some files of each package, unpacked."""
    root = tmp_path / "raw" / "root"
    for name in FILES:
        path = root / "usr/share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    # As asterisk-prompt-es-co does.
    (root / "usr/share/asterisk/sounds/es/also").symlink_to("digits")
    return root


def test_each_file_goes_to_its_speaker_or_to_nobody(root):
    found = {
        item.path.relative_to(root / "usr/share").as_posix(): item.spk_id
        for item in DebianVoices().items(root.parent, None)
    }
    assert found == {name: spk for name, spk in FILES.items() if spk}


def test_names_are_unique_in_any_letter_case_and_say_the_folder(root):
    items = list(DebianVoices().items(root.parent, None))
    assert len({item.utt_id.casefold() for item in items}) == len(items)
    rows = {row.name for row in read_table()}
    assert {item.utt_id.partition("-")[0] for item in items} <= rows
    again = list(DebianVoices().items(root.parent, None))
    assert again == items


def test_one_person_in_two_packages_is_one_speaker_with_two_sources(root):
    items = list(DebianVoices().items(root.parent, None))
    sources = {item.source for item in items if item.spk_id == "ast_en_allison"}
    assert sources == {f"asterisk-core-sounds-{lang}-g722" for lang in ("en", "es")}
    assert "ast_es_allison" not in {item.spk_id for item in items}


def test_suspects_are_never_tested_and_look_alikes_stay_together(root):
    known = speakers_of(DebianVoices(), root.parent, None)
    suspects = {spk_id for spk_id, one in known.items() if not one.may_test}
    assert suspects == {"klet_de", "ktub_ru"}
    assert known["ktub_ru"].same_side == known["tux_be"].same_side is not None
    assert all(known[spk_id].note for spk_id in suspects)
    listed = {item.spk_id for item in DebianVoices().items(root.parent, None)}
    assert set(known) == listed


def test_the_table_is_sound():
    table = read_table()
    names = [row.name for row in table]
    assert len(set(names)) == len(names) == 66
    assert len({row.spk_id for row in table}) == 65
    for row in table:
        assert row.same_as == "" or row.same_as in names
        assert row.name.replace("_", "").isalnum()
        assert all((row.package, row.language, row.place, row.licence))
        if not row.may_test or row.same_as or row.same_side:
            assert row.note
    assert {row.name for row in table if not row.may_test} == {
        *("klet_de", "ktub_ca", "ktub_da", "ktub_ru")
    }
    assert {"ast_es_co", "ast_fr_armelle", "ast_it_menardi"} <= {
        row.name for row in table if row.narrowband
    }
    sides = Counter(row.same_side for row in table if row.same_side)
    assert sides == {"ktub_ru": 2}


def test_the_cap_draws_the_same_files_whatever_else_is_there(root, tmp_path):
    place = root / "usr/share/klettres/en/alpha"
    for number in range(40):
        (place / f"{number}.ogg").write_bytes(b"x")

    def drawn(limit):
        items = DebianVoices(limit).items(root.parent, None)
        return [item.utt_id for item in items if item.spk_id == "klet_en"]

    assert len(drawn(0)) == 41
    assert len(drawn(160)) == 41
    assert len(drawn(10)) == 10
    assert drawn(10) == sorted(drawn(10))
    assert set(drawn(10)) < set(drawn(20))
    assert drawn(10) != drawn(0)[:10]
    before = drawn(10)
    (place / "one_more.ogg").write_bytes(b"x")
    assert len(set(before) - set(drawn(10))) <= 1
    with pytest.raises(UserError, match="max_files_per_speaker"):
        DebianVoices(-1)


# --- fetching, with apt played by a function ----------------------------------------


@pytest.fixture
def apt(monkeypatch, root):
    """Packages appear unless they are in ``gone``; ``asked`` lists the calls."""
    shutil.rmtree(root)

    class Apt:
        gone, asked = set(), []

        def fetch(self, names, folder, *, dependencies=False, begins=None):
            self.asked += names
            if begins is not None:
                begins("34 MB")
            (folder / "archives").mkdir(parents=True, exist_ok=True)
            for name in names:
                if name in self.gone:
                    raise WorkError(f"debian: apt\nE: no {name}")
                (folder / "archives" / f"{name}_1_all.deb").write_bytes(b"x")
                for row in read_table():
                    if row.package == name and row.name in ("klet_de", "ktub_ru"):
                        path = folder / "root" / row.place / row.language
                        (path / "alpha").mkdir(parents=True)
                        (path / "alpha" / "a.ogg").write_bytes(b"x")
                        (path / "a.ogg").write_bytes(b"x")
            return folder / "root"

    Apt.asked = []
    stand_in = Apt()
    monkeypatch.setattr(debian_voices, "fetch_packages", stand_in.fetch)
    monkeypatch.setattr(choice, "fetch_packages", stand_in.fetch)
    return stand_in


def test_a_missing_package_costs_its_speakers_only_and_is_named(apt, tmp_path):
    apt.gone = {"klettres-data"}
    said = []
    corpus = DebianVoices(log=said.append)
    corpus.fetch(tmp_path / "raw", None)
    assert said == ["data: without klettres-data (20 speakers): E: no klettres-data"]
    assert {item.spk_id for item in corpus.items(tmp_path / "raw", None)} == {"ktub_ru"}
    assert sorted(apt.asked) == sorted({row.package for row in read_table()})
    assert not list((tmp_path / "raw/archives").iterdir())


def test_without_any_package_the_way_out_is_told(apt, tmp_path):
    apt.gone = {row.package for row in read_table()}
    with pytest.raises(WorkError, match="E: no klettres-data") as caught:
        DebianVoices().fetch(tmp_path / "raw", None)
    assert "--corpus espeak" in str(caught.value)
    with pytest.raises(UserError, match="run the stage data first"):
        list(DebianVoices().items(tmp_path / "raw", None))


def test_packages_that_are_unpacked_elsewhere_are_read_there(root, tmp_path):
    corpus = DebianVoices()
    corpus.fetch(tmp_path / "other", root)
    items = list(corpus.items(tmp_path / "other", root))
    assert len(items) == sum(spk is not None for spk in FILES.values())
    assert speakers_of(corpus, tmp_path / "other", root).keys() == {
        item.spk_id for item in items
    }
    (tmp_path / "mine").mkdir()
    soundfile.write(tmp_path / "mine/a.wav", [0.0] * 9, 16000)
    with pytest.raises(UserError, match="--corpus folder"):
        corpus.fetch(tmp_path / "other", tmp_path / "mine")


def test_auto_takes_debian_where_it_can_be_fetched_and_says_why_not(apt, tmp_path):
    name, why = choose_corpus(tmp_path / "raw")
    assert (name, "human voices" in why) == ("debian", True)
    apt.gone = set(apt.asked)
    name, why = choose_corpus(tmp_path / "raw")
    assert name == "espeak"
    assert "E: no asterisk-prompt-es-co" in why


def test_what_auto_tried_is_no_corpus_until_it_is_fetched(apt, tmp_path):
    raw = tmp_path / "data" / "raw"
    choose_corpus(raw)
    assert not raw.exists()
    asked = len(apt.asked)
    DebianVoices().fetch(raw, None)
    assert raw.exists()
    assert [path.name for path in raw.parent.iterdir()] == ["raw"]
    choose_corpus(raw)
    assert apt.asked[asked:].count("asterisk-prompt-es-co") == 2  # both below raw
    assert [path.name for path in raw.parent.iterdir()] == ["raw"]


def test_auto_without_apt_takes_espeak(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    name, why = choose_corpus(tmp_path / "raw")
    assert name == "espeak"
    assert "\n" not in why
