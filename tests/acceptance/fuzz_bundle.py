"""Five minutes of odd bytes for ``unpack``."""

from __future__ import annotations

import time

from hypothesis import HealthCheck, given, settings

from tests.sharing.test_bundle_fuzz import BUNDLES, check

SECONDS = 300


def unpack(seconds: float = SECONDS) -> dict:
    """Unpack odd bundles until the time is over.

    Returns
    -------
    dict
        ``seconds`` and ``bundles`` tried; each was a whole bundle or left nothing.
    """
    started, tried = time.monotonic(), 0

    @settings(
        max_examples=500,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(BUNDLES)
    def examples(data):
        nonlocal tried
        if time.monotonic() - started < seconds:
            tried += 1
            check(data)

    while time.monotonic() - started < seconds:
        examples()
    return {"seconds": round(time.monotonic() - started), "bundles": tried}
