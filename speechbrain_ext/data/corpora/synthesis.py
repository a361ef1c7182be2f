"""Corpora that a speech synthesiser makes from a file of sentences.

The sentences file is UTF-8 text, one sentence a line, under the headings ``# train``,
``# valid`` and ``# test``; other lines that begin with ``#`` are remarks. The role of
a sentence is where it stands, so test sentences are never heard in training.
"""

from __future__ import annotations

import abc
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from speechbrain_ext.data.corpora import Item
from speechbrain_ext.data.progress import progress_bar
from speechbrain_ext.data.split import ROLES
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import sha256_file, write_json


@dataclass(frozen=True)
class Prompt:
    """One sentence in one voice.

    Arguments
    ---------
    utt_id : str
        Name of the recording.
    text : str
        The sentence.
    voice : str
        The synthesiser's name for the voice.
    role : str
        ``train``, ``valid`` or ``test``.
    engine : str
        Whatever else decides the sound: program, version, rate, pitch.
    """

    utt_id: str
    text: str
    voice: str
    role: str
    engine: str


class SynthesisCorpus(abc.ABC):
    """Speaks every sentence once and remembers what each file holds.

    Beside each ``raw/<utt_id>.wav`` lies a ``.json`` label with the prompt and the
    audio's SHA-256, written last: audio without its label is spoken again.

    Arguments
    ---------
    sentences : Path
        The sentences file.
    voices : Sequence of str
        Names of voices.
    every_voice : bool
        False: the voices take turns. True: each voice speaks each sentence.
    """

    #: Name in `CORPORA`, for messages.
    name = "synthesis"

    #: The files differ in nothing else than what these letters say.
    prefix = "syn"

    def __init__(
        self, sentences: Path, voices: Sequence[str], every_voice: bool = False
    ):
        self.sentences = Path(sentences)
        self.voices = list(voices)
        self.every_voice = every_voice

    @abc.abstractmethod
    def engine(self) -> str:
        """Describe program, version and settings; a change makes all audio anew."""

    @abc.abstractmethod
    def speak(self, prompts: list[Prompt], raw: Path, done: Callable[[Prompt], None]):
        """Write ``raw/<utt_id>.wav`` for each prompt, calling ``done`` after each."""

    def prompts(self) -> list[Prompt]:
        """List what is to be spoken, in order."""
        prompts = []
        engine = self.engine()
        turn = itertools.cycle(self.voices)
        lines = read_sentences(self.sentences)
        for number, (role, text) in enumerate(lines, start=1):
            for voice in self.voices if self.every_voice else [next(turn)]:
                utt_id = f"{self.prefix}{number:03d}_{voice.replace('+', '_')}"
                prompts.append(Prompt(utt_id, text, voice, role, engine))
        return prompts

    def fetch(self, raw: Path, data_folder: Path | None, *, nj: int = 1) -> None:
        """Speak what is not there yet, and remove what is no longer asked for."""
        if data_folder is not None:
            raise UserError(
                f"data: corpus {self.name!r} makes its own audio and takes no "
                "--data_folder; for your own recordings add --corpus folder"
            )
        prompts = self.prompts()
        wanted = {prompt.utt_id for prompt in prompts}
        raw.mkdir(parents=True, exist_ok=True)
        for leftover in raw.glob(f".{self.prefix}[0-9]*.json"):  # of a killed run
            leftover.unlink()
        for label in raw.glob(f"{self.prefix}[0-9]*.json"):
            if label.stem not in wanted:
                label.unlink()
                label.with_suffix(".wav").unlink(missing_ok=True)
        pending = [prompt for prompt in prompts if not _is_spoken(prompt, raw)]
        for prompt in pending:
            (raw / f"{prompt.utt_id}.json").unlink(missing_ok=True)
        if not pending:
            return
        with progress_bar() as progress:
            task = progress.add_task(
                f"speaking ({self.name})", total=len(pending), unit="sentences"
            )

            def done(prompt: Prompt) -> None:
                wav = raw / f"{prompt.utt_id}.wav"
                label = {**asdict(prompt), "sha256": sha256_file(wav)}
                write_json(wav.with_suffix(".json"), label)
                progress.advance(task)

            with ThreadPoolExecutor(max_workers=max(nj, 1)) as pool:
                shares = [pending[first::nj] for first in range(max(nj, 1))]
                jobs = [pool.submit(self.speak, share, raw, done) for share in shares]
                for job in jobs:
                    job.result()

    def items(self, raw: Path, data_folder: Path | None) -> Iterator[Item]:
        """List all prompts; audio that doesn't fit its label carries a fault."""
        for prompt in self.prompts():
            wav = raw / f"{prompt.utt_id}.wav"
            fault = None
            if not _is_spoken(prompt, raw):
                fault = "missing: not spoken yet; run the stage data"
            elif sha256_file(wav) != _read_label(wav)["sha256"]:
                fault = "wrongly labelled: the audio is not what was spoken"
            spk_id = prompt.voice.replace("+", "_")
            yield Item(prompt.utt_id, wav, spk_id, prompt.text, prompt.role, fault)


def _read_label(wav: Path) -> dict:
    try:
        return json.loads(wav.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _is_spoken(prompt: Prompt, raw: Path) -> bool:
    wav = raw / f"{prompt.utt_id}.wav"
    label = _read_label(wav)
    return wav.is_file() and asdict(prompt).items() <= label.items()


def read_sentences(path: Path) -> list[tuple[str, str]]:
    """Read a sentences file.

    Returns
    -------
    list of (str, str)
        Role and sentence, in the file's order.

    Raises
    ------
    UserError
        If it can't be read, a sentence stands above the first heading, one appears
        twice, or a role has none; all faults together.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data: sentences {path}: {error}") from None
    role, sentences, faults, seen = None, [], [], {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
            role = heading if heading in ROLES else role
        elif line:
            if role is None:
                faults.append(f"line {number}: stands above the first heading")
            if line in seen:
                faults.append(f"line {number}: is line {seen[line]} again")
            seen[line] = number
            sentences.append((role, line))
    for wanted in ROLES:
        if wanted not in {role for role, _ in sentences}:
            faults.append(f"no sentence under '# {wanted}'")
    if faults:
        raise UserError("\n  ".join([f"data: sentences {path}", *faults]))
    return sentences
