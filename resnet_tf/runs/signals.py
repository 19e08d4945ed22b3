"""SIGTERM and SIGINT: finish the step, save, and say so by an exit code of its own."""

import contextlib
import signal

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, start it again


class Stopped(Exception):
    """The run was asked to stop and everything is saved; its message is for the person at the keyboard."""


class StopRequested(Exception):
    """A signal came; its message is the signal's name. Nothing is saved yet."""


class Stop:
    """Notes a signal instead of dying of it; the second SIGINT interrupts at once.

    Attributes:
        name: of the signal that came; "" where none did.
    """

    def __init__(self):
        self.name = ""

    def check(self):
        """Raise `StopRequested` if a signal has come."""
        if self.name:
            raise StopRequested(self.name)

    @contextlib.contextmanager
    def listening(self):
        """Within this context signals are noted; where handlers cannot be set (not the main thread), as before."""
        before = {}

        def note(number, _):
            again = self.name and number == signal.SIGINT
            self.name = signal.Signals(number).name
            if again:
                raise KeyboardInterrupt

        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                before[number] = signal.signal(number, note)
        except ValueError:
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
