"""Scoring of speaker verification: ours beside SpeechBrain's and scikit-learn's."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable

import numpy as np
import torch

from speechbrain_ext.bench.timing import (
    MIB,
    compare,
    import_peer,
    peak_step_mib,
    peer_versions,
    spread,
    time_interleaved,
)
from speechbrain_ext.scoring import ASNorm, RankedScores, as_norm, cosine_scores

SEED = 0
#: Dimensions of an embedding, and how many of the cohort count, as in both recipes.
DIM = 192
TOP = 300


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much work each part has.

    SpeechBrain's minDCF needs memory that grows with the square of the trials, its
    loops seconds for thousands of them: so the comparisons with it are small.
    ``norm_trials`` is eight times ``norm_utterances`` as in VoxCeleb1-O.
    """

    trials: int = 1_000_000
    utterances: int = 4708
    cohort: int = 6000
    metric_trials: int = 4000
    cosine_trials: int = 5000
    norm_trials: int = 200
    norm_utterances: int = 25


def measure(repeats: int, sizes: Sizes = Sizes()) -> dict:  # noqa: B008 - is frozen
    """Time metrics, cosine and AS-norm, and what they hold in memory.

    Arguments
    ---------
    repeats : int
        Rounds of `time_interleaved`.
    sizes : Sizes
        How much work.

    Returns
    -------
    dict
        ``title``, ``setting``, ``peers`` (versions), ``subjects`` (milliseconds and MiB
        by name), ``comparisons`` (see `compare`).

    Raises
    ------
    UserError
        If scikit-learn is not installed.
    ArithmeticError
        If ours and the peer's figures differ: then their speeds don't compare.
    """
    import_peer("sklearn", "scikit-learn")
    generator = np.random.default_rng(SEED)
    pairs = [
        _metrics_beside_speechbrain(generator, sizes.metric_trials),
        _metrics_beside_sklearn(generator, sizes.trials),
        _cosine_beside_loop(generator, sizes.cosine_trials, sizes.utterances),
        _as_norm_beside_loop(generator, sizes),
    ]
    alone = _large(generator, sizes)
    subjects, comparisons = {}, []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for calls in [*pairs, *({name: call} for name, call in alone.items())]:
            times = time_interleaved(calls, repeats, warm_up=1)
            for name, call in calls.items():
                subjects[name] = {
                    "milliseconds": spread([1e3 * seconds for seconds in times[name]]),
                    "peak_mib": round(_peak_mib(name, call), 1),
                }
            if len(calls) == 2:
                comparisons.append(compare(times, *calls))
    finally:
        torch.set_num_threads(threads)
    return {
        "title": "Scoring of speaker verification",
        "setting": f"embeddings of {DIM} dimensions, AS-norm with the {TOP} nearest of "
        f"{sizes.cohort}; SpeechBrain's EER and minDCF as they are, its recipe's loops "
        "over trials written again for this table (the recipe is no part of the "
        "package); peak MiB are numpy's allocations for numpy's work and torch's for "
        f"torch's; 1 thread, {repeats} interleaved rounds",
        "peers": peer_versions(["scikit-learn", "speechbrain"]),
        "subjects": subjects,
        "comparisons": comparisons,
    }


