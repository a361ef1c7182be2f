"""``speechbrain-ext pack``, ``unpack``, ``verify``: recipes and results to share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from speechbrain_ext.config.command_line import names_of
from speechbrain_ext.config.faults import did_you_mean
from speechbrain_ext.errors import UserError, writes_at_the_end
from speechbrain_ext.sharing.kinds import kind_of, refuse_kinds

#: Dashes and underscores are the same, as in run.sh.
SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("-", "_"),
}
ALLOW = click.option(
    "--allow",
    multiple=True,
    metavar="NAME",
    help="A name that the recipe may use beyond the list; repeatable.",
)


@click.command(context_settings=SETTINGS | {"ignore_unknown_options": True})
@click.argument("source", metavar="EXP|RECIPE.yaml")
@click.argument(
    "settings", nargs=-1, type=click.UNPROCESSED, metavar="[--key=value ...]"
)
@click.option("--output", type=click.Path(), help="The file; default: NAME.zip, here.")
@click.option("--no_result", is_flag=True, help="Of an experiment only its recipe.")
@click.option(
    "--with_code",
    is_flag=True,
    help="Take along scripts that differ from the last commit.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="WORD",
    help="This is no name of a user or machine here; repeatable.",
)
@click.option("--preset", multiple=True, help="For a recipe; becomes part of it.")
@ALLOW
@writes_at_the_end
def pack(source, settings, output, no_result, with_code, keep, preset, allow):
    """Write one file with a recipe and, of an experiment, its result.

    The recipe is one text in which your paths are open. A result is: results.json,
    the scores of every trial, README.md, versions, and the weights as safetensors.
    No audio, no code (it names the scripts and their SHA-256), no paths, no names of
    users and machines, no tokens: if any is found, nothing is written. The names of
    speakers and the ids of utterances are in it; the last lines count them.

    The same source gives the same bytes. Publish the digest that is printed.
    """
    _refuse_unknown_options(source, settings)
    refuse_kinds("pack", source, "bundle", "export", "file")
    from speechbrain_ext.data.progress import progress_bar
    from speechbrain_ext.sharing.bundle.packing import pack as pack_bundle

    with progress_bar() as progress:
        progress.add_task("pack", total=None)
        done = pack_bundle(
            source,
            output,
            result=not no_result,
            with_code=with_code,
            overrides=settings,
            presets=preset,
            allow=names_of(allow),
            keep=keep,
        )
    click.echo(f"pack: {done.path} ({done.path.stat().st_size:,} bytes)")
    click.echo(f"  digest {done.digest}")
    for note in done.notes:
        click.echo(f"  note: {note}", err=True)


def _refuse_unknown_options(source: str, settings: Sequence[str]) -> None:
    """Refuse what is no option of ours where it can't be a key of a recipe either."""
    words = [word for word in (source, *settings) if word.startswith("-")]
    if not (source.startswith("-") or Path(source).is_dir()):
        words = [word for word in words if not word.startswith("--")]
    if not words:
        return
    options = [name for known in pack.params for name in known.opts if "--" in name]
    typed = words[0].split("=")[0]
    hint = did_you_mean(typed, options)
    raise UserError(
        f"pack: no option {typed}{hint}\n  --key=value is for a recipe: "
        "speechbrain-ext pack RECIPE.yaml --key=value"
    )


