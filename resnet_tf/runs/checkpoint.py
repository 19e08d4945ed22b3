"""Checkpoints of a run: one NumPy archive for each, complete or absent.

A file is written under a temporary name, flushed to disk and renamed. Reading verifies the CRC-32 of every array.
"""

import logging
import pathlib
import re
import zipfile
import zlib

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.files import replace_atomically

KEEP = 2  # the newest, and its predecessor in case the newest is damaged
_NAME = re.compile(r"step-(\d+)\.npz")
_log = logging.getLogger(__name__)


def save(folder, step: int, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """Write the checkpoint of a step and remove all but the newest `KEEP`.

    Return the path of the checkpoint. A missing folder is created.

    Raises:
        OSError: disk full or not writable; earlier checkpoints are unchanged.
    """
    path = _write(pathlib.Path(folder) / f"step-{step:08d}.npz", arrays)
    for old in _paths(folder)[:-KEEP]:
        old.unlink()
    return path


def _write(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, lambda file: np.savez(file, **arrays))
    return path


def _paths(folder):
    return sorted(path for path in pathlib.Path(folder).glob("step-*.npz") if _NAME.fullmatch(path.name))


def steps(folder) -> list[int]:
    """Return the steps that have a checkpoint, in increasing order."""
    return [int(_NAME.fullmatch(path.name)[1]) for path in _paths(folder)]


def load(path) -> dict[str, np.ndarray]:
    """Read a checkpoint, {name: array}.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, OSError) as error:
        raise InputError(f"{path}: damaged checkpoint ({error})") from None


def load_latest(folder, before: int | None = None) -> dict[str, np.ndarray] | None:
    """Read the newest undamaged checkpoint, of a step below `before` if given; warn about damaged newer ones.

    Returns:
        {name: array}, or None if the folder has no checkpoint.

    Raises:
        InputError: all checkpoints are damaged.
    """
    paths = [path for path in _paths(folder) if before is None or int(_NAME.fullmatch(path.name)[1]) < before]
    for path in reversed(paths):
        try:
            return load(path)
        except InputError as error:
            _log.warning("warning: %s; the one before it is used", error)
    if paths:
        raise InputError(f"{folder}: all {len(paths)} checkpoints are damaged")
    return None


def best_path(folder) -> pathlib.Path:
    """Return the path of the best checkpoint by the task's first metric on the held-out validation split.

    Of several with the same metric it is the one with the lowest loss, and of these the first.
    """
    return pathlib.Path(folder) / "best.npz"


def save_best(folder, arrays: dict[str, np.ndarray]) -> None:
    """Write the best checkpoint, replacing the previous one."""
    _write(best_path(folder), arrays)


def halted_path(folder, step: int) -> pathlib.Path:
    """Return the path of the state before a failed step, for --debug_step; no run resumes from it."""
    return pathlib.Path(folder) / f"halted-{step:08d}.npz"


def save_halted(folder, step: int, arrays: dict[str, np.ndarray]) -> None:
    """Write the state before a failed step."""
    _write(halted_path(folder, step), arrays)
