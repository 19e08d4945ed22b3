"""Where exported models lie: numbered versions in a folder, as TensorFlow Serving wants them.

    model/1/  model/2/  ...

Whoever reads a model may name the folder of one version, or the one that holds them all, for the newest.
"""

import contextlib
import os
import pathlib
import shutil

from resnet_tf.errors import InputError

CARD = "model.json"  # in the folder of every version; see `card`
SAVED_MODEL = "saved_model.pb"


def locate(path):
    """The folder of a model's version.

    Args:
        path: of the folder, or of the one that holds versions.

    Returns:
        Path of the newest version where `path` holds some; else `path`, which has then the model itself, or none.
    """
    path = pathlib.Path(path)
    if is_version(path):
        return path
    found = [number for number in _numbers(path) if is_version(path / str(number))]
    return path / str(max(found)) if found else path


def is_version(path):
    """Whether a folder has a model in it; one of an earlier release is a SavedModel without a card."""
    return any((pathlib.Path(path) / name).is_file() for name in (CARD, SAVED_MODEL))


def _numbers(folder):
    """Versions that are there, whatever is in them."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name]


def choose(out, version=0):
    """The number of a new version; nothing is written.

    Args:
        out: folder of the versions, which need not exist.
        version: the number; 0 for that after the highest.

    Raises:
        InputError: `out` is no place for one, or has it already.
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
def writing(out, version):
    """Write a version aside; it has its name when all of it is there, or nothing is left of it.

    Args:
        out: folder of the versions, made if missing.
        version: number of the new one.

    Yields:
        Path of an empty folder to write to.

    Raises:
        InputError: somebody else has made that version meanwhile.
        OSError: it cannot be written.
    """
    out = pathlib.Path(out)
    made = not out.exists()
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
        if made and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
