"""Stage 0: bring the audio here, by fetching, speaking or finding it."""

from __future__ import annotations

import sys

from options import corpus_of, make_parser

from speechbrain_ext.errors import exits_cleanly


@exits_cleanly
def main() -> None:
    """Parse the command line and fetch the corpus into <datadir>/raw."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--which", action="store_true", help="only print the corpus, for --corpus auto"
    )
    options = parser.parse_args()
    corpus, folder = corpus_of(options)
    if options.which:
        print(options.corpus)
        return
    corpus.fetch(folder / "raw", options.data_folder, nj=max(options.nj, 1))
    print(f"data: {options.corpus} is ready")


if __name__ == "__main__":
    sys.exit(main())