def _scores(
    generator: np.random.Generator, num_trials: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw normal scores of float32, a tenth of them targets: an EER of about 16 %."""
    labels = np.arange(num_trials) % 10 == 0
    scores = generator.normal(size=num_trials) + 2.0 * labels
    return scores.astype(np.float32), labels


def _eer_and_min_dcf(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    ranked = RankedScores(scores, labels)
    return ranked.equal_error_rate()[0], ranked.min_dcf()[0]


def _metrics_beside_speechbrain(
    generator: np.random.Generator, num_trials: int
) -> dict[str, Callable]:
    from speechbrain.utils.metric_stats import EER, minDCF

    scores, labels = _scores(generator, num_trials)
    positive, negative = (torch.from_numpy(scores[x]) for x in (labels, ~labels))
    ours = _eer_and_min_dcf(scores, labels)
    theirs = EER(positive, negative)[0], minDCF(positive, negative)[0] / 0.01
    # SpeechBrain takes the nearest threshold and does not interpolate.
    if not np.allclose(ours, theirs, atol=2 / min(len(positive), len(negative))):
        raise ArithmeticError(f"bench: EER and minDCF differ: {ours} and {theirs}")
    what = f"EER + minDCF, {num_trials:,} trials"
    return {
        f"ours, {what}": lambda: _eer_and_min_dcf(scores, labels),
        f"speechbrain, {what}": lambda: (
            EER(positive, negative),
            minDCF(positive, negative),
        ),
    }


def _metrics_beside_sklearn(
    generator: np.random.Generator, num_trials: int
) -> dict[str, Callable]:
    from sklearn.metrics import roc_curve

    scores, labels = _scores(generator, num_trials)

    def theirs() -> float:
        far, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
        miss = 1 - tpr
        after = int(np.argmax(far >= miss))
        near = slice(after - 1, after + 1)
        return float(np.interp(0.0, (far - miss)[near], far[near]))

    ours = _eer_and_min_dcf(scores, labels)[0]
    if abs(ours - theirs()) > 1e-9:
        raise ArithmeticError(f"bench: the EERs differ: {ours} and {theirs()}")
    return {
        f"ours, EER + minDCF, {num_trials:,} trials": lambda: _eer_and_min_dcf(
            scores, labels
        ),
        f"scikit-learn roc_curve, EER, {num_trials:,} trials": theirs,
    }


def _vectors(generator: np.random.Generator, size: int) -> np.ndarray:
    return generator.normal(size=(size, DIM)).astype(np.float32)


def _cosine_beside_loop(
    generator: np.random.Generator, num_trials: int, num_utterances: int
) -> dict[str, Callable]:
    vectors = _vectors(generator, num_utterances)
    enroll, test = generator.integers(num_utterances, size=(2, num_trials))
    named = {f"utterance{i}": torch.from_numpy(v)[None] for i, v in enumerate(vectors)}
    names = [[f"utterance{row}" for row in rows] for rows in (enroll, test)]
    keys = list(zip(*names, strict=True))
    similarity = torch.nn.CosineSimilarity(dim=-1, eps=1e-6)

    def loop() -> list[torch.Tensor]:
        return [similarity(named[a], named[b])[0] for a, b in keys]

    ours = cosine_scores(vectors, enroll, test)
    if not np.allclose(ours, np.array(loop()), atol=1e-5):
        raise ArithmeticError("bench: the cosines differ")
    return {
        f"ours, cosine, {num_trials:,} trials": lambda: cosine_scores(
            vectors, enroll, test
        ),
        f"speechbrain's loop, cosine, {num_trials:,} trials": loop,
    }


def _as_norm_beside_loop(
    generator: np.random.Generator, sizes: Sizes
) -> dict[str, Callable]:
    vectors = _vectors(generator, sizes.norm_utterances)
    cohort = _vectors(generator, sizes.cohort)
    enroll, test = generator.integers(len(vectors), size=(2, sizes.norm_trials))
    scores = cosine_scores(vectors, enroll, test)
    rows, others = torch.from_numpy(vectors), torch.from_numpy(cohort)
    top = min(TOP, sizes.cohort)

    def against_cohort(row: int) -> tuple[torch.Tensor, torch.Tensor]:
        repeated = rows[row].repeat(len(others), 1)
        found = torch.nn.functional.cosine_similarity(repeated, others, eps=1e-6)
        nearest = torch.topk(found, k=top)[0]
        return nearest.mean(), nearest.std()

    def loop() -> list[float]:
        """For each trial, both sides against the whole cohort."""
        normalised = []
        for score, *sides in zip(scores, enroll, test, strict=True):
            terms = [
                (float(score) - mean) / deviation
                for mean, deviation in map(against_cohort, sides)
            ]
            normalised.append(float(sum(terms)) / 2)
        return normalised

    def ours() -> np.ndarray:
        return as_norm(scores, vectors, enroll, test, cohort, top=top)

    # torch's standard deviation divides by one less.
    theirs = np.array(loop()) * np.sqrt(top / (top - 1))
    if not np.allclose(ours(), theirs, rtol=1e-3, atol=1e-3):
        raise ArithmeticError("bench: the normalised scores differ")
    what = f"AS-norm, {sizes.norm_trials:,} trials of {sizes.norm_utterances}"
    return {f"ours, {what} utterances": ours, f"speechbrain's loop, {what}": loop}


def _large(generator: np.random.Generator, sizes: Sizes) -> dict[str, Callable]:
    """Make what was promised in seconds; nobody to compare with."""
    vectors = _vectors(generator, sizes.utterances)
    cohort = _vectors(generator, sizes.cohort)
    enroll, test = generator.integers(sizes.utterances, size=(2, sizes.trials))
    top = min(TOP, sizes.cohort)
    return {
        f"ours, cosine, {sizes.trials:,} trials of {sizes.utterances:,} utterances": (
            lambda: cosine_scores(vectors, enroll, test)
        ),
        f"ours, AS-norm, {sizes.cohort:,} x {sizes.utterances:,} utterances": (
            lambda: ASNorm(cohort, top=top).statistics(vectors)
        ),
    }


def _peak_mib(name: str, call: Callable[[], object]) -> float:
    if name.startswith("speechbrain"):
        return peak_step_mib(call)
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()
