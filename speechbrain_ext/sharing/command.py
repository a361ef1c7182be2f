"""``speechbrain-ext export``: a trained model for other programs."""

from __future__ import annotations

import click


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("experiment", type=click.Path())
@click.option(
    "--format", "form", type=click.Choice(["onnx"]), default="onnx", show_default=True
)
@click.option(
    "--output", type=click.Path(), help="Folder; default: one in EXPERIMENT."
)
@click.option(
    "--from",
    "source",
    type=click.Choice(["features", "waveform"]),
    default="features",
    show_default=True,
    help="What the model takes; features leave the log-mels to the caller.",
)
def export(experiment, form, output, source):
    """Export the speaker encoder of EXPERIMENT; what is written was checked.

    The ONNX file takes any batch size and length. The JSON beside it says how to
    compute its input. If onnxruntime's embeddings differ from torch's, nothing is
    written and the exit code is 1.
    """
    # torch takes seconds to import; --help shall not wait for it.
    from speechbrain_ext.sharing.onnx import export_onnx

    done = export_onnx(experiment, output, source=source)
    click.echo(f"export: {done.model} and {done.settings.name}")
    click.echo(f"  differs from torch by at most {done.max_abs_difference:.1e}")
