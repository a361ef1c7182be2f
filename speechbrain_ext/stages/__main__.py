"""``python -m speechbrain_ext.stages``: what ``egs/common.sh`` calls.

``run WORDS...`` carries out a plan (`speechbrain_ext.stages.plan.parse_plan`);
``environment`` fails if the interpreter lacks our packages; ``suggest WORD PREFIX
NAME...`` prints the nearest name, for an error message.
"""

from __future__ import annotations

import sys

from speechbrain_ext.errors import UserError, exits_cleanly
from speechbrain_ext.stages.engine import check_environment, run
from speechbrain_ext.stages.plan import parse_plan, suggest


@exits_cleanly
def main(argv: list[str]) -> int:
    """Run one of the three commands and return its exit code."""
    if argv[:1] == ["run"]:
        return run(parse_plan(argv[1:]))
    if argv == ["environment"]:
        check_environment()
        return 0
    if argv[:1] == ["suggest"] and len(argv) > 2:
        print(suggest(argv[1], argv[3:], prefix=argv[2]))
        return 0
    raise UserError("stages: called by run.sh; see ./run.sh --help")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
