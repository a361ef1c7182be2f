"""Stage 1: recordings to 16 kHz audio, manifests and rejected.tsv."""

from __future__ import annotations

import sys

from options import corpus_of, make_parser, typed_command

from speechbrain_ext.data.corpora.facts import facts_of
from speechbrain_ext.data.prepare import Settings, prepare
from speechbrain_ext.data.split import ROLES
from speechbrain_ext.errors import exits_cleanly

#: The synthetic corpora's split; other corpora divide what they have.
_SPOKEN_COUNTS = {"train": 33, "valid": 3, "test": 12}


@exits_cleanly
def main() -> None:
    """Parse the command line and prepare <datadir>."""
    parser = make_parser(__doc__)
    parser.add_argument("--seed", type=int, default=1, help="draws the split")
    for role in ROLES:
        parser.add_argument(f"--num_{role}", type=int, help=f"{role} utterances")
    parser.add_argument(
        "--split_by", default="auto", choices=("auto", "speaker", "utterance")
    )
    parser.add_argument(
        "--max_rejected", type=float, default=0.2, help="part of all, in [0, 1]"
    )
    options = parser.parse_args()
    corpus, folder = corpus_of(options)
    counts = {role: getattr(options, f"num_{role}") for role in ROLES}
    if options.corpus in ("espeak", "festival"):
        counts = {
            role: _SPOKEN_COUNTS[role] if count is None else count
            for role, count in counts.items()
        }
    for role, count in counts.items():
        if count is not None and count < 1:
            parser.error(f"--num_{role} must be at least 1, got {count}")
    if not 0 <= options.max_rejected <= 1:
        parser.error(f"--max_rejected lies in [0, 1], got {options.max_rejected}")
    places = folder / "raw", options.data_folder
    prepare(
        corpus.items(*places),
        folder,
        Settings(
            seed=options.seed,
            counts=counts,
            split_by=options.split_by,
            max_rejected=options.max_rejected,
        ),
        corpus=facts_of(corpus, *places),
        command=typed_command(),
        nj=max(options.nj, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
