"""eSpeak NG through ctypes: a corpus of synthetic voices, embedded in a wheel.

eSpeak's state is global, and what it said before changes a little how it sounds. So
each sentence is spoken in a fresh fork of a small child process (this module run with
``-m``), with a fixed seed for its breath noise: the audio is a pure function of the
prompt.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

from speechbrain_ext.data.corpora.facts import (
    Facts,
    iso_language,
    licence_of_sentences,
)
from speechbrain_ext.data.corpora.synthesis import Prompt, SynthesisCorpus
from speechbrain_ext.errors import UserError, WorkError

# From espeak-ng/speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_PARAMETERS = {"rate": 1, "pitch": 3}


class EspeakCorpus(SynthesisCorpus):
    """Sentences spoken by eSpeak NG's variants of a language's voice.

    Arguments
    ---------
    sentences, every_voice
        As `SynthesisCorpus`.
    voices : Sequence of str
        Language with an optional variant, such as ``te`` and ``te+f1``.
    rate : int
        Words per minute, 80 to 450.
    pitch : int
        0 to 100; 50 is the voice's own.
    """

    name = "espeak"
    prefix = "esp"

    def __init__(
        self,
        sentences: Path,
        voices: Sequence[str] = ("te+m1", "te+f1", "te+m3", "te+f2", "te+m7", "te+f5"),
        every_voice: bool = False,
        rate: int = 150,
        pitch: int = 50,
    ):
        super().__init__(sentences, voices, every_voice)
        self.rate = rate
        self.pitch = pitch
        _check_voices(self.voices)

    def engine(self) -> str:
        """Return program, version, rate and pitch."""
        from importlib.metadata import version

        loader = version("espeakng-loader")
        return f"espeakng-loader {loader}, rate {self.rate}, pitch {self.pitch}"

    def facts(self, raw: Path, data_folder: Path | None) -> Facts:
        """Tell title, licence and languages; nobody was recorded."""
        return Facts(
            "sentences spoken by eSpeak NG",
            licence=licence_of_sentences(self.sentences),
            language=tuple(sorted({iso_language(voice) for voice in self.voices})),
            synthetic=True,
            url="https://github.com/espeak-ng/espeak-ng",
            note="The licence is that of the sentences; eSpeak NG, which speaks them, "
            "is a program under GPL-3.0-or-later.",
        )

    def speak(self, prompts: list[Prompt], raw: Path, done: Callable[[Prompt], None]):
        """Let a child process speak the prompts, 22.05 kHz PCM16."""
        tasks = [
            {
                "text": prompt.text,
                "voice": prompt.voice,
                "rate": self.rate,
                "pitch": self.pitch,
                "path": str(raw / f"{prompt.utt_id}.wav"),
            }
            for prompt in prompts
        ]
        child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        with child:
            try:
                child.stdin.write(json.dumps(tasks))
                child.stdin.close()
                for prompt, line in zip(prompts, child.stdout, strict=False):
                    if line.strip() != "ok":
                        raise WorkError(f"espeak: {prompt.utt_id}: {line.strip()}")
                    done(prompt)
            except BrokenPipeError:
                pass  # the exit code tells
            finally:
                if child.poll() is None and sys.exc_info()[0]:
                    child.kill()
        if child.returncode:
            raise WorkError(
                f"espeak: the child process ended with code {child.returncode}; "
                "what it has spoken is kept, the same command goes on"
            )


def _loader():
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            "espeak: the package espeakng-loader is missing; install it with: "
            "pip install espeakng-loader"
        ) from None
    return espeakng_loader


def _check_voices(voices: Sequence[str]) -> None:
    """Refuse unknown names; eSpeak itself would quietly take another voice."""
    data = Path(_loader().get_data_path())
    languages = {path.name for path in (data / "lang").rglob("*") if path.is_file()}
    variants = {path.name for path in (data / "voices" / "!v").iterdir()}
    if not voices:
        raise UserError("espeak: no voices were given")
    for voice in voices:
        language, plus, variant = voice.partition("+")
        if language not in languages:
            raise UserError(f"espeak: voice {voice!r}: no language {language!r}")
        if plus and variant not in variants:
            known = ", ".join(sorted(variants))
            raise UserError(
                f"espeak: voice {voice!r}: no variant {variant!r}; there are {known}"
            )


def _speak_here(task: dict) -> None:
    """Speak one task in this process; the next one would sound different."""
    loader = _loader()
    library = ctypes.CDLL(loader.get_library_path())
    rate = library.espeak_Initialize(
        _AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(loader.get_data_path()), 0
    )
    if rate <= 0:
        raise RuntimeError(f"espeak_Initialize returned {rate}")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    pieces = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def collect(samples, num_samples, events):
        if samples and num_samples > 0:
            pieces.append(ctypes.string_at(samples, 2 * num_samples))
        return 0

    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(task["voice"].encode()):
        raise RuntimeError(f"no voice {task['voice']!r}")
    for parameter, number in _PARAMETERS.items():
        library.espeak_SetParameter(number, task[parameter], 0)
    text = task["text"].encode() + b"\0"
    status = library.espeak_Synth(
        text, ctypes.c_size_t(len(text)), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
    )
    if status or library.espeak_Synchronize():
        raise RuntimeError(f"espeak_Synth returned {status}")
    with wave.open(task["path"], "wb") as stream:
        stream.setparams((1, 2, rate, 0, "NONE", "not compressed"))
        stream.writeframes(b"".join(pieces))


def _child() -> None:
    """Speak the tasks given as JSON on stdin; one line of answer for each."""
    for task in json.load(sys.stdin):
        pid = os.fork()
        if pid == 0:
            answer = "ok"
            try:
                _speak_here(task)
            except Exception as error:
                answer = f"{type(error).__name__}: {error}".replace("\n", " ")
            print(answer, flush=True)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            print(f"crashed with status {status}", flush=True)


if __name__ == "__main__":
    _child()
