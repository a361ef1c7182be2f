"""``speechbrain-ext embed``: a file of embeddings from any audio."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click

from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.tasks.speaker.model_options import ALLOW, REVISION

_MAX_TOLD = 20


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("audio", nargs=-1, required=True, type=click.Path())
@click.option(
    "--experiment",
    required=True,
    type=click.Path(),
    help="A trained one; or its export; or USER/REPO of the Hugging Face Hub.",
)
@REVISION
@ALLOW
@click.option("--output", required=True, type=click.Path(), help="X.npz")
@click.option("--device", help="Default: a GPU if there is one.")
@click.option(
    "--max_seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Longer files are embedded in equal chunks, averaged; default: 60.",
)
@click.option("--vad", is_flag=True, help="Cut what is not speech at both ends.")
def embed(audio, experiment, revision, allow, output, device, max_seconds, vad):
    """Embed AUDIO: a folder, or files of any format, rate and number of channels.

    Files that can't be used are named with the reason, and the exit code is 1; the
    others are embedded. Run again, only new and changed files are computed.

    Read the result with numpy.load, or EmbeddingSet.load of
    speechbrain_ext.scoring.embeddings: ids, vectors [n, dim], seconds [n].
    """
    from speechbrain_ext.config.command_line import names_of

    paths = find_recordings(audio)
    embed_recordings(
        paths,
        experiment,
        output,
        device=device,
        max_seconds=max_seconds,
        vad=vad,
        revision=revision,
        allow=names_of(allow),
    )


def find_recordings(sources: Sequence[str | os.PathLike]) -> dict[str, Path]:
    """Name the files that a user means.

    Arguments
    ---------
    sources : Sequence of str or PathLike
        Files, and folders that are searched for audio.

    Returns
    -------
    dict
        id -> path. The id is the path below the folder if one folder is all that is
        given, else the path as it was given.

    Raises
    ------
    UserError
        Naming all that do not exist, or if there is no audio at all.
    """
    from speechbrain_ext.data.audio import AUDIO_EXTENSIONS
    from speechbrain_ext.data.corpora.folder import find_audio

    missing = [str(source) for source in sources if not Path(source).exists()]
    if missing:
        raise UserError(f"embed: no such file or folder: {', '.join(missing)}")
    found: dict[str, Path] = {}
    for source in map(Path, sources):
        if not source.is_dir():
            found[str(source)] = source
            continue
        for path in find_audio(source):
            name = path.relative_to(source) if len(sources) == 1 else path
            found[str(name)] = path
    if not found:
        raise UserError(
            f"embed: no audio below {', '.join(map(str, sources))}; files end in "
            + ", ".join(sorted(AUDIO_EXTENSIONS))
        )
    return found


def embed_recordings(
    paths: dict[str, Path],
    experiment: str | os.PathLike,
    output: str | os.PathLike,
    *,
    device: str | None = None,
    max_seconds: float | None = None,
    vad: bool = False,
    revision: str | None = None,
    allow: Iterable[str] = (),
    log: Callable[[str], None] = click.echo,
):
    """Embed recordings of any kind into one ``.npz``; goes on where it was killed.

    Arguments
    ---------
    paths : dict
        id -> file.
    experiment : str or PathLike
        Folder that training wrote, its export, or ``user/repo`` on the Hub.
    output : str or PathLike
        Where the `EmbeddingSet` goes, ``.npz``; vectors that it already has for the
        same audio, checkpoint and settings are kept.
    device : str or None
        Where to compute; None: on a GPU if there is one.
    max_seconds : float or None
        See `Embedder`; None: its default.
    vad : bool
        Cut what is not speech at both ends.
    revision : str or None
        Branch, tag or commit on the Hub.
    allow : Iterable of str
        Names that the recipe in an export may build beyond the list.
    log : Callable
        Gets one line of text at a time.

    Returns
    -------
    EmbeddingSet
        In the order of ``paths``, without the files that can't be used.

    Raises
    ------
    UserError
        If there is no trained encoder, or ``output`` can't be written there.
    WorkError
        If files could not be used or their embedding is not finite; those are named,
        the others are in ``output``. ``<output>.rejected.tsv`` lists all.
    """
    # torch takes seconds to import; --help shall not wait for it.
    from speechbrain_ext.data.audio import AudioError
    from speechbrain_ext.data.check import Rejected, write_rejected
    from speechbrain_ext.data.progress import progress_bar
    from speechbrain_ext.data.recording import load_recording
    from speechbrain_ext.data.vad import open_detector
    from speechbrain_ext.files import sha256_file
    from speechbrain_ext.inference.source import find_folder
    from speechbrain_ext.inference.speaker import open_embedder
    from speechbrain_ext.scoring.embeddings import EmbeddingError, EmbeddingSet
    from speechbrain_ext.tasks.speaker.embed import describe_nonfinite, stamp_of
    from speechbrain_ext.tasks.speaker.shards import Shards

    output = Path(output)
    if output.suffix != ".npz":
        raise UserError(f"embed: --output {output} must end in .npz")
    if output.is_dir():
        raise UserError(f"embed: --output {output} is a folder; give a file in it")
    settings = {} if max_seconds is None else {"max_seconds": max_seconds}
    folder = find_folder(experiment, revision=revision)
    embedder = open_embedder(folder, device, allow=allow, **settings)
    trim = open_detector("silero" if vad else "none")
    settings_text = f"vad={trim.stamp if trim else None}"
    started = time.monotonic()
    stamps, reasons = {}, {}
    for name, path in paths.items():
        try:
            stamps[name] = stamp_of(sha256_file(path), embedder, settings_text)
        except OSError as error:
            reasons[name] = f"unreadable: {(error.strerror or str(error)).lower()}"
    try:
        finished = [EmbeddingSet.load(output)] if output.exists() else []
    except EmbeddingError:
        raise UserError(
            f"embed: --output {output} is there and holds no embeddings; it is not "
            "written over\n  Next: remove it, or give another --output"
        ) from None
    shards = Shards(
        output.with_name(f".{output.stem}.shards"),
        embedder.checkpoint,
        "speaker",
        stamps,
        finished,
    )
    todo = [name for name in stamps if name not in shards]
    with shards, progress_bar() as progress:
        task = progress.add_task("embed", total=len(todo))
        for name in todo:
            try:
                wav = load_recording(paths[name], embedder.sample_rate, trim)
            except AudioError as error:
                reasons[name] = error.reason
            else:
                vector = embedder.embed([wav]).speaker[0]
                shards.add(name, vector, len(wav) / embedder.sample_rate)
            progress.advance(task)
    listing = output.with_suffix(".rejected.tsv")
    if reasons:
        write_rejected(
            listing, [Rejected(n, str(paths[n]), why) for n, why in reasons.items()]
        )
    else:
        listing.unlink(missing_ok=True)
    done = [name for name in paths if name in shards]
    if not done:
        shards.remove()
        raise WorkError(describe_unusable(reasons, len(paths), listing))
    result = shards.result(done)
    result.save(output)
    shards.remove()
    log(
        f"embed: {output}: {len(result)} files ({result.seconds.sum() / 60:.1f} min), "
        f"{shards.num_reused} of them done before, {result.dim} dimensions, "
        f"{time.monotonic() - started:.1f} s on {embedder.device}"
    )
    faults = [describe_unusable(reasons, len(paths), listing)] if reasons else []
    if bad := result.nonfinite():
        faults.append(describe_nonfinite(str(output), bad, len(result)))
    if faults:
        raise WorkError("\n".join(faults))
    return result


def describe_unusable(reasons: dict[str, str], total: int, listing: Path) -> str:
    """Name the files that could not be used, and why."""
    lines = [f"embed: {len(reasons)} of {total} files can't be used"]
    lines += [f"  {name}: {why}" for name, why in list(reasons.items())[:_MAX_TOLD]]
    if len(reasons) > _MAX_TOLD:
        lines.append(f"  and {len(reasons) - _MAX_TOLD} more")
    return "\n".join([*lines, f"  all of them: {listing}"])
