"""``--corpus auto``: human voices where this machine can fetch them."""

from __future__ import annotations

from pathlib import Path

from speechbrain_ext.data.corpora.debian import fetch_packages, probed_beside
from speechbrain_ext.errors import UserError, WorkError

# The smallest of the corpus debian, 1 MB.
_PROBE = "asterisk-prompt-es-co"


def choose_corpus(raw: Path) -> tuple[str, str]:
    """Choose ``debian`` where its packages can be fetched, else ``espeak``.

    The proof is its smallest package: lists that apt holds say nothing of the network.
    Where that one is unpacked already, nothing is fetched; `DebianVoices.fetch` takes
    it over.

    Arguments
    ---------
    raw : Path
        Where the corpus debian keeps its packages, such as ``data/debian/raw``.

    Returns
    -------
    str
        A key of `speechbrain_ext.data.corpora.CORPORA`.
    str
        Why; one line for the log.
    """
    try:
        fetch_packages([_PROBE], raw if raw.exists() else probed_beside(raw))
    except (UserError, WorkError) as error:
        reason = str(error).splitlines()[-1]
        return "espeak", f"synthetic voices, since Debian's can't be fetched: {reason}"
    return "debian", "human voices: Debian's packages can be fetched here"
