"""``--corpus auto``: human voices where this machine can fetch them."""

from __future__ import annotations

from speechbrain_ext.data.corpora.debian import knows_packages
from speechbrain_ext.data.corpora.debian_voices import packages
from speechbrain_ext.errors import UserError, WorkError


def choose_corpus() -> tuple[str, str]:
    """Choose ``debian`` where apt can fetch its packages, else ``espeak``.

    Returns
    -------
    str
        A key of `CORPORA`.
    str
        Why, one line.
    """
    raise NotImplementedError
