"""Festival's Telugu voice NSK: diphones cut from a human voice, 16 kHz."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from speechbrain_ext.data.corpora.debian import fetch_packages
from speechbrain_ext.data.corpora.facts import YOURS, Facts, licence_of_sentences
from speechbrain_ext.data.corpora.synthesis import Prompt, SynthesisCorpus
from speechbrain_ext.errors import UserError, WorkError

PACKAGES = ("festival", "festival-te", "festvox-te-nsk")

#: First part of a voice's name -> its language, and the licence of its diphones.
_VOICES = {"telugu": ("te", "GPL-2+")}

_INSTALL = f"apt-get install {' '.join(PACKAGES)}"


class FestivalCorpus(SynthesisCorpus):
    """Sentences spoken by Festival; fetched into ``raw`` where it isn't installed.

    Arguments
    ---------
    sentences, every_voice
        As `SynthesisCorpus`.
    voices : Sequence of str
        Names of Festival voices, as in ``(voice_NAME)``.
    """

    name = "festival"
    prefix = "fest"

    def __init__(
        self,
        sentences: Path,
        voices: Sequence[str] = ("telugu_NSK_diphone",),
        every_voice: bool = False,
    ):
        super().__init__(sentences, voices, every_voice)
        self._found: tuple[list[str], dict[str, str]] | None = None

    def engine(self) -> str:
        """Return the program and its intonation method."""
        return "festival, DuffInt"

    def facts(self, raw: Path, data_folder: Path | None) -> Facts:
        """Tell title, licences and language; a human spoke the diphones only."""
        known = [_VOICES.get(voice.partition("_")[0]) for voice in self.voices]
        return Facts(
            "sentences spoken by Festival",
            language=tuple(sorted({one[0] for one in known if one})),
            synthetic=True,
            url="https://festvox.org/festival/",
            licences={
                "the sentences": licence_of_sentences(self.sentences),
                **{
                    f"the voice {voice}": one[1] if one else YOURS
                    for voice, one in zip(self.voices, known, strict=True)
                },
            },
        )

    def speak(self, prompts: list[Prompt], raw: Path, done: Callable[[Prompt], None]):
        """Speak each prompt in a process of its own; Festival stops at an error."""
        command, environment = self._found or find_festival(self.voices, raw)
        for prompt in prompts:
            # Beside its place, so that a killed run leaves no half file there.
            with tempfile.TemporaryDirectory(dir=raw, prefix=".speaking") as folder:
                wav, script = Path(folder, "out.wav"), Path(folder, "in.scm")
                script.write_text(_script(prompt, wav), encoding="utf-8")
                result = subprocess.run(
                    [*command, "-b", str(script)],
                    env=environment,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    check=False,
                    stdin=subprocess.DEVNULL,
                )
                if result.returncode or not wav.exists():
                    last = (result.stderr or result.stdout).strip().splitlines()[-3:]
                    raise WorkError(
                        "\n  ".join([f"festival: {prompt.utt_id}: not spoken", *last])
                    )
                os.replace(wav, raw / f"{prompt.utt_id}.wav")
            done(prompt)

    def fetch(self, raw: Path, data_folder: Path | None, *, nj: int = 1) -> None:
        """Find or fetch Festival once, before the jobs start, then speak."""
        if data_folder is None:
            raw.mkdir(parents=True, exist_ok=True)
            for leftover in raw.glob(".speaking*"):  # of a killed run
                shutil.rmtree(leftover)
            self._found = find_festival(self.voices, raw)
        super().fetch(raw, data_folder, nj=nj)


def _script(prompt: Prompt, wav: Path) -> str:
    """Return the Scheme program for one prompt.

    The default intonation method needs a model this voice hasn't; DuffInt is a
    straight declination and works.
    """
    return (
        f"(voice_{prompt.voice})\n"
        "(Parameter.set 'Int_Method 'DuffInt)\n"
        f"(set! spoken (SynthText {_quoted(prompt.text)}))\n"
        f"(utt.save.wave spoken {_quoted(str(wav))} 'riff)\n"
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def find_festival(voices: Sequence[str], raw: Path) -> tuple[list[str], dict[str, str]]:
    """Find an installed Festival that has the voices, or unpack Debian's.

    Arguments
    ---------
    voices : Sequence of str
        Names of voices that are needed.
    raw : Path
        Debian's packages are unpacked into ``raw/debian``.

    Returns
    -------
    list of str
        The command.
    dict
        Its environment.

    Raises
    ------
    UserError
        With the command that installs Festival, where it can't be fetched.
    """
    environment = dict(os.environ)
    installed = shutil.which("festival")
    if installed and _has_voices([installed], environment, voices):
        return [installed], environment
    try:
        root = fetch_packages(PACKAGES, raw / "debian", dependencies=True)
    except UserError as error:
        raise type(error)(
            f"festival: not installed, and could not be fetched\n{error}\n"
            f"install it as root with: {_INSTALL}"
        ) from None
    libraries = sorted({str(path.parent) for path in root.rglob("lib*.so*")})
    before = environment.get("LD_LIBRARY_PATH")
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(
        [*libraries, before] if before else libraries
    )
    program = str(root / "usr/bin/festival")
    command = [program, "--datadir", str(root / "usr/share/festival")]
    command += ["--libdir", str(root / "usr/lib/festival")]
    if not _has_voices(command, environment, voices):
        raise WorkError(
            f"festival: unpacked below {root}, but it does not run or lacks a voice of "
            f"{', '.join(voices)}; install it as root with: {_INSTALL}"
        )
    return command, environment


def _has_voices(command, environment, voices: Sequence[str]) -> bool:
    program = "".join(f"(voice_{voice})" for voice in voices)
    result = subprocess.run(
        [*command, "-b", f"(begin {program})"],
        env=environment,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return result.returncode == 0
