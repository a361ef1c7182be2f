"""``speechbrain-ext compare A B``: is it the same person."""

from __future__ import annotations

import json

import click


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("one", type=click.Path())
@click.argument("other", type=click.Path())
@click.option("--experiment", required=True, type=click.Path(), help="A scored one.")
@click.option(
    "--far",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    help="Largest false alarm rate, such as 0.01; default: equal error rate.",
)
@click.option("--device", help="Default: a GPU if there is one.")
@click.option("--vad", is_flag=True, help="Cut what is not speech at both ends.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def compare(one, other, experiment, far, device, vad, as_json):
    """Compare the speakers of two audio files, ONE and OTHER.

    The score is the cosine of their embeddings; it is compared with the threshold
    that was measured on the trials of EXPERIMENT. The exit code is 0 for both answers.
    """
    # torch takes seconds to import; --help shall not wait for it.
    from speechbrain_ext.data.vad import open_detector
    from speechbrain_ext.inference import SpeakerVerifier

    trim = open_detector("silero" if vad else "none")
    verifier = SpeakerVerifier.from_hparams(experiment, device=device, trim=trim)
    threshold = verifier.threshold(far)
    wavs = [verifier.load(path) for path in (one, other)]
    seconds = [len(wav) / verifier.sample_rate for wav in wavs]
    vectors = [
        verifier.embed_samples(wav, path)
        for wav, path in zip(wavs, (one, other), strict=True)
    ]
    score = verifier.score(*vectors)
    same = score >= threshold.value
    shortest = verifier.thresholds.shortest_seconds()
    warnings = [
        f"{path} has {length:.2f} s; the threshold was measured on {shortest:.2f} s "
        "and more: expect more errors"
        for path, length in zip((one, other), seconds, strict=True)
        if shortest is not None and length < shortest
    ]
    answer = {
        "decision": "same" if same else "different",
        "score": score,
        "score_kind": "raw cosine",
        "threshold": threshold.value,
        "threshold_rule": threshold.rule,
        "false_alarm_rate": threshold.far,
        "false_rejection_rate": threshold.frr,
        "num_trials": threshold.num_trials,
        "files": [str(one), str(other)],
        "seconds": seconds,
        "checkpoint_sha256": verifier.embedder.checkpoint,
        "warnings": warnings,
    }
    if as_json:
        click.echo(json.dumps(answer, indent=1, ensure_ascii=False))
        return
    click.echo(f"score      {score:+.4f}   raw cosine, -1 to 1")
    click.echo(
        f"threshold  {threshold.value:+.4f}   {threshold.rule}; on "
        f"{threshold.num_trials} trials {100 * threshold.far:.2f} % false alarms, "
        f"{100 * threshold.frr:.2f} % false rejections"
    )
    click.echo(f"decision   {answer['decision']} speaker{'' if same else 's'}")
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
