"""SpeechBrain's old CSV format can name pickles; what a recipe builds opens none.

``AddNoise`` and ``AddReverb`` are on the allow-list and read such a CSV, in which a
cell ``pkl`` makes SpeechBrain unpickle a file, and that runs whatever is in it. The
list can't see into a file that may be made later, so the function that opens pickles
there is replaced in the process that builds a recipe.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from speechbrain_ext.errors import UserError

MODULE = "speechbrain.dataio.legacy"
FUNCTION = "read_pkl"
NAME = f"{MODULE}.{FUNCTION}"

_stock: dict[str, Any] = {}


def refuse_pickle(file: Any, data_options: Any = None, lab2ind: Any = None) -> NoReturn:
    """Take the place of SpeechBrain's ``read_pkl``.

    Raises
    ------
    UserError
        Always; with the option that lets it be opened.
    """
    raise UserError(
        f"{file}: a CSV names it as a pickle, which runs its code when it is read; not "
        f"opened\n  If you trust it: --allow {NAME}"
    )


def guard_pickles(allowed: bool) -> None:
    """Put `refuse_pickle` in the place of SpeechBrain's reader, or take it away.

    Arguments
    ---------
    allowed : bool
        Whether a person allowed `NAME`.
    """
    legacy = sys.modules.get(MODULE)
    if legacy is None:  # whoever imports it later builds from a recipe, and asks again
        return
    if getattr(legacy, FUNCTION) is not refuse_pickle:
        _stock[FUNCTION] = getattr(legacy, FUNCTION)
    setattr(legacy, FUNCTION, _stock[FUNCTION] if allowed else refuse_pickle)
