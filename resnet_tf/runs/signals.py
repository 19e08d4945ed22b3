"""SIGTERM and SIGINT: finish the step, save, and exit with a code of its own."""

import contextlib
import signal

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: no error, the same command resumes


class Stopped(Exception):
    """A run that was asked to stop and has saved everything; the message is for the user."""


class StopRequested(Exception):
    """A signal that asks a run to stop, before anything is saved; the message is the name of the signal."""


class Stop:
    """A record of the signal received; a second SIGINT interrupts at once.

    Attributes:
        name: name of the signal; "" if none was received.
    """

    def __init__(self):
        self.name = ""

    def check(self) -> None:
        """Raise `StopRequested` if a signal was received."""
        if self.name:
            raise StopRequested(self.name)

    @contextlib.contextmanager
    def listening(self):
        """Record signals within this context; outside the main thread, where no handler can be set, do nothing."""
        before = {}

        def note(number, _):
            is_second = self.name and number == signal.SIGINT
            self.name = signal.Signals(number).name
            if is_second:
                raise KeyboardInterrupt

        with contextlib.suppress(ValueError):
            for number in (signal.SIGTERM, signal.SIGINT):
                before[number] = signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
