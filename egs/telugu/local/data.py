"""Stage 0: bring the audio here, by synthesising, fetching or finding it."""

from __future__ import annotations

import sys

from options import corpus_of, make_parser

from speechbrain_ext.errors import exits_cleanly


@exits_cleanly
def main() -> None:
    """Parse the command line and fetch the corpus into <datadir>/raw."""
    options = make_parser(__doc__).parse_args()
    corpus, folder = corpus_of(options)
    corpus.fetch(folder / "raw", options.data_folder, nj=max(options.nj, 1))
    print(f"data: {options.corpus} is ready")


if __name__ == "__main__":
    sys.exit(main())
