"""``speechbrain-ext encode`` and ``decode``: recordings to coded files, and back."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechbrain_ext.coding.plan import CODED, STREAM, Job, plan
from speechbrain_ext.errors import NothingWritten, UserError, WorkError
from speechbrain_ext.sharing.kinds import refuse_kinds

if TYPE_CHECKING:
    from speechbrain_ext.coding.work import Done

SETTINGS = {"help_option_names": ["-h", "--help"]}
_MAX_TOLD = 20
#: Beyond, 16-bit recordings have nothing to be faithful to.
_MOST_SNR = 90


def _shared(command):
    """Give a command the options that encode and decode share."""
    options = (
        click.argument("paths", nargs=-1, required=True, metavar="IN... OUT"),
        click.option(
            "--model",
            required=True,
            metavar="MODEL",
            help="An experiment, an export, a bundle (.zip), or USER/REPO of the "
            "Hugging Face Hub.",
        ),
        click.option(
            "--nj", type=click.IntRange(min=1), default=1, help="Processes; default: 1."
        ),
        click.option("--force", is_flag=True, help="Write over files that are there."),
        click.option(
            "--skip_existing", is_flag=True, help="Keep files that are there; go on."
        ),
        click.option(
            "--revision", metavar="NAME", help="Of the Hub: a branch, tag or commit."
        ),
        click.option(
            "--allow",
            multiple=True,
            metavar="NAME",
            help="A name that a model is built from, beyond the list; more with "
            "commas.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(context_settings=SETTINGS)
@_shared
@click.option(
    "--kbps",
    type=click.FloatRange(min=0, min_open=True),
    help="Most kilobits per second of each channel, header included.",
)
@click.option(
    "--snr",
    type=click.FloatRange(min=0, min_open=True, max=_MOST_SNR),
    help="Least signal-to-noise ratio in dB, at the model's sample rate.",
)
@click.option(
    "--codebooks",
    type=click.IntRange(min=1),
    help="Of an RVQ codec: how many of its codebooks.",
)
def encode(
    paths,
    model,
    nj,
    force,
    skip_existing,
    revision,
    allow,
    kbps,
    snr,
    codebooks,
):
    """Code recordings: IN of any format, rate, length and number of channels.

    One IN becomes the file OUT. Several, and folders, which are searched for audio, go
    into the folder OUT as NAME.sbx. - is standard input or output.

    Without a rate: 8 kbps, or all codebooks of an RVQ codec. Files that are there are
    never written over without --force.

    A file of many that can't be coded is named at the end, with exit code 1; the others
    are done.
    """
    given = {"kbps": kbps, "snr": snr, "codebooks": codebooks}
    aim = {name: value for name, value in given.items() if value is not None}
    if len(aim) > 1:
        options = " and ".join(f"--{name}" for name in aim)
        raise UserError(f"encode: {options} are two aims; give one of them")
    from speechbrain_ext.data.audio import AUDIO_EXTENSIONS
    from speechbrain_ext.data.corpora.folder import find_audio

    out = Path(paths[-1])
    if len(paths) > 1 and out.suffix.lower() in AUDIO_EXTENSIONS and not out.is_dir():
        raise UserError(
            f"encode: {out}: the last path is what is written, and this is named as "
            f"audio\n  Next: give OUT, as {out.with_suffix(CODED).name}"
        )
    _run("encode", paths, nj, aim, CODED, find_audio, force, skip_existing, model=model,
         revision=revision, allow=allow)  # fmt: skip


@click.command(context_settings=SETTINGS)
@_shared
@click.option(
    "--format",
    "form",
    type=click.Choice(["wav", "flac"]),
    help="Default: the ending of OUT, else wav.",
)
@click.option(
    "--bits",
    type=click.Choice(["16", "24", "32", "float"]),
    help="Of a sample; default: 16. flac has 16 and 24.",
)
def decode(
    paths,
    model,
    nj,
    force,
    skip_existing,
    revision,
    allow,
    form,
    bits,
):
    """Make audio of coded files, with the MODEL that coded them.

    Rate, number of samples and channels are those of the recording. One IN becomes the
    file OUT, .wav or .flac. Several, and folders, which are searched for .sbx, go into
    the folder OUT. - is standard input or output.

    Files that are there are never written over without --force. A file of many that
    can't be decoded is named at the end, with exit code 1; the others are done.
    """
    from speechbrain_ext.coding.sound import choose_format

    one = len(paths) == 2 and not Path(paths[0]).is_dir() and paths[-1] != STREAM
    chosen = choose_format(paths[-1] if one else "", form, bits)
    _run("decode", paths, nj, {}, f".{chosen.name}", _find_coded, force, skip_existing,
         model=model, revision=revision, allow=allow, form=chosen)  # fmt: skip


def _find_coded(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob(f"*{CODED}") if p.is_file())


def _run(
    who, paths, nj, aim, suffix, search, force, skip, *, model, allow, **settings
) -> None:
    """Plan, load the model, make all files, and say what became of them."""
    if force and skip:
        raise UserError(f"{who}: --force and --skip_existing say different things")
    jobs, skipped = plan(
        who, paths, suffix=suffix, search=search, force=force, skip=skip
    )
    refuse_kinds(who, model, "recipe", "file", "device", "folder")
    if jobs and jobs[0].target is None and sys.stdout.isatty():
        raise UserError(f"{who}: bytes are nothing for a terminal; give a file, or a |")
    if not jobs:
        click.echo(f"{who}: all {skipped} files are there already")
        return
    # torch takes seconds to import; --help shall not wait for it.
    from speechbrain_ext.coding.pool import run_jobs
    from speechbrain_ext.coding.work import Task
    from speechbrain_ext.config.command_line import names_of

    task = Task(who, model, aim=aim, allow=tuple(names_of(allow)), **settings)
    done: list[Done] = []
    try:
        work = task.open()
        started = time.monotonic()
        for one in run_jobs(task, work, jobs, nj):
            done.append(one)
    except KeyboardInterrupt:
        raise _interrupted(jobs, done, force) from None
    took = time.monotonic() - started
    faults = {one.name: one.fault for one in done if one.fault is not None}
    if len(jobs) + skipped == 1 and faults:
        raise UserError(f"{who}: {jobs[0].name}: {faults[jobs[0].name]}")
    to_stdout = jobs[0].target is None
    if to_stdout:
        _write_out(done[0].data)
    good = [one for one in done if one.fault is None]
    if good:
        model_id = work.codec.digest()[:4].hex()
        for line in _summary(who, good, took, paths[-1], model_id, work.aim, skipped):
            click.echo(line, err=to_stdout)
    if faults:
        raise WorkError(_told(who, faults, jobs))


def _interrupted(jobs, done, force: bool) -> KeyboardInterrupt:
    """Say after Ctrl-C how many files are done, and how to make the others."""
    if force:  # those that are there may be old
        whole, then = sum(one.fault is None for one in done), "begins again"
    else:
        there = [job for job in jobs if job.target and job.target.exists()]
        whole, then = len(there), "with --skip_existing goes on"
    if not whole:
        return NothingWritten()
    return KeyboardInterrupt(f"{then}: {whole} of {len(jobs)} files are done and whole")


def _write_out(data: bytes) -> None:
    """Write to standard output, for as long as somebody reads it."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _summary(who, done, took, output, model_id, aim, skipped) -> list[str]:
    seconds = sum(one.seconds for one in done)
    size = sum(one.num_bytes for one in done)
    count = "1 file" if len(done) == 1 else f"{len(done):,} files"
    known = f", {skipped:,} were there" if skipped else ""
    lines = [
        f"{who}: {output}: {count}{known}, {seconds:,.2f} s of audio, {size:,} bytes, "
        f"{8e-3 * size / seconds:.2f} kbps, real-time factor {took / seconds:.3f}, "
        f"model {model_id}"
    ]
    if "kbps" in aim:
        wide = [d for d in done if 8e-3 * d.num_bytes / d.seconds / d.channels
                > aim["kbps"]]  # fmt: skip
        if wide:
            lines.append(
                f"  {len(wide):,} took more than {aim['kbps']:g} kbps, first "
                f"{wide[0].name}: headers and envelopes take what they must, of short "
                "ones and at the lowest rates"
            )
    if clipped := sum(one.clipped for one in done):
        lines.append(
            f"  {clipped:,} samples were beyond full scale and clipped; --bits float "
            "keeps them"
        )
    return lines


def _told(who: str, faults: dict[str, str], jobs: Sequence[Job]) -> str:
    ordered = [job.name for job in jobs if job.name in faults]
    lines = [
        f"{who}: {len(faults):,} of {len(jobs):,} files failed; the others are done"
    ]
    lines += [f"  {name}: {faults[name]}" for name in ordered[:_MAX_TOLD]]
    if len(ordered) > _MAX_TOLD:
        lines.append(f"  and {len(ordered) - _MAX_TOLD:,} more")
    return "\n".join(lines)
