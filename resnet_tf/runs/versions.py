"""Folders of exported models: numbered versions, as TensorFlow Serving expects them.

    model/1/  model/2/  ...

A command that reads a model accepts the folder of one version, or their parent folder for the newest version.
"""

import contextlib
import os
import pathlib
import shutil

from resnet_tf.errors import InputError

CARD = "model.json"  # in every version; see `serving.card`
SAVED_MODEL = "saved_model.pb"


def locate(path) -> pathlib.Path:
    """Return the newest version in `path`, or `path` itself if it is a version or has none."""
    path = pathlib.Path(path)
    if is_version(path):
        return path
    versions = [number for number in _numbers(path) if is_version(path / str(number))]
    return path / str(max(versions)) if versions else path


def is_version(path) -> bool:
    """Return whether a folder has a model: a card, or a SavedModel of an earlier release without a card."""
    return any((pathlib.Path(path) / name).is_file() for name in (CARD, SAVED_MODEL))


def _numbers(folder):
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name]


def choose(out, version: int = 0) -> int:
    """Return the number of a new version, without writing anything.

    Args:
        out: folder of the versions; may not exist yet.
        version: wanted number; 0 for the highest plus one.

    Raises:
        InputError: `out` is a file or a model, or has that version.
    """
    out = pathlib.Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out={out}: a file, not a folder")
    if is_version(out):
        raise InputError(f"--out={out}: a model itself, not a folder of versions; choose another")
    numbers = _numbers(out)
    if version in numbers:
        raise InputError(f"--version={version}: {out}/{version} exists already")
    return version or max(numbers, default=0) + 1


@contextlib.contextmanager
def writing(out, version: int):
    """Write a version to a temporary folder, then rename it; on an error remove it.

    Yields:
        Path of an empty folder to write to.

    Raises:
        InputError: another process has written that version meanwhile.
        OSError: the version cannot be written.
    """
    out = pathlib.Path(out)
    is_new = not out.exists()
    partial = out / f".{version}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if (out / str(version)).exists():
            raise InputError(f"--out={out}: {out}/{version} has been made meanwhile")
        os.rename(partial, out / str(version))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
