"""Files that are whole or absent, and JSON as its standard has it (RFC 8259), which knows neither NaN nor infinity."""

import json
import math
import os
import pathlib


def replace_atomically(path, write):
    """Write a file so that `path` holds all of the new content, or what it held before.

    Args:
        path: of the file.
        write: function(binary file) that writes the content.

    Raises:
        OSError: disk full or not writable; names `path`.
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
    """Return where a file is written before it gets its name."""
    path = pathlib.Path(path)
    return path.with_name(f".{path.name}.partial")


def write_json(path, content, indent=2):
    """Write a JSON file atomically; `content` and `indent` as for `to_json`."""
    replace_atomically(path, lambda file: file.write((to_json(content, indent) + "\n").encode()))


def to_json(content, indent=None):
    """Write content as JSON that every reader takes.

    Args:
        content: of dicts, lists, tuples, strings, numbers, bools and None.
        indent: spaces of each level; None for one line.

    Returns:
        The text. NaN and infinities are null in it.
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content):
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
