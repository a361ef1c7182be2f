"""What tests of data folders share."""

import os
import signal

import pytest


@pytest.fixture
def run_killed_at():
    """Return a function that runs an action in a child and kills that with -9.

    It dies before its ``number``-th file is placed; the function returns -9, or 0 if
    the action was done before.
    """

    def run(action, number):
        pid = os.fork()
        if pid == 0:
            place, calls = os.replace, iter(range(number + 1))

            def kill_or_replace(*args):
                if next(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                place(*args)

            os.replace = kill_or_replace
            try:
                action()
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run
