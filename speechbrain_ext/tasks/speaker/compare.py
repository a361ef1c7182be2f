"""``speechbrain-ext compare A B``: is it the same person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from speechbrain_ext.errors import UserError, writes_at_the_end
from speechbrain_ext.tasks.speaker.model_options import ALLOW, REVISION


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("one", type=click.Path())
@click.argument("other", type=click.Path())
@click.option(
    "--experiment",
    required=True,
    type=click.Path(),
    help="A scored one; or its export; or USER/REPO of the Hugging Face Hub.",
)
@REVISION
@ALLOW
@click.option(
    "--far",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    help="Largest false alarm rate, such as 0.01; default: equal error rate.",
)
@click.option(
    "--backend",
    type=click.Choice(["chosen", "cosine"]),
    default="chosen",
    show_default=True,
    help="What scoring chose, learned again from its cohort; or raw cosine.",
)
@click.option("--device", help="Default: a GPU if there is one.")
@click.option("--vad", is_flag=True, help="Cut what is not speech at both ends.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@writes_at_the_end
def compare(
    one, other, experiment, revision, allow, far, backend, device, vad, as_json
):
    """Compare the speakers of two audio files, ONE and OTHER.

    The score of their embeddings is compared with the threshold that was measured on
    the trials of EXPERIMENT. The exit code is 0 for both answers.
    """
    for path in (one, other):
        if not Path(path).exists():
            raise UserError(f"compare: {path}: no such file")
    # torch takes seconds to import; help and mistakes shall not wait for it.
    from speechbrain_ext.config.command_line import names_of
    from speechbrain_ext.data.vad import open_detector
    from speechbrain_ext.inference import SpeakerVerifier

    verifier = SpeakerVerifier.from_hparams(
        experiment,
        device=device,
        backend=backend,
        trim=open_detector("silero" if vad else "none"),
        revision=revision,
        allow=names_of(allow),
    )
    answer = answer_of(verifier, (one, other), far)
    if as_json:
        click.echo(json.dumps(answer, indent=1, ensure_ascii=False))
        return
    far, frr = (100 * answer[f"false_{kind}_rate"] for kind in ("alarm", "rejection"))
    plural = "" if answer["decision"] == "same" else "s"
    click.echo(f"score      {answer['score']:8.4f}  {answer['system']}")
    click.echo(
        f"threshold  {answer['threshold']:8.4f}  {answer['threshold_rule']}; "
        f"{frr:.2f} % false rejections of {answer['num_targets']:,} targets, "
        f"{far:.2f} % false alarms of {answer['num_nontargets']:,} non-targets"
    )
    click.echo(f"decision   {answer['decision']} speaker{plural}")
    for warning in answer["warnings"]:
        click.echo(f"warning: {warning}", err=True)


def answer_of(verifier, paths: tuple[str, str], far: float | None) -> dict[str, Any]:
    """Compare two files; returns all that ``--json`` prints.

    Arguments
    ---------
    verifier : SpeakerVerifier
        With a decision.
    paths : tuple of str
        The files.
    far : float or None
        See `SpeakerVerifier.threshold`.
    """
    threshold = verifier.threshold(far)
    wavs = [verifier.load(path) for path in paths]
    seconds = [len(wav) / verifier.sample_rate for wav in wavs]
    vectors = [
        verifier.embed_samples(wav, path) for wav, path in zip(wavs, paths, strict=True)
    ]
    score = verifier.score(*vectors)
    shortest = verifier.decision.shortest_seconds()
    warnings = {  # once, if both are the same file
        str(path): f"{path} has {length:.2f} s; the threshold was measured on "
        f"{shortest:.2f} s and more: expect more errors"
        for path, length in zip(paths, seconds, strict=True)
        if shortest is not None and length < shortest
    }
    count = threshold.num_nontargets
    if far is not None and count and far < 1 / count:
        warnings["far"] = (
            f"--far {far:g} is less than one false alarm of {count:,} non-targets, so "
            "it was not measured: the threshold is one that none of them reaches"
        )
    return {
        "decision": "same" if score >= threshold.value else "different",
        "score": score,
        "system": verifier.decision.label,
        "threshold": threshold.value,
        "threshold_rule": threshold.rule,
        "false_alarm_rate": threshold.far,
        "false_rejection_rate": threshold.frr,
        "num_trials": threshold.num_trials,
        "num_targets": threshold.num_targets,
        "num_nontargets": threshold.num_nontargets,
        "files": [str(path) for path in paths],
        "seconds": seconds,
        "checkpoint_sha256": verifier.embedder.checkpoint,
        "warnings": list(warnings.values()),
    }
