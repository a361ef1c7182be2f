from collections import Counter
from pathlib import Path

import pytest

from speechbrain_ext.data.corpora.espeak_voices import (
    VARIANTS,
    EspeakVoices,
    read_texts,
)
from speechbrain_ext.errors import UserError

SENTENCES = (
    Path(__file__).resolve().parents[2] / "egs/voxceleb_mini/local/sentences.txt"
)


def test_each_variant_is_one_speaker_with_sentences_of_its_own():
    prompts = EspeakVoices(SENTENCES).prompts()
    assert len({prompt.utt_id for prompt in prompts}) == len(prompts) == 160
    assert set(Counter(prompt.voice for prompt in prompts).values()) == {8}
    variants = [prompt.voice.partition("+")[2] for prompt in prompts]
    assert len(set(variants)) == len({prompt.voice for prompt in prompts}) == 20
    said = {voice: set() for voice in dict.fromkeys(p.voice for p in prompts)}
    for prompt in prompts:
        said[prompt.voice].add(prompt.text)
    assert all(len(texts) == 8 for texts in said.values())
    # No sentence gives a speaker away.
    speakers = Counter(text for texts in said.values() for text in texts)
    assert min(speakers.values()) >= 2


def test_the_items_fix_no_role_and_name_the_language(tmp_path):
    corpus = EspeakVoices(SENTENCES, num_voices=2, sentences_per_voice=2)
    corpus.fetch(tmp_path, None)
    items = list(corpus.items(tmp_path, None))
    assert [(item.spk_id, item.source) for item in items] == [
        *[(f"en_{VARIANTS[0]}", "espeak-en")] * 2,
        *[(f"te_{VARIANTS[1]}", "espeak-te")] * 2,
    ]
    assert {(item.role, item.fault) for item in items} == {(None, None)}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    corpus.fetch(tmp_path, None)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_voices": 1}, "num_voices lies in 2 to 30"),
        ({"num_voices": 31}, "num_voices lies in 2 to 30"),
        ({"sentences_per_voice": 1}, "sentences_per_voice lies in 2 to 16"),
        ({"sentences_per_voice": 17}, "sentences_per_voice lies in 2 to 16"),
    ],
)
def test_numbers_that_cannot_be_are_refused(arguments, match):
    with pytest.raises(UserError, match=match):
        EspeakVoices(SENTENCES, **arguments)


def test_faults_in_a_sentences_file_are_told_together(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("early\n# two words\n# en\none\none\n# te\n")
    with pytest.raises(UserError) as caught:
        read_texts(path)
    for part in ("line 1: stands above", "line 5: stands there twice", "'# te'"):
        assert part in str(caught.value)
    path.write_text("# xx\none\ntwo\n")
    with pytest.raises(UserError, match="no language 'xx'"):
        EspeakVoices(path, num_voices=2, sentences_per_voice=2)
    with pytest.raises(UserError, match="No such file"):
        read_texts(tmp_path / "none")
