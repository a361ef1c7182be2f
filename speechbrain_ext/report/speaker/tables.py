"""Tables of speaker verification: error rates, costs, thresholds."""

from __future__ import annotations

from typing import Any

from speechbrain_ext.report.speaker.details import (
    choice_table,
    missing_table,
    pair_table,
    source_table,
    speaker_table,
    worst_table,
)
from speechbrain_ext.report.speaker.results import ALWAYS, chosen_system
from speechbrain_ext.report.speaker.text import (
    CONFUSION_NOTE,
    cohort_note,
    interval,
    missing_note,
    percent,
    small,
    trials_note,
)
from speechbrain_ext.report.tables import Page, Table
from speechbrain_ext.scoring.figures import FARS

#: Cost in a list's figures -> heading
COSTS = {
    "min_dcf_0.01": "minDCF .01",
    "min_dcf_0.05": "minDCF .05",
    "min_cllr": "min Cllr",
    "cllr": "Cllr",
}
#: Cllr this far above its least possible value, in bits and as a part of it, is poor.
_POOR_BITS, _POOR_PART = 0.1, 0.5
MEASURE_NOTE = (
    "Less is better everywhere. EER is interpolated between the points of the ROC "
    "curve; minDCF is divided by the cost of the better trivial system, so 1 is "
    "useless, at prior .01 and .05 of a target; Cllr and min Cllr are in bits. "
    "Hard: non-targets of the same source only. Short: single utterances."
)


def speaker_page(results: dict[str, Any]) -> Page:
    """Say what stands on the page of speaker verification, in order."""
    first = _first_list(results)
    conditions = results["conditions"]
    lists = list(chosen_system(results)["lists"])
    blocks = [
        error_table(results),
        _interval_note(results),
        cost_table(results, first),
        calibration_note(results, first),
        threshold_table(results, first),
        MEASURE_NOTE,
        trials_note(chosen_system(results)),
        f"Caveat: {conditions['caveat']}" if conditions.get("caveat") else None,
        missing_table(results),
        cohort_note(results),
    ]
    details = [
        choice_table(results),
        source_table(results, first),
        pair_table(results),
        speaker_table(results),
        CONFUSION_NOTE,
        worst_table(results, "worst_nontargets"),
        worst_table(results, "worst_targets"),
        *(cost_table(results, trials) for trials in lists if trials != first),
    ]
    return Page(
        "Speaker verification",
        summary(results),
        [block for block in blocks if block],
        [block for block in details if block],
    )


def summary(results: dict[str, Any]) -> str:
    """One sentence: the chosen system's EER, raw cosine and channel beside it."""
    first = _first_list(results)

    def rate(system: dict[str, Any]) -> str:
        return percent(system["lists"][first]["eer"]) + " %"

    chosen = chosen_system(results)
    parts = [f"EER on the {first} list: {chosen['label']} {rate(chosen)}"]
    parts += [
        f"{system['label']} {rate(system)}"
        for system in reversed(results["systems"])
        if system["name"] in ALWAYS and system is not chosen
    ]
    return f"{', '.join(parts)}. Scored {results['created']}."


def _first_list(results: dict[str, Any]) -> str:
    lists = list(results["systems"][0]["lists"])
    return "main" if "main" in lists else lists[0]


class _Notes(list):
    """Footnotes of one table; the same text has the same number."""

    def mark(self, text: str, note: str) -> str:
        if note not in self:
            self.append(note)
        return f"{text} [{self.index(note) + 1}]"


def error_table(results: dict[str, Any]) -> Table:
    """Equal error rate with its interval, all systems by all lists."""
    lists = list(results["systems"][0]["lists"])
    notes = _Notes()
    policy = results["nan_trials"]["policy"]

    def cell(figures: dict[str, Any]) -> str:
        text = percent(figures["eer"])
        if figures["eer"] is None:
            return notes.mark(text, f"EER: {figures['not_measured']['eer']}")
        text += f" {interval(figures['eer_interval'])}"
        if figures["eer_interval"] is None:
            why = figures["not_measured"].get("eer_interval", "not known")
            text = notes.mark(text, f"Interval not measured: {why}")
        missing = missing_note(figures, policy)
        return notes.mark(text, missing) if missing else text

    return Table(
        "Equal error rate, % [95 % interval]",
        ["system", *lists],
        [
            [system["label"], *(cell(system["lists"][name]) for name in lists)]
            for system in results["systems"]
        ],
        [system["chosen"] for system in results["systems"]],
        notes,
    )


