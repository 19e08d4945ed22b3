"""Count the values in the masks of a training split before training, to refuse wrong masks and warn of odd ones."""

import dataclasses
import logging
from concurrent import futures

import numpy as np

from resnet_tf.data import masks, processors
from resnet_tf.data.examples import Examples
from resnet_tf.data.splits import listed
from resnet_tf.errors import InputError

_LEAST, _MOST = 256, 1024  # smallest and largest number of masks to check; a mask takes about 10 ms on one core
_AT_ONCE = 64

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Census:
    """The counts of the values in some masks of a split.

    Attributes:
        names: names of the checked masks.
        counts: int64 [masks, 256], number of pixels of each value in each checked mask.
        total: number of masks in the split.
        table: the table of the masks; see `masks.table`.
    """

    names: list[str]
    counts: np.ndarray
    total: int
    table: np.ndarray

    @property
    def checked(self) -> str:
        """How many masks were checked, in words."""
        return f"{len(self.names)} of {self.total} training masks checked"

    @property
    def values(self) -> np.ndarray:
        """int64 [256], number of pixels of each value."""
        return self.counts.sum(axis=0)

    def pixels(self, classes: int) -> np.ndarray:
        """Return int64 [classes], number of pixels of each class."""
        return np.array([self.values[self.table == label].sum() for label in range(classes)])


def check(examples: Examples, classes: tuple[str, ...]) -> None:
    """Check masks of a training split: refuse values that must be wrong, and warn of values that may be wrong.

    It checks 256 masks, the same ones each time, or all masks of a smaller split. It goes on to 1,024 masks as long as
    some class has no pixel, and to all masks as long as no class has one.

    Args:
        examples: a split with masks.
        classes: names of the classes.

    Raises:
        InputError: a value belongs to no class; all values are 0 or 255 and 255 is void; no class has a pixel; or a
            mask is damaged.
    """
    census = take(examples, len(classes))
    values, pixels = census.values, census.pixels(len(classes))
    hint = _numbering_hint(census, len(classes))
    refused = masks.is_refused(census.table)
    wrong = refused & (values > 0)
    if wrong.any():
        value = int(np.flatnonzero(wrong).max())
        name = census.names[np.flatnonzero(census.counts[:, value])[0]]
        raise InputError(f"{name}: index {value} belongs to no class{hint} ({census.checked})")
    present = list(map(str, np.flatnonzero(values)))
    if present == ["0", "255"] and census.table[255] == masks.VOID:
        raise InputError(
            f"{census.names[0]}: masks hold 0 and 255 alone, and 255 is void: masks of two classes are read by "
            f"--mask_values=0,255 ({census.checked})"
        )
    if not pixels.any():
        raise InputError(
            f"{census.names[0]}: no mask has a pixel of a class, only the void values {listed(present)}"
            f"{hint} ({census.checked})"
        )
    void = census.table == masks.VOID
    empty = np.flatnonzero(census.counts[:, ~void].sum(axis=1) == 0)
    if len(empty):
        names = listed([census.names[index] for index in empty], 3)
        _log.warning("warning: all pixels are void in %d masks: %s (%s)", len(empty), names, census.checked)
    other = [value for value in present if void[int(value)]]
    if other and not refused.any():  # with --mask_values, all other values are void
        share = 100 * values[void].sum() / values.sum()
        lacking = listed(other), census.checked
        _log.warning("warning: %.2g%% of pixels are void: --mask_values lacks %s (%s)", share, *lacking)
    missing = [name for name, count in zip(classes, pixels, strict=True) if not count]
    if missing:
        _log.warning("warning: no pixel is of class %s%s (%s)", listed(missing), hint, census.checked)
    else:
        _log.info("every class has pixels (%s)", census.checked)


def take(examples: Examples, classes: int) -> Census:
    """Count the values of some masks of a split; see `check` for which."""
    storage, table = examples.masks.storage, examples.masks.table
    # The seed is constant, so that the result does not depend on the run.
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
            census = Census(names, np.array(counts), len(order), table)
            pixels = census.pixels(classes)
            if len(names) >= _LEAST and (pixels.all() or (len(names) >= _MOST and pixels.any())):
                break
    return census


def _numbering_hint(census: Census, classes: int) -> str:
    """Return a hint for masks whose class indices begin at another number than expected; "" for other masks."""
    first, values = int(np.flatnonzero(census.table == 0)[0]), np.append(census.values, 0)
    last = first + classes - 1
    if (census.table[first : last + 1] != np.arange(classes)).any():
        return ""  # the classes are not in order
    if not values[first] and values[last + 1]:
        begin, present, lacking = first + 1, last + 1, first
    elif first and not values[last] and values[first - 1]:
        begin, present, lacking = first - 1, first - 1, last
    else:
        return ""
    wanted = f"--mask_values of {begin} to {begin + classes - 1}"
    return f"; {present} occurs and {lacking} does not: masks that are numbered from {begin} need {wanted}"
