"""Watch folders for new image files, by polling: no events of the file system, which network drives do not send."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator

from resnet_tf.serving import predict

SECONDS = 1.0  # between two looks at the folders
_STEP = 0.05  # longest delay until a request to stop is noticed, in seconds


class Watch:
    """Folders whose new image files are reported once each is complete.

    A file is complete when two looks in a row find the same size, above 0, and the same time of modification. A file
    that changes after it was reported, for instance because its copying had only paused, is reported again.
    """

    def __init__(self, folders: Iterable[str], done: Iterable[str] = ()):
        """Begin to watch.

        Args:
            folders: folders, which may be missing for a while.
            done: files that need not be reported as they are now.
        """
        self._folders = list(folders)
        self._done = {path: _state(path) for path in done}
        self._pending = {}  # {path: its state at the last look}

    def look(self) -> list[str]:
        """Look at the folders once and return the new complete files, sorted within each folder."""
        seen = {path: _state(path) for folder in self._folders for path in _list(folder)}
        fresh = {path: state for path, state in seen.items() if state and state[0] and self._done.get(path) != state}
        ready = [path for path, state in fresh.items() if self._pending.get(path) == state]
        self._done |= {path: fresh[path] for path in ready}
        self._pending = {path: state for path, state in fresh.items() if self._done.get(path) != state}
        return ready

    def until(self, is_over: Callable[[], bool]) -> Iterator[list[str]]:
        """Yield the files of each look that found some, until `is_over()` returns true."""
        while not is_over():
            if ready := self.look():
                yield ready
            end = time.monotonic() + SECONDS
            while not is_over() and time.monotonic() < end:
                time.sleep(_STEP)


def _list(folder):
    with contextlib.suppress(OSError):  # a folder that vanishes while it is listed
        return predict.images_in(folder)
    return []


def _state(path):
    """Return (size, time of modification) of a file; None if it is missing."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    return None
