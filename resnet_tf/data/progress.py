"""Say what goes on, on stderr: lines, and the progress of long work; or nothing of it, where the caller wants quiet."""

import contextlib
import contextvars
import sys
import time

_quiet = contextvars.ContextVar("quiet", default=False)


@contextlib.contextmanager
def quiet(is_quiet: bool = True):
    """Say nothing in this context, if `is_quiet`."""
    token = _quiet.set(is_quiet)
    try:
        yield
    finally:
        _quiet.reset(token)


def say(text: str, end: str = "\n") -> None:
    """Write a line to stderr, unless it shall be quiet."""
    if not _quiet.get():
        print(text, end=end, file=sys.stderr, flush=True)


class Progress:
    """A percentage for work that takes longer than a few seconds; updated in place on a terminal, else every 10 s."""

    def __init__(self, what: str, total: int):
        """Start the clock.

        Args:
            what: description of the work, such as "checking images".
            total: amount of work, in any unit.
        """
        self._what, self._total, self._done = what, max(total, 1), 0
        self._terminal = sys.stderr.isatty()
        self._next = time.monotonic() + 2
        self._shown = False

    def add(self, amount: int) -> None:
        """Add an amount of work that was done."""
        self._done += amount
        now = time.monotonic()
        if now >= self._next:
            self._next = now + (0.2 if self._terminal else 10)
            self._shown = True
            line = f"{self._what}: {100 * self._done // self._total}%"
            say(f"\r\x1b[2K{line}" if self._terminal else line, end="" if self._terminal else "\n")

    def end(self) -> None:
        """Clear the line on a terminal."""
        if self._shown and self._terminal:
            say("\r\x1b[2K", end="")
