"""Run one command: shown live, logged, interrupted cleanly."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import selectors
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class LogLines:
    r"""Write a terminal's output to a file as plain lines.

    A progress bar rewrites its line hundreds of times; the file gets the last state.

    Arguments
    ---------
    stream : BinaryIO
        Where complete lines go.

    Example
    -------
    >>> import io
    >>> log = LogLines(io.BytesIO())
    >>> log.write(b"10%\r50%\r100%\ndone")
    >>> log.close()
    >>> log.stream.getvalue()
    b'100%\ndone\n'
    """

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        self._rest = b""

    def write(self, data: bytes) -> None:
        """Take the next bytes, however they are cut."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._write_line(line)
        if len(self._rest) > 1 << 16:  # a bar without end must not fill memory
            self._rest = self._rest[self._rest.rfind(b"\r") + 1 :][-(1 << 16) :]

    def close(self) -> None:
        """Write what was left without a line end."""
        if self._rest:
            self._write_line(self._rest)
        self._rest = b""

    def _write_line(self, line: bytes) -> None:
        states = [state for state in line.split(b"\r") if state.strip()]
        self.stream.write(_ESCAPES.sub(b"", states[-1] if states else b"") + b"\n")
        self.stream.flush()


class InterruptedStageError(Exception):
    """The command was stopped by a signal to us; it has ended."""


def run_logged(
    command: Sequence[str], log: Path, *, header: str, keep_open: Sequence[int] = ()
) -> int:
    """Run a command to its end, show its output as it comes, and append it to a log.

    The command keeps a terminal where we have one, so progress bars stay. It gets a
    process group of its own: Ctrl-C reaches us alone, is handed on once (a second
    one in the middle of saving a checkpoint would spoil it), and we wait. A second
    Ctrl-C kills.

    Arguments
    ---------
    command : Sequence[str]
        Program and arguments; no shell.
    log : Path
        File to append to.
    header : str
        First line of this run in the log.
    keep_open : Sequence[int]
        Descriptors the command inherits.

    Returns
    -------
    int
        Its exit code; negative: the signal that killed it.

    Raises
    ------
    InterruptedStageError
        If we got SIGINT, SIGTERM or SIGHUP, after the command has ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        file.write(f"# {header}\n".encode("utf-8", "surrogateescape"))
        file.flush()
        with _Signals() as signals, selectors.DefaultSelector() as selector:
            ends = []
            for stream in (sys.stdout, sys.stderr):
                ours, theirs = _channel(stream)
                selector.register(ours, selectors.EVENT_READ, (stream, LogLines(file)))
                ends.append(theirs)
            environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
            try:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=ends[0],
                    stderr=ends[1],
                    start_new_session=True,
                    pass_fds=keep_open,
                    env=environment,
                )
            except OSError as error:
                file.write(f"{error}\n".encode())
                print(error, file=sys.stderr)
                return 127
            finally:
                for end in ends:
                    os.close(end)
            signals.attach(child)
            _relay(selector, child)
            code = child.wait()
        if signals.received:
            raise InterruptedStageError
        return code


def _relay(selector: selectors.BaseSelector, child: subprocess.Popen) -> None:
    """Copy output until the command has closed it, or has ended.

    A daemon that it left behind may hold the channel for ever: once the child is
    gone and nothing comes, that is the end.
    """
    while selector.get_map():
        events = selector.select(timeout=0.2)
        if not events and child.poll() is not None:
            break
        for key, _ in events:
            stream, lines = key.data
            try:
                data = os.read(key.fd, 1 << 16)
            except OSError as error:  # a terminal whose other side is closed
                if error.errno != errno.EIO:
                    raise
                data = b""
            if data:
                lines.write(data)
                _show(stream, data)
            else:
                selector.unregister(key.fd)
                lines.close()
                os.close(key.fd)
    for key in list(selector.get_map().values()):
        key.data[1].close()
        os.close(key.fd)


def _show(stream, data: bytes) -> None:
    """Write to our own output; when nobody reads it any more the work goes on."""
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
        view = memoryview(data)
        while view:
            view = view[os.write(stream.fileno(), view) :]


def _channel(stream) -> tuple[int, int]:
    """Return (our end, the command's end): a terminal if the stream is one."""
    if not stream.isatty():
        return os.pipe()
    ours, theirs = os.openpty()
    settings = termios.tcgetattr(theirs)
    settings[1] &= ~termios.OPOST  # the real terminal adds the carriage returns
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    size = fcntl.ioctl(stream.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    return ours, theirs


class _Signals:
    """Hand signals on to the command: the first stops, the second kills.

    Ctrl-Z holds both: the command is not in the terminal's foreground group.
    """

    def __init__(self):
        self.received: list[int] = []
        self._child: subprocess.Popen | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number == signal.SIGHUP and (
                    signal.getsignal(number) is signal.SIG_IGN
                ):
                    continue  # nohup: the user wants it to live on
                self._before[number] = signal.signal(number, self._handle)
            self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._hold)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def attach(self, child: subprocess.Popen) -> None:
        """Name the command; a signal that came before is handed on now."""
        self._child = child
        if self.received:
            self._send(self.received[0])

    def _handle(self, number: int, frame) -> None:
        self.received.append(number)
        if len(self.received) == 1:
            with contextlib.suppress(OSError):
                os.write(2, b"\nrun.sh: stopping; again to kill at once\n")
            self._send(number)
        else:
            self._send(signal.SIGKILL)

    def _hold(self, number: int, frame) -> None:
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(signal.SIGCONT)  # we are here again after `fg`

    def _send(self, number: int) -> None:
        if self._child is not None and self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)
