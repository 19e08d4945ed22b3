"""Show the progress of long work on stderr."""

import sys
import time


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
            print(f"\r\x1b[2K{line}" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr)
            sys.stderr.flush()

    def end(self) -> None:
        """Clear the line on a terminal."""
        if self._shown and self._terminal:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
