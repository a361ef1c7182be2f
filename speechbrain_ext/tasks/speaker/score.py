"""Score the embeddings of a trained encoder on the trials of unseen speakers."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from speechbrain_ext.data.manifest import split_hash
from speechbrain_ext.errors import WorkError
from speechbrain_ext.next_command import tells_own_commands
from speechbrain_ext.report.results import write_results
from speechbrain_ext.report.speaker.results import digest_of
from speechbrain_ext.scoring.figures import name_errors, source_figures, trial_figures
from speechbrain_ext.scoring.intervals import speaker_bootstrap
from speechbrain_ext.scoring.trials import write_scores
from speechbrain_ext.tasks.author import tell_author
from speechbrain_ext.tasks.conditions import (
    data_conditions,
    health,
    model_conditions,
    now,
    own_command,
    trained_recipe,
    utterances_left_out,
)
from speechbrain_ext.tasks.speaker.backends import System, make_systems
from speechbrain_ext.tasks.speaker.missing import (
    blame_embeddings,
    blame_scores,
    count_lost,
    finite_rows,
    refusal,
)
from speechbrain_ext.tasks.speaker.speech import (
    Speech,
    load_speech,
    refuse_known_speakers,
    trained_speakers,
    write_utterances,
)

#: Draws of the bootstrap over speakers.
DRAWS = 500
#: What is told where it is so of most test speakers. A source is a package, a room, or
#: only a kind of people: how much it gives away is what the baseline measures.
ONE_SOURCE = (
    "the recordings of a test speaker come from one source, so target trials may share "
    "room and microphone more often than others. Compare with the channel-only "
    "baseline, and look at the hard list."
)
#: What is told where the sources of most test speakers are not known.
UNKNOWN_SOURCES = (
    "nothing is known about the sessions of these recordings: the data names no "
    "source. If the recordings of a test speaker were made at one time with one "
    "microphone, target trials share room and microphone, and the error rates are "
    "lower than they would be between sessions. Compare with the channel-only "
    "baseline; a hard list can't be made."
)


@tells_own_commands
def score(
    experiment: str | Path,
    data: str | Path,
    *,
    backend: str = "auto",
    nan_trials: str = "count",
    max_nan_trials: int = 0,
    calibrate: bool = False,
    draws: int = DRAWS,
) -> dict:
    """Write ``scores/`` and ``results.json`` of an experiment.

    Arguments
    ---------
    experiment : str or Path
        Folder with ``embeddings/``.
    data : str or Path
        Split folder: ``test.json``, ``cohort.json``, ``trials/*.txt``.
    backend : str
        One of `backends.CHOICES`; see `backends.make_systems`. All kinds are scored;
        this says which one counts.
    nan_trials : {"count", "filter", "raise"}
        What a trial without finite embeddings is: an error of the system, left out
        (and marked so), or the end.
    max_nan_trials : int
        So many such trials are allowed in a list.
    calibrate : bool
        Turn scores into log-likelihood ratios, learned on training speakers.
    draws : int
        Draws of the bootstrap over test speakers.

    Returns
    -------
    dict
        What was written; see `speechbrain_ext.report.speaker.results`.

    Raises
    ------
    UserError
        If something is missing, does not fit, or a test speaker was trained on.
    WorkError
        If there are more trials without score than allowed; everything is written
        then. Under ``raise`` nothing is.
    """
    started = time.monotonic()
    folder, data = Path(experiment), Path(data)
    recipe = trained_recipe(folder, "score")
    speech = load_speech(folder, data)
    refuse_known_speakers(folder, speech)
    seed = recipe.hparams["seed"]
    systems, choice, cohort_left_out = make_systems(
        speech.cohort,
        speech.channel_cohort,
        speech.speakers(speech.cohort.ids),
        asked=backend,
        calibrate=calibrate,
        seed=seed,
    )
    named = blame_embeddings(speech.test, speech.lists, speech.utterances, "embedding")
    named += blame_embeddings(
        speech.channel_test, speech.lists, speech.utterances, "channel only"
    )
    if nan_trials == "raise" and named:
        sets = speech.test, speech.channel_test
        most = max(count_lost(embeddings, speech.lists) for embeddings in sets)
        raise WorkError(refusal(named, most, 0))
    new = folder / ".scores.new"
    shutil.rmtree(new, ignore_errors=True)
    entries, errors = [], {}
    with Progress(transient=True) as progress:
        task = progress.add_task("score", total=len(systems) * len(speech.lists))
        for system in systems:
            chosen = system.name == choice["chosen"]
            figures = {}
            for name, trials in speech.lists.items():
                scores, odd = score_list(speech, system, name)
                named += odd
                write_scores(new / f"{system.name}_{name}.npz", trials, scores)
                figures[name] = list_figures(
                    speech, system, name, scores, nan_trials, draws, seed
                )
                if chosen and name == next(iter(speech.lists)):
                    errors = {"system": system.name, "list": name}
                    errors |= name_errors(
                        trials,
                        scores,
                        {u.utt_id: u.spk_id for u in speech.utterances.values()},
                        _or_infinite(figures[name]["eer_threshold"]),
                    )
                progress.advance(task)
            entries.append(
                {
                    "name": system.name,
                    "label": system.label,
                    "chosen": chosen,
                    "calibrated": system.is_ratio,
                    "settings": system.settings,
                    "lists": figures,
                }
                | ({"calibration": system.calibration} if system.is_ratio else {})
            )
    most = max(f["nan_trials"] for entry in entries for f in entry["lists"].values())
    if nan_trials == "raise" and most:
        raise WorkError(refusal(named, most, 0))
    write_utterances(new, speech)
    left_out = utterances_left_out(recipe, folder)
    results = {
        "task": "speaker",
        "created": now(),
        "command": own_command(
            folder, f"python recipes/speaker/score.py {folder} --data={data}"
        ),
        "conditions": conditions(recipe, folder, data, speech, draws),
        "systems": entries,
        "backend": choice,
        "errors": errors,
        "nan_trials": {
            "policy": nan_trials,
            "allowed": max_nan_trials,
            "most": most,
            "named": named,
            "cohort": cohort_left_out,
        },
        "health": health(folder, data.parent),
    } | ({"left_out": left_out} if left_out else {})
    save_folder = Path(recipe.hparams.get("save_folder") or folder / "save")
    tell_author(results, folder, save_folder)
    results["conditions"]["score_seconds"] = round(time.monotonic() - started, 1)
    results["digest"] = digest_of(results)
    shutil.rmtree(folder / "scores", ignore_errors=True)
    new.rename(folder / "scores")
    write_results(folder / "results.json", results)
    if most > max_nan_trials:
        raise WorkError(refusal(named, most, max_nan_trials))
    return results


def score_list(
    speech: Speech, system: System, name: str
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Score one list; what has no finite embedding gets NaN, whatever the system.

    Returns
    -------
    tuple of np.ndarray and list of dict
        Scores, float64 [num_trials], and whom to blame for other NaN.
    """
    trials = speech.lists[name]
    channel = system.name == "channel"
    embeddings = speech.channel_test if channel else speech.test
    vectors = finite_rows(embeddings, trials.ids)
    scores = np.array(system.score(vectors, trials.enroll, trials.test), np.float64)
    bad = np.isnan(vectors).any(axis=1)
    scores[bad[trials.enroll] | bad[trials.test]] = np.nan
    odd = blame_scores(scores, trials, vectors, speech.utterances, system.label, name)
    return scores, odd


def list_figures(
    speech: Speech,
    system: System,
    name: str,
    scores: np.ndarray,
    nan: str,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Figures of one system on one list, with interval and sources."""
    trials = speech.lists[name]
    counted = "count" if nan == "raise" else nan
    figures = trial_figures(
        scores, trials.labels, nan=counted, calibrated=system.is_ratio
    )
    figures["eer_interval"] = None
    if figures["eer"] is not None:
        speakers = speech.numbers(trials.ids)
        try:
            figures["eer_interval"] = list(
                speaker_bootstrap(
                    scores,
                    trials.labels,
                    speakers[trials.enroll],
                    speakers[trials.test],
                    draws=draws,
                    seed=seed,
                    nan=counted,
                )
            )
        except ValueError as error:  # too few speakers: there is no interval
            figures["not_measured"]["eer_interval"] = str(error)
    sources = {u.utt_id: u.source for u in speech.utterances.values()}
    figures["per_source"] = source_figures(trials, scores, sources, nan=counted)
    return figures


def conditions(recipe, folder: Path, data: Path, speech: Speech, draws: int) -> dict:
    """Gather what a reader must know to recompute the tables."""
    roles = ("train", "valid", "cohort", "test")
    manifests = [data / f"{role}.json" for role in roles]
    manifests = [path for path in manifests if path.exists()]
    path = data / "split.json"
    split = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tested = speech.tested()
    sources: dict[str, set] = {}
    for utterance in speech.utterances.values():
        if utterance.spk_id in tested:
            sources.setdefault(utterance.spk_id, set()).add(utterance.source)
    trained = {"checkpoint": speech.test.checkpoint[:16]}
    return {
        "data": data_conditions(*manifests),
        "split_hash": split_hash(*manifests),
        "split_seed": split.get("split_seed"),
        "inner_split": split.get("inner_split"),
        "num_train_speakers": len(trained_speakers(folder, speech)),
        "num_test_speakers": len(tested),
        **model_conditions(
            recipe, recipe.hparams["modules"]["encoder"], folder, trained
        ),
        "device": "cpu",
        "bootstrap_draws": draws,
        "caveat": _caveat(sources),
    }


def _caveat(sources: Mapping[str, set[str | None]]) -> str | None:
    """Say what the sources of the test speakers (or None) mean for the figures."""
    unknown = sum(None in found for found in sources.values())
    if 2 * unknown > len(sources):
        return UNKNOWN_SOURCES
    single = sum(len(found) == 1 and None not in found for found in sources.values())
    return ONE_SOURCE if 2 * single > len(sources) else None


def _or_infinite(threshold: float | None) -> float:
    return math.inf if threshold is None else threshold
