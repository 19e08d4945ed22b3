"""Count the files of a data set that are not used, to report them."""

from collections import Counter
from pathlib import PurePosixPath

_SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}  # files that operating systems create in folders
_SHOWN = 3  # links of each kind that are named


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden or a system's own, or in such a folder; these are not counted.

    Args:
        name: relative path with forward slashes.
    """
    parts = name.rstrip("/").split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1].lower() in _SYSTEM


class Ignored:
    """Counts of unused files by kind; str() gives "41 .txt, 2 links (outside of the folder: train/a, train/b)"."""

    def __init__(self):
        """Start with no counts."""
        self._counts: Counter[str] = Counter()
        self._links: dict[str, list[str]] = {}

    def clear(self) -> None:
        """Forget all counts."""
        self._counts.clear()
        self._links.clear()

    def add(self, kind: str, count: int = 1) -> None:
        """Add to the count of a kind."""
        self._counts[kind] += count

    def file(self, name: str) -> None:
        """Count a file by its suffix, unless it is hidden."""
        if not is_hidden(name):
            self.add(PurePosixPath(name).suffix.lower() or "without suffix")

    def link(self, name: str, reason: str) -> None:
        """Count a link that is not followed, unless it is hidden; `reason` has a few words."""
        if not is_hidden(name):
            self._links.setdefault(reason, []).append(name)

    def __str__(self) -> str:
        """Return the counts in words, the most frequent kind first; "" if nothing was ignored."""
        parts = [f"{count:,} {kind}" for kind, count in self._counts.most_common() if count]
        if self._links:
            count, kinds = sum(map(len, self._links.values())), []
            for reason, names in sorted(self._links.items()):
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                kinds.append(f"{reason}: {', '.join(sorted(names)[:_SHOWN])}{more}")
            parts.append(f"{count:,} link{'s' if count > 1 else ''} ({'; '.join(kinds)})")
        return ", ".join(parts)
