"""Atomic writes of files, and JSON as the standard defines it (RFC 8259), without NaN and infinity."""

import json
import math
import os
import pathlib


def replace_atomically(path, write):
    """Write a file so that `path` holds either the complete new content or its previous content.

    Args:
        path: path of the file.
        write: function(binary file) that writes the content.

    Raises:
        OSError: the disk is full or not writable; the error names `path`.
    """
    partial = partial_path(path)
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def partial_path(path):
    """Return the temporary path at which a file is written before it is renamed to `path`."""
    path = pathlib.Path(path)
    return path.with_name(f".{path.name}.partial")


def write_json(path, content, indent=2):
    """Write a JSON file atomically; see `to_json` for `content` and `indent`."""
    replace_atomically(path, lambda file: file.write((to_json(content, indent) + "\n").encode()))


def to_json(content, indent=None):
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
