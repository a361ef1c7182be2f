"""Five minutes of odd bytes for ``unpack``."""

from __future__ import annotations

import time

from hypothesis import HealthCheck, given, settings

from tests.acceptance.runs import Claim
from tests.sharing.test_bundle_fuzz import BUNDLES, check

SECONDS = 300


def unpack(seconds: float = SECONDS) -> dict:
    """Unpack odd bundles until the time is over; each is whole or leaves nothing."""
    started, tried, faults = time.monotonic(), 0, []
    everything = list(HealthCheck)

    @settings(
        max_examples=500,
        deadline=None,
        database=None,
        suppress_health_check=everything,
    )
    @given(BUNDLES)
    def examples(data):
        nonlocal tried
        if time.monotonic() - started < seconds:
            tried += 1
            check(data)

    while time.monotonic() - started < seconds and not faults:
        try:
            examples()
        except Exception as error:  # whatever it is, it is a fault of ours
            faults.append(f"{type(error).__name__}: {error}")
    claims = [
        Claim("seconds of odd bundles", time.monotonic() - started, ">=", seconds),
        Claim(
            "bundles that ended otherwise than whole or refused", len(faults), "<=", 0
        ),
    ]
    return {
        "command": "python -m tests.acceptance fuzz_bundle",
        "claims": [claim.entry() for claim in claims],
        "bundles": tried,
        "faults": faults,
    }
