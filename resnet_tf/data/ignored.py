"""What lies beside the images of a data set and is passed over, counted so that it can be said."""

from collections import Counter
from pathlib import PurePosixPath

_SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}  # what systems put into folders, by themselves
_SHOWN = 3  # links that are named, of each kind


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or a system's own, or in such a folder; these are not even counted.

    Args:
        name: relative, with forward slashes.
    """
    parts = name.rstrip("/").split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1].lower() in _SYSTEM


class Ignored:
    """Counts by kind; as a string, "41 .txt, 2 links (outside of the folder: train/a, train/b)"."""

    def __init__(self):
        """Begins with nothing."""
        self._counts: Counter[str] = Counter()
        self._links: dict[str, list[str]] = {}

    def add(self, kind: str, count: int = 1) -> None:
        """Counts some things of a kind."""
        self._counts[kind] += count

    def file(self, name: str) -> None:
        """Counts a file by its suffix, unless it is hidden."""
        if not is_hidden(name):
            self.add(PurePosixPath(name).suffix.lower() or "without suffix")

    def link(self, name: str, why: str) -> None:
        """Counts a link that is not followed, unless it is hidden; `why` in a word or two."""
        if not is_hidden(name):
            self._links.setdefault(why, []).append(name)

    def __str__(self) -> str:
        """In words, what is most frequent first; "" where nothing was ignored."""
        parts = [f"{count:,} {kind}" for kind, count in self._counts.most_common() if count]
        if self._links:
            count, kinds = sum(map(len, self._links.values())), []
            for why, names in sorted(self._links.items()):
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                kinds.append(f"{why}: {', '.join(sorted(names)[:_SHOWN])}{more}")
            parts.append(f"{count:,} link{'s' if count > 1 else ''} ({'; '.join(kinds)})")
        return ", ".join(parts)
