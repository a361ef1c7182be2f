"""Many synthetic voices of eSpeak NG, each a speaker: for tests and first tries.

They are no substitute for people: a model that learns them has learned formant tables,
and as further classes beside human voices they don't help.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from speechbrain_ext.data.corpora import Item
from speechbrain_ext.data.corpora.espeak import EspeakCorpus
from speechbrain_ext.data.corpora.synthesis import Prompt
from speechbrain_ext.errors import UserError

#: eSpeak's variants from the most different on: each is the one farthest from all
#: before it, of 102 that a voice activity detector takes for speech, in the embeddings
#: of a published speaker encoder (Resemblyzer 0.1.4). Beyond these, pairs are alike.
VARIANTS = (
    *("m1", "belinda", "Marco", "anika", "ian", "Hugo", "steph", "caleb"),
    *("AnxiousAndy", "iven", "shelby", "robosoft8", "f5", "sandro", "travis"),
    *("robosoft", "kaukovalta", "RicishayMax2", "klatt", "Andy", "edward", "Jacky"),
    *("boris", "Nguyen", "zac", "grandma", "robosoft6", "david", "Reed", "Storm"),
)


class EspeakVoices(EspeakCorpus):
    """Variants of eSpeak's voices as speakers, each with sentences of its own.

    The languages take turns: every variant speaks one of them, so each voice is one
    speaker, and the language is its source.

    Arguments
    ---------
    sentences : Path
        UTF-8 text, one sentence a line, under headings that name the language as
        eSpeak does: ``# en``, ``# te``. Other lines with ``#`` are remarks as long as
        they hold more than one word.
    num_voices : int
        2 to 30, the most different first.
    sentences_per_voice : int
        At least 2; of its language's sentences, each voice begins at another one.
    """

    def __init__(
        self, sentences: Path, num_voices: int = 20, sentences_per_voice: int = 8
    ):
        if not 2 <= num_voices <= len(VARIANTS):
            raise UserError(
                f"espeak: num_voices lies in 2 to {len(VARIANTS)}, got {num_voices}"
            )
        self.texts = read_texts(sentences)
        fewest = min(map(len, self.texts.values()))
        if not 2 <= sentences_per_voice <= fewest:
            raise UserError(
                f"espeak: sentences_per_voice lies in 2 to {fewest} (as many as "
                f"{sentences} has of each language), got {sentences_per_voice}"
            )
        self.sentences_per_voice = sentences_per_voice
        languages = list(self.texts)
        voices = [
            f"{languages[index % len(languages)]}+{variant}"
            for index, variant in enumerate(VARIANTS[:num_voices])
        ]
        super().__init__(sentences, voices, every_voice=True)

    def prompts(self) -> list[Prompt]:
        """List what is to be spoken; the roles say nothing."""
        engine, prompts = self.engine(), []
        for index, voice in enumerate(self.voices):
            texts = self.texts[voice.partition("+")[0]]
            for number in range(self.sentences_per_voice):
                # Neighbours of one language share half of their sentences or fewer.
                place = (index * self.sentences_per_voice // 2 + number) % len(texts)
                utt_id = f"{self.prefix}{place + 1:03d}_{voice.replace('+', '_')}"
                prompts.append(Prompt(utt_id, texts[place], voice, "train", engine))
        return prompts

    def items(self, raw: Path, data_folder: Path | None) -> Iterator[Item]:
        """List all prompts; no role is fixed, the language is the source."""
        for item in super().items(raw, data_folder):
            source = item.spk_id.partition("_")[0]
            yield replace(item, role=None, source=f"espeak-{source}")


def read_texts(path: Path) -> dict[str, Sequence[str]]:
    """Read sentences by language.

    Returns
    -------
    dict
        Language -> sentences, both in the file's order.

    Raises
    ------
    UserError
        If the file can't be read, or a sentence stands above the first heading or
        twice below one; all faults together.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data: sentences {path}: {error}") from None
    texts: dict[str, list[str]] = {}
    language, faults = None, []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line.startswith("#"):
            words = line.lstrip("#").split()
            if len(words) == 1:
                language = words[0]
                texts.setdefault(language, [])
        elif line and language is None:
            faults.append(f"line {number}: stands above the first heading")
        elif line in texts.get(language, ()):
            faults.append(f"line {number}: stands there twice")
        elif line:
            texts[language].append(line)
    faults += [f"no sentence under '# {name}'" for name in texts if not texts[name]]
    if not texts:
        faults.append("no heading such as '# en'")
    if faults:
        raise UserError("\n  ".join([f"data: sentences {path}", *faults]))
    return texts