@click.command(context_settings=SETTINGS)
@click.argument("bundle", type=click.Path())
@click.argument("folder", required=False, type=click.Path())
@click.option(
    "--trust_code",
    metavar="SHA256",
    help="Also write the scripts that it carries, if they are these: see inspect.",
)
@click.option(
    "--below", type=click.Path(), help="Write to DIR/NAME-DIGEST and print only that."
)
@click.option("--task", help="With --below: refuse a bundle of another task.")
@ALLOW
@writes_at_the_end
def unpack(bundle, folder, trust_code, below, task, allow):
    """Write BUNDLE as FOLDER (default: its own name); again is a no-op.

    Nothing of it is run and no pickle is loaded. Everything but a plain archive of
    what its manifest names is refused, and then nothing is left behind.

    A result becomes an experiment: unpack it to exp/NAME of an egs folder, and there
    ./run.sh --tag NAME --stage embed (or evaluate) uses its weights.
    """
    from speechbrain_ext.sharing.bundle.next_steps import next_steps
    from speechbrain_ext.sharing.bundle.unpacking import unpack as unpack_bundle
    from speechbrain_ext.sharing.bundle.unpacking import unpack_below

    refuse_kinds(
        "unpack", bundle, "recipe", "export", "unpacked", "experiment", "folder"
    )
    if below is not None:
        if folder is not None:
            raise click.UsageError("give FOLDER or --below DIR, not both")
        found = unpack_below(
            bundle, below, task=task, trust_code=trust_code, allow=names_of(allow)
        )
        click.echo(found)
        return
    found = unpack_bundle(bundle, folder, trust_code=trust_code, allow=names_of(allow))
    click.echo(f"unpack: {found}")
    for line in next_steps(found):
        click.echo(line)


@click.command(context_settings=SETTINGS)
@click.argument("shared", metavar="BUNDLE|EXPORT", type=click.Path())
@click.option(
    "--expect_digest",
    metavar="SHA256",
    help="What its author published; 16 characters of it will do.",
)
@click.option(
    "--data",
    type=click.Path(),
    help="Split folder, or folder of manifests: measure again from its audio.",
)
@ALLOW
@writes_at_the_end
def verify(shared, expect_digest, data, allow):
    """Check that the parts of a bundle or an export agree; exit code 1 if they don't.

    Hashes; the recipe by the rules for any recipe; weights whole and finite. Of a
    bundle every table recomputed from its scores, and the card made again and compared
    to the byte; with --data also from audio: the recipe is built, and its weights embed
    or encode again. Of an export the thresholds recomputed from its scores.

    This is integrity, not authorship: compare the digest with the published one.
    """
    kind = kind_of(shared)
    if kind is None:  # nothing was compared, so nothing failed
        raise UserError(f"verify: {shared}: no such file or folder")
    refuse_kinds(
        "verify", shared, "recipe", "experiment", "unpacked", "folder", "device"
    )
    if kind == "export" and data is not None:
        raise UserError(
            "verify: --data is for bundles: an export says neither which split it was "
            "scored on nor which trials"
        )
    from speechbrain_ext.data.progress import progress_bar

    given = {"expect_digest": expect_digest, "allow": names_of(allow)}
    with progress_bar() as progress:
        task = progress.add_task("verify", total=None)
        if kind == "export":
            from speechbrain_ext.sharing.export.verification import verify_export

            found = verify_export(shared, **given)
        else:
            from speechbrain_ext.sharing.bundle.verification import verify as verified

            found = verified(
                shared,
                data=data,
                on_check=lambda name: progress.update(
                    task, description=f"verify {name}"
                ),
                **given,
            )
    for line in found.lines():
        click.echo(line)
    return 0 if found.ok else 1


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": ["-h", "--help"],
    }
)
@click.argument(
    "words",
    nargs=-1,
    required=True,
    type=click.UNPROCESSED,
    metavar="RECIPE|BUNDLE [--key=v ...]",
)
@writes_at_the_end
def inspect(words):
    """Show what a recipe would do, or what a bundle (.zip) holds; nothing is run.

    Of a bundle: digest, files, whether its scripts are the installed ones and the
    difference if it carries others, and what loading its recipe would import,
    construct, read and write. It takes --allow NAME only.
    """
    name = next((word for word in words if not word.startswith("-")), "")
    refuse_kinds("inspect", name, "export", "unpacked", "experiment", "folder", "file")
    if not name.endswith(".zip"):
        from speechbrain_ext.config.inspect_command import inspect as inspect_recipe

        return inspect_recipe(
            args=list(words), prog_name="inspect", standalone_mode=False
        )
    return _inspect_bundle(
        args=list(words), prog_name="inspect BUNDLE", standalone_mode=False
    )


@click.command(context_settings=SETTINGS)
@click.argument("bundle", type=click.Path())
@ALLOW
def _inspect_bundle(bundle, allow):
    from speechbrain_ext.sharing.bundle.inspection import describe_bundle

    for line in describe_bundle(bundle, allow=names_of(allow)):
        click.echo(line)
