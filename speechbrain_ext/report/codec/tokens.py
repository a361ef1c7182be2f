"""Tokens of a codec's experiment: what the stage tokenize measured, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechbrain_ext.files import read_json
from speechbrain_ext.report.tables import Table

NOTE = (
    "Codes: the codec's own, one vocabulary for each codebook. Tokens: a byte-pair "
    "encoding of the same codes, learned from the train files, from which every code "
    "and waveform comes back as it was. Bits per second: all of equal length (bit/s); "
    "by the frequencies of the same files (entropy), which flatters a large vocabulary "
    "on little speech; by the frequencies of the train files (coded). Used: the part "
    "of the vocabulary that comes at all."
)


def read_tokens(folder: Path) -> dict[str, Any]:
    """Read ``tokens/tokens.json`` of an experiment; empty if there are no tokens.

    So it is, too, if the file is not what the stage tokenize wrote: a report goes
    without then.
    """
    found = read_json(Path(folder) / "tokens" / "tokens.json")
    try:
        tokens_table(found)
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return found


def tokens_table(record: dict[str, Any]) -> Table:
    """Codes and tokens of each split, one above the other.

    Arguments
    ---------
    record : dict
        As `read_tokens` returns it, not empty.
    """
    facts, model = record["tokenizer"], record["model"]
    books = facts["num_codebooks"]
    sizes = {
        "codes": f"{books} x {facts['codebook_size']:,}",
        "tokens": f"{facts['vocab_size']:,}",
    }
    rows = [
        [
            role,
            stream,
            sizes[stream],
            f"{split[stream]['per_second']:.1f}",
            *(
                f"{split[stream][f'{kind}_bps']:.0f}"
                for kind in ("nominal", "entropy", "coded")
            ),
            f"{100 * split[stream]['used']:.0f} %",
        ]
        for role, split in record["splits"].items()
        for stream in ("codes", "tokens")
    ]
    return Table(
        f"Tokens of {books} codebook{'s' * (books > 1)} at {model['kbps']:g} kbps, "
        f"{facts['pattern']}",
        ["files", "stream", "vocabulary", "per s", "bit/s", "entropy", "coded"]
        + ["used"],
        rows,
        [row[1] == "tokens" for row in rows],
        [],
        words=(1, 2),
        heading="Tokens",
    )
