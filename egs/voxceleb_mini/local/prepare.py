"""Stage 1: recordings to 16 kHz speech, train and test speakers, trial lists."""

from __future__ import annotations

import sys

from options import corpus_of, make_parser, typed_command

from speechbrain_ext.data.corpora import speakers_of, trial_lists_of
from speechbrain_ext.data.corpora.facts import facts_of
from speechbrain_ext.data.speakers import (
    SpeakerSettings,
    SplitSettings,
    prepare_speakers,
)
from speechbrain_ext.data.vad import open_detector
from speechbrain_ext.errors import exits_cleanly

#: Test speakers, where a third of all is not what published figures rest on.
_NUM_TEST = {"debian": 22}


@exits_cleanly
def main() -> None:
    """Parse the command line and prepare <datadir>/split<split_seed>."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--split_seed", type=int, default=1, help="draws train and test speakers"
    )
    parser.add_argument(
        "--inner_split",
        type=int,
        help="for tuning: take the test speakers away, and draw others of the train "
        "speakers",
    )
    parser.add_argument("--num_test", type=int, help="test speakers")
    parser.add_argument("--num_train", type=int, help="train speakers (default: rest)")
    parser.add_argument(
        "--chunk_seconds",
        type=float,
        default=0.0,
        help="join shorter train utterances to such pieces, beside them; 0: not",
    )
    parser.add_argument(
        "--max_rejected", type=float, default=0.2, help="part of all, in [0, 1]"
    )
    options = parser.parse_args()
    for name in ("num_test", "num_train"):
        count = getattr(options, name)
        if count is not None and count < 2:
            parser.error(f"--{name} must be at least 2, got {count}")
    if not 0 <= options.chunk_seconds <= 60:
        parser.error(f"--chunk_seconds lies in [0, 60], got {options.chunk_seconds}")
    if not 0 <= options.max_rejected <= 1:
        parser.error(f"--max_rejected lies in [0, 1], got {options.max_rejected}")
    corpus, folder = corpus_of(options)
    places = folder / "raw", options.data_folder
    trim = open_detector(options.vad)
    prepare_speakers(
        corpus.items(*places),
        folder,
        SpeakerSettings(
            split_seed=options.split_seed,
            inner_split=options.inner_split,
            num_test=options.num_test or _NUM_TEST.get(options.corpus),
            num_train=options.num_train,
            max_rejected=options.max_rejected,
            split=SplitSettings(chunk_seconds=options.chunk_seconds),
        ),
        known=speakers_of(corpus, *places),
        trial_lists=trial_lists_of(corpus, *places),
        trim=trim,
        # 40 GB that need no conversion are not copied.
        link=options.corpus == "voxceleb1" and trim is None,
        corpus=facts_of(corpus, *places),
        command=typed_command(),
        nj=max(options.nj, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
