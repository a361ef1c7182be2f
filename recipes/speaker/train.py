"""Train speaker embeddings: ``python recipes/speaker/train.py RECIPE.yaml ...``."""

import sys

from speechbrain_ext.config import load_command_line, take_flag
from speechbrain_ext.errors import exits_cleanly
from speechbrain_ext.tasks.speaker.train import train


@exits_cleanly
def main(argv: list[str]) -> None:
    """Load the recipe strictly, then train; goes on where an earlier run stopped."""
    argv, force_resume = take_flag(argv, "force_resume")
    train(load_command_line(argv), force_resume=force_resume)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
