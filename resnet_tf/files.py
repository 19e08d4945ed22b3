"""Atomic writes of files, and JSON as the standard defines it (RFC 8259), without NaN and infinity."""

import contextlib
import errno
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator


def replace_atomically(path: str | pathlib.Path, write: Callable) -> None:
    """Write a file so that `path` holds either the complete new content or its previous content.

    Args:
        path: path of the file.
        write: function(binary file) that writes the content.

    Raises:
        OSError: the disk is full or not writable; the error names `path`.
    """
    try:
        with writing(path) as partial, open(partial, "wb") as file:
            write(file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def writing(path: str | pathlib.Path, writer: str = "", suffix: str = "") -> Iterator[pathlib.Path]:
    """Yield a temporary path to write to. It is renamed to `path` when the block ends, or removed if it fails.

    Args:
        path: path of the file.
        writer: a name that tells processes apart which may write the same file at the same time.
        suffix: end of the temporary path, for libraries that choose their format by it.
    """
    partial = partial_path(path, writer, suffix)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: str | pathlib.Path, writer: str = "", suffix: str = "") -> pathlib.Path:
    """Return the temporary path at which a file is written before it is renamed to `path`; see `writing`."""
    path = pathlib.Path(path)
    return path.with_name(f".{path.name}{writer and '.'}{writer}.partial{suffix}")


def append(path: str | pathlib.Path, content: bytes) -> None:
    """Append bytes to a file, all of them or none.

    Raises:
        OSError: the disk is full or not writable; the file is as it was, and the error names `path`.
    """
    try:
        with open(path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: str | pathlib.Path, content, indent: int = 2) -> None:
    """Write a JSON file atomically; see `to_json` for `content` and `indent`."""
    replace_atomically(path, lambda file: file.write((to_json(content, indent) + "\n").encode()))


def to_json(content, indent: int | None = None) -> str:
    """Serialize content as standard JSON.

    Args:
        content: nested dicts, lists, tuples, strings, numbers, bools and None.
        indent: spaces per level; None for a single line.

    Returns:
        The JSON text, with null in the place of NaN and infinities.
    """
    return json.dumps(_replace_nonfinite(content), indent=indent, allow_nan=False)


def _replace_nonfinite(content):
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {name: _replace_nonfinite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_replace_nonfinite(value) for value in content]
    return content
