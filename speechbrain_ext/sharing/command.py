"""``speechbrain-ext export``: a trained model for others, and for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from speechbrain_ext.config.command_line import names_of
from speechbrain_ext.errors import UserError, writes_at_the_end


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", type=click.Path())
@click.option(
    "--output", type=click.Path(), help="Folder; default: export/ in EXPERIMENT."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["onnx"]),
    help="The ONNX file alone; default folder: onnx/ in EXPERIMENT.",
)
@click.option(
    "--onnx_from",
    "--from",
    "source",
    type=click.Choice(["features", "waveform", "none"]),
    help="What the ONNX file takes; features leave the log-mels to the caller. "
    "Default: features; none: no ONNX file.",
)
@click.option(
    "--stock", is_flag=True, help="Refuse what stock SpeechBrain could not open."
)
@click.option(
    "--push_to_hub",
    metavar="USER/REPO",
    help="Upload the folder to the Hugging Face Hub, as whom huggingface_hub knows.",
)
@click.option("--public", is_flag=True, help="With --push_to_hub: for all to see.")
@click.option(
    "--license",
    metavar="ID",
    help="Of the weights, for the card, such as cc-by-4.0; default: that of the data.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="NAME",
    help="A name that the model is built from, beyond the list; more with commas.",
)
@writes_at_the_end
def export(
    experiment, output, form, source, stock, push_to_hub, public, license, allow
):
    """Write a folder that holds all it takes to use the model of EXPERIMENT.

    Weights as safetensors, a model card, and of a speaker model also thresholds, what
    stock SpeechBrain's EncoderClassifier opens, and ONNX. A new process computes with
    the folder alone before it is kept; if its outputs are not the experiment's, nothing
    is written and the exit code is 1.

    Open it with speechbrain_ext.inference: SpeechCodec.from_hparams(FOLDER),
    SpeakerVerifier.from_hparams(FOLDER).
    """
    if not Path(experiment).exists():  # before the seconds that torch takes
        raise UserError(
            f"export: {experiment}: no such experiment\n  Next: speechbrain-ext list "
            "experiments"
        )
    if form == "onnx":
        if push_to_hub or public or stock or license or source == "none":
            raise UserError(
                "export: --format onnx writes an ONNX file and nothing else"
            )
        _export_onnx(experiment, output, source or "features")
        return
    if public and not push_to_hub:
        raise UserError("export: --public says who may see what --push_to_hub uploads")
    # torch takes seconds to import; --help shall not wait for it.
    from speechbrain_ext.sharing.export import export as export_folder

    export_folder(
        experiment,
        output,
        hub=push_to_hub,
        public=public,
        stock=stock,
        onnx=source,
        allow=names_of(allow),
        weights_licence=license,
        log=click.echo,
    )


def _export_onnx(experiment: str, output: str | None, source: str) -> None:
    from speechbrain_ext.sharing.onnx import export_onnx

    done = export_onnx(experiment, output, source=source)
    click.echo(f"export: {done.model} and {done.settings.name}")
    click.echo(f"  differs from torch by at most {done.max_abs_difference:.1e}")
