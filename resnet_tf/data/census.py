"""What the masks of a training split hold, counted before training: values that make no sense are refused or told."""

import dataclasses
import logging
from concurrent import futures

import numpy as np

from resnet_tf.data import masks, processors
from resnet_tf.data.examples import Examples
from resnet_tf.data.splits import listed
from resnet_tf.errors import InputError

_LEAST, _MOST = 256, 1024  # masks that are looked at, where there are so many: some 10 ms each on a core
_AT_ONCE = 64

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Census:
    """What was found.

    Attributes:
        names: of the masks that were looked at.
        counts: int64 [masks, 256], pixels of each value in each.
        total: masks that there are.
        table: of the masks; see `masks.table`.
    """

    names: list[str]
    counts: np.ndarray
    total: int
    table: np.ndarray

    @property
    def looked(self) -> str:
        """How many masks, in words."""
        return f"{len(self.names)} of {self.total} training masks looked at"

    @property
    def values(self) -> np.ndarray:
        """int64 [256], pixels of each value."""
        return self.counts.sum(axis=0)

    def pixels(self, classes: int) -> np.ndarray:
        """Returns int64 [classes], pixels of each."""
        return np.array([self.values[self.table == label].sum() for label in range(classes)])


def check(examples: Examples, classes: tuple[str, ...]) -> None:
    """Looks at masks of a training split, refuses what can only be wrong, and warns of what may be meant.

    At least 256 masks are looked at, drawn alike each time, or all of a smaller split; up to 1,024 while a class has no
    pixel; and all while none has.

    Args:
        examples: with masks.
        classes: their names.

    Raises:
        InputError: a value of no class; masks of 0 and 255 alone, where 255 is void; no pixel of any class; a damaged
            mask.
    """
    found = take(examples, len(classes))
    values, pixels = found.values, found.pixels(len(classes))
    refused = masks.is_refused(found.table)
    wrong = refused & (values > 0)
    if wrong.any():
        value = int(np.flatnonzero(wrong).max())
        name = found.names[np.flatnonzero(found.counts[:, value])[0]]
        raise InputError(f"{name}: index {value} is of no class{_numbering(found, len(classes))} ({found.looked})")
    present = list(map(str, np.flatnonzero(values)))
    if present == ["0", "255"] and found.table[255] == masks.VOID:
        raise InputError(
            f"{found.names[0]}: masks hold 0 and 255 alone, and 255 is void: masks of two classes are read by "
            f"--mask_values=0,255 ({found.looked})"
        )
    if not pixels.any():
        raise InputError(
            f"{found.names[0]}: no mask has a pixel of a class, only the void values {listed(present)}"
            f"{_numbering(found, len(classes))} ({found.looked})"
        )
    void = found.table == masks.VOID
    empty = np.flatnonzero(found.counts[:, ~void].sum(axis=1) == 0)
    if len(empty):
        names = listed([found.names[place] for place in empty], 3)
        _log.warning("warning: %d masks are void all over: %s (%s)", len(empty), names, found.looked)
    other = [value for value in present if void[int(value)]]
    if other and not refused.any():  # of --mask_values, by which all others are void
        share = 100 * values[void].sum() / values.sum()
        told = share, listed(other), found.looked
        _log.warning("warning: %.2g%% of pixels are void: --mask_values lacks %s (%s)", *told)
    missing = [name for name, count in zip(classes, pixels, strict=True) if not count]
    if missing:
        hint = _numbering(found, len(classes))
        _log.warning("warning: no pixel is of class %s%s (%s)", listed(missing), hint, found.looked)
    else:
        _log.info("every class has pixels (%s)", found.looked)


def take(examples: Examples, classes: int) -> Census:
    """Counts the values of some masks of a split; see `check` for which."""
    storage, table = examples.masks.storage, examples.masks.table
    # Not the run's seed: what is told of the data does not depend on the run.
    order = np.random.default_rng(0).permutation(np.unique(examples.image)).tolist()
    names, counts = [], []

    def count(image):
        name = storage.name(image)
        return name, np.bincount(masks.decode(storage.read(image), name).ravel(), minlength=256)

    with futures.ThreadPoolExecutor(max_workers=processors.count()) as pool:
        for start in range(0, len(order), _AT_ONCE):
            for name, of_mask in pool.map(count, order[start : start + _AT_ONCE]):
                names.append(name)
                counts.append(of_mask)
            found = Census(names, np.array(counts), len(order), table)
            pixels = found.pixels(classes)
            if len(names) >= _LEAST and (pixels.all() or (len(names) >= _MOST and pixels.any())):
                break
    return found


def _numbering(found: Census, classes: int) -> str:
    """What masks look like that begin to count at another number than they are read by; "" where they do not."""
    first, values = int(np.flatnonzero(found.table == 0)[0]), np.append(found.values, 0)
    last = first + classes - 1
    if (found.table[first : last + 1] != np.arange(classes)).any():
        return ""  # in no order
    if not values[first] and values[last + 1]:
        begin, there, lacking = first + 1, last + 1, first
    elif first and not values[last] and values[first - 1]:
        begin, there, lacking = first - 1, first - 1, last
    else:
        return ""
    wanted = f"--mask_values of {begin} to {begin + classes - 1}"
    return f"; {there} occurs and {lacking} does not: masks that are numbered from {begin} need {wanted}"
