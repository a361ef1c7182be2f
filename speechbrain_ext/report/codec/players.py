"""Listen to a codec: audio players in report.html, with SNR and PESQ of each file."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from speechbrain_ext.report.codec.results import (
    METRICS,
    rate_digits,
    system_folder,
)
from speechbrain_ext.report.codec.tables import LABELS

#: Utterances with players; more would only make the page long.
MAX_UTTERANCES = 12


def render_players(results: dict[str, Any], folder: Path) -> str:
    """Foldable list of utterances, each with all systems; the first one open."""
    systems = sorted(results["systems"], key=lambda system: system["kbps"])
    utt_ids = [file["utt_id"] for file in systems[0]["files"]]
    blocks = []
    for utt_id in utt_ids[:MAX_UTTERANCES]:
        rows = [_player(folder, "reference", utt_id, "original", "", False)]
        for system in systems:
            scores = next(f for f in system["files"] if f["utt_id"] == utt_id)
            name = system["name"]
            rows.append(
                _player(
                    folder,
                    system_folder(system),
                    utt_id,
                    f"{LABELS.get(name, name)}, "
                    f"{system['kbps']:.{rate_digits(system)}f} kbps",
                    describe_scores(scores),
                    name != "opus",
                )
            )
        if any(rows):
            opened = "" if blocks else " open"
            blocks.append(
                f"<details{opened}><summary>{escape(utt_id)}</summary>"
                f"{''.join(rows)}</details>"
            )
    return "<h2>Listen</h2>\n" + "\n".join(blocks) if blocks else ""


def _player(
    folder: Path, system: str, utt_id: str, label: str, scores: str, ours: bool
) -> str:
    wav = Path("reconstructions") / system / f"{utt_id}.wav"
    if not (folder / wav).exists():
        return ""
    return (
        f"<div class='player{' ours' if ours else ''}'><b>{escape(label)}</b>"
        f'<audio controls preload=none src="{quote(wav.as_posix())}"></audio>'
        f"<span>{escape(scores)}</span></div>"
    )


def describe_scores(scores: dict[str, Any]) -> str:
    """Write SNR and PESQ of one file, the one never without the other."""
    texts = []
    for name in ("snr_db", "pesq_wb"):
        heading, digits, _ = METRICS[name]
        value = scores.get(name)
        text = "not measured" if value is None else f"{value:.{digits}f}"
        quantity, _, unit = heading.partition(" ")
        texts.append(f"{quantity} {text}" + (f" {unit}" if unit and value else ""))
    return ", ".join(texts)