def _interval_note(results: dict[str, Any]) -> str:
    conditions = results["conditions"]
    brackets = (
        f"Brackets: 95 % interval over {conditions.get('num_test_speakers')} test "
        "speakers, drawn with replacement "
        f"{conditions.get('bootstrap_draws')} times; a difference inside it is not "
        "established. "
    )
    lists = chosen_system(results)["lists"].values()
    if not any(figures["eer_interval"] for figures in lists):
        brackets = ""
    return (
        f"Marked: {chosen_system(results)['label']}: {results['backend']['reason']}; "
        f"these trials have no say in it. {brackets}Channel only: mean and deviation "
        "of the log-mels over time, no training; what it gets right, the microphone "
        "gives away."
    )


def cost_table(results: dict[str, Any], trials: str) -> Table:
    """Show detection costs and Cllr of all systems on one list."""
    notes = _Notes()
    policy = results["nan_trials"]["policy"]

    def row(system: dict[str, Any]) -> list[str]:
        figures = system["lists"][trials]
        missing = missing_note(figures, policy)
        label = system["label"]
        cells = [notes.mark(label, missing) if missing else label]
        for name, heading in COSTS.items():
            text = small(figures[name])
            if figures[name] is None:
                reason = figures["not_measured"].get(name, "not known")
                text = notes.mark("--", f"{heading} not measured: {reason}")
            cells.append(text)
        return cells

    return Table(
        f"Detection costs and calibration, {trials} list",
        ["system", *COSTS.values()],
        [row(system) for system in results["systems"]],
        [system["chosen"] for system in results["systems"]],
        notes,
    )


def calibration_note(results: dict[str, Any], trials: str) -> str | None:
    """Warn of log-likelihood ratios that can't be taken at their word."""
    chosen = chosen_system(results)
    cost, least = (chosen["lists"][trials][key] for key in ("cllr", "min_cllr"))
    if cost is None or least is None:
        return None
    text = (
        f"Calibration is poor: Cllr of {chosen['label']} on the {trials} list is "
        f"{small(cost)}, and {small(least)} would be possible with these scores. "
    )
    if cost > 1:
        text += "Above 1, the ratios mislead more than no ratio at all. "
    elif cost - least <= max(_POOR_BITS, _POOR_PART * least):
        return None
    return text + (
        "The map was learned on speakers that the network has seen in training, who "
        "are told apart more easily than others. Take thresholds from the table, not "
        "from theory."
    )


def threshold_table(results: dict[str, Any], trials: str) -> Table | None:
    """Operating points of the chosen system and of raw cosine."""
    rows, ours, notes = [], [], _Notes()
    policy = results["nan_trials"]["policy"]
    for system in results["systems"]:
        figures = system["lists"][trials]
        if not (system["chosen"] or system["name"] == "cosine"):
            continue
        if figures["eer"] is None:
            continue
        missing = missing_note(figures, policy)
        label = notes.mark(system["label"], missing) if missing else system["label"]
        points = [("EER", figures["eer"], figures["eer"], figures["eer_threshold"])]
        points += [
            (f"FAR {100 * rate:g} %", point["far"], point["frr"], point["threshold"])
            for rate, point in zip(FARS, figures["thresholds"], strict=False)
        ]
        for name, far, frr, threshold in points:
            at = "none" if threshold is None else f"{threshold:.4f}"
            rows.append([label, name, at, percent(far), percent(frr)])
            ours.append(system["chosen"])
    if not rows:
        return None
    return Table(
        f"Thresholds on the {trials} list",
        ["system", "operating point", "threshold", "false alarms %", "misses %"],
        rows,
        ours,
        notes,
        words=(1,),
    )
