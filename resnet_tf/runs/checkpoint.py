"""Checkpoints: one NumPy archive each, whole or absent, with a checksum on every array.

A file is written beside its place, forced to disk and renamed, so a checkpoint that has its name is
complete. Reading verifies the CRC-32 that the archive holds of each array.
"""

import logging
import pathlib
import re
import zipfile
import zlib

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.files import replace_atomically

KEEP = 2  # the newest, and the one before in case it is damaged
_NAME = re.compile(r"step-(\d+)\.npz")
_log = logging.getLogger(__name__)


def save(folder, step, arrays):
    """Write the checkpoint of a step, then remove all but the newest `KEEP`.

    Args:
        folder: of the checkpoints; made if missing.
        step: steps done.
        arrays: {name: NumPy array}.

    Returns:
        Path of the checkpoint.

    Raises:
        OSError: disk full or not writable; the checkpoints from before are untouched.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.npz"
    replace_atomically(path, lambda file: np.savez(file, **arrays))
    for old in _paths(folder)[:-KEEP]:
        old.unlink()
    return path


def _paths(folder):
    """Checkpoints of a folder, oldest first."""
    return sorted(path for path in pathlib.Path(folder).glob("step-*.npz") if _NAME.fullmatch(path.name))


def steps(folder):
    """The steps that have a checkpoint, rising."""
    return [int(_NAME.fullmatch(path.name)[1]) for path in _paths(folder)]


def load(path):
    """Read one checkpoint: {name: NumPy array}.

    Raises:
        InputError: missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, OSError) as error:
        raise InputError(f"{path}: damaged checkpoint ({error})") from None


def load_latest(folder, before=None):
    """Read the newest checkpoint that is whole, passing over damaged ones with a warning.

    Args:
        folder: of the checkpoints.
        before: a step; only checkpoints of earlier ones are looked at. None for all.

    Returns:
        {name: array}, or None where the folder has no checkpoint.

    Raises:
        InputError: there are checkpoints and all are damaged.
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


def best_path(folder):
    """Where the best checkpoint is kept beside the newest ones: of the best top-1 on the held-out validation split.

    Of several with that top-1 it is the one of the lowest loss, and of these the first.
    """
    return pathlib.Path(folder) / "best.npz"


def save_best(folder, arrays):
    """Keep a checkpoint as the best so far, in place of the one before."""
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    replace_atomically(best_path(folder), lambda file: np.savez(file, **arrays))


def halted_path(folder, step):
    """Where the state before a step that failed is kept; no run goes on from it."""
    return pathlib.Path(folder) / f"halted-{step:08d}.npz"


def save_halted(folder, step, arrays):
    """Keep the state before a step whose numbers failed, for --debug_step."""
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    replace_atomically(halted_path(folder, step), lambda file: np.savez(file, **arrays))
