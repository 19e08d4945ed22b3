"""JSON as its standard has it (RFC 8259), which knows neither NaN nor infinity."""

import json
import math


def dumps(content, indent=None):
    """Write content as JSON that every reader takes.

    Args:
        content: of dicts, lists, tuples, strings, numbers, bools and None.
        indent: spaces of each level; None for one line.

    Returns:
        The text. A number that is none, NaN or an infinity, is null in it.
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
