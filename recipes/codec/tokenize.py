"""Make tokens: ``python recipes/codec/tokenize.py EXP --data FOLDER``."""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

if __name__ == "tokenize":
    # A script's own folder is searched first, so whoever imports the standard library's
    # tokenize from a script that lies here finds this file: hand over the right one.
    spec = PathFinder.find_spec("tokenize", [os.path.dirname(os.__file__)])
    sys.modules["tokenize"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["tokenize"])
else:
    from speechbrain_ext.cli import run
    from speechbrain_ext.codec.tokenize_command import command

    if __name__ == "__main__":
        sys.exit(run(command, sys.argv[1:], "tokenize.py"))
