"""``make acceptance``: the long proofs; writes docs/acceptance.json.

One entry per part, with the command, the commit and the figures, and whether each
figure keeps its promise. A part that stands in the file with the present commit is
skipped; ``python -m tests.acceptance PART ...`` runs some, ``--force`` redoes them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable

from speechbrain_ext.files import write_json
from tests.acceptance import (
    chaos,
    codec,
    codes,
    corrupt,
    fuzz,
    fuzz_bundle,
    sharing,
    speaker,
    speaker_safety,
    static_tables,
    streaming,
    tokens,
    wave,
    wave_ablation,
)
from tests.acceptance.runs import DOCS, ROOT

OUTPUT = DOCS / "acceptance.json"

PARTS: dict[str, Callable[[], dict]] = {
    "chaos": chaos.chaos,
    "codec_festival": codec.festival,
    "codec_human_g722": lambda: codec.human(
        "asterisk-core-sounds-en-g722", "human_g722"
    ),
    "codec_human_8khz": lambda: codec.human(
        "asterisk-core-sounds-en-wav", "human_8khz"
    ),
    "codes_festival": codes.festival,
    "codes_human": codes.human,
    "corrupt": corrupt.corrupt,
    "fuzz_bundle": fuzz_bundle.unpack,
    "fuzz_loader": fuzz.loader,
    "sharing": sharing.sharing,
    "sharing_codec": sharing.sharing_codec,
    "speaker": speaker.speaker,
    "speaker_ablation": speaker.ablation,
    "speaker_bf16": speaker_safety.bf16,
    "speaker_poison": speaker_safety.poison,
    "speaker_faults": speaker_safety.faults,
    "speaker_nan_score": speaker_safety.nan_score,
    "speaker_kill": speaker_safety.kill,
    "static_tables": static_tables.static_tables,
    "streaming": streaming.streaming,
    "tokens": tokens.tokens,
    "wave_ablation": wave_ablation.ablation,
    "wave_festival": wave.festival,
    "wave_human": wave.human,
}


def commit() -> str:
    """Return the commit that is measured."""
    found = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return found.stdout.strip()


def measured() -> dict:
    """Return what is written already."""
    return json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}


def main(argv: list[str]) -> int:
    """Run the parts that are asked for; exit code 1 if a promise is broken."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--force", action="store_true", help="redo what is there")
    options = parser.parse_args(argv)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    done = measured()
    for name in options.parts or PARTS:
        if done.get(name, {}).get("commit") == commit() and not options.force:
            print(f"{name}: measured at this commit already")
            continue
        entry = PARTS[name]() | {
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
            "cores": os.cpu_count(),
        }
        done = measured() | {name: entry}  # another part may have ended meanwhile
        write_json(OUTPUT, dict(sorted(done.items())))
        codes.write_page(done)
        for claim in entry["claims"]:
            print(f"{name}: {claim['claim']}: {claim['value']} {claim['holds']}")
    broken = [n for n in done if not all(c["holds"] for c in done[n]["claims"])]
    print(f"written: {OUTPUT.relative_to(ROOT)}; broken promises: {broken or 'none'}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
