"""Data sets for object detection: PASCAL VOC and COCO, as folders or archives, and a synthetic set."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from resnet_tf.data import boxes, coco, holding_out, images, voc
from resnet_tf.data.boxes import Objects
from resnet_tf.data.examples import Examples, Files, Memory
from resnet_tf.data.folder import store
from resnet_tf.data.ignored import Ignored
from resnet_tf.data.splits import Indexed, Source, arranged, existing, ordered, tagged
from resnet_tf.errors import InputError

DATASETS = ("voc", "coco", "synthetic")


def index(
    dataset: str,
    data_dir: str = "",
    classes: tuple[str, ...] = (),
    exif: str = "apply",
    *,
    validation_share: float = 0.0,
    test_share: float = 0.0,
    split_seed: int = 0,
    val_is: str = "test",
) -> Source:
    """Find the images of a data set and their objects; images stay encoded where they are.

    Boxes are clipped to their image. Boxes without area in the image, or with corners in the wrong order, are skipped,
    with one warning that names the images. Images without boxes are kept, as images without objects.

    Args:
        dataset: one of DATASETS:

            - "voc": images with annotations of PASCAL VOC (.xml), see `voc.annotated`. Pixels count from 1 and the last
              one belongs to the box. Evaluation ignores difficult objects. The classes are sorted by name;
            - "coco": images with annotations of COCO (.json), see `coco.find`. Evaluation ignores crowds. The classes
              are in the order of their ids;
            - "synthetic": rectangles of two classes in noise, for tests.
        data_dir: a folder or an archive, in which the data set may be at any depth.
        classes: names of the classes in the order of their labels; empty for the default order.
        exif: "apply" turns images upright as their orientation tags say, "ignore" uses them as they are stored. Boxes
            refer to the upright images, which labelling programs show.
        validation_share: part of the training images to hold out as "validation", if the data have no such split; see
            `holding_out.by_share`.
        test_share: the same for "test".
        split_seed: number that chooses these images.
        val_is: "test" makes validation images of the data the split "test" if the data have no other one.

    Returns:
        The data set with the split "train", and "test", "validation" or both: `Examples` with objects in the order of
        the lists or files. Images of an archive are held in memory.

    Raises:
        InputError: no data set of that layout is there; an image named by a list or file is missing; an annotation
            cannot be read or is incomplete; a class is not in `classes`; a split has no boxes; the archive is damaged;
            or there are training images alone, of which no share is held out.
    """
    if dataset == "synthetic":
        return _synthetic()
    indexer = {"voc": _index_voc, "coco": _index_coco}[dataset]
    ignored, how = Ignored(), []
    try:
        root = existing(data_dir, dataset)
        names, splits = indexer(root, classes, exif, ignored, how)
        splits, said = holding_out.by_share(splits, validation_share, test_share, split_seed, names, of_each="")
        splits = splits if said else ordered(splits, val_is)
        if len(splits) == 1:
            raise InputError(
                f"{root} has images for training alone: hold some out with --validation_share, or put some into a "
                "split val or test"
            )
        voc.check_boxes(root, {split: (~examples.objects.ignored).sum() for split, examples in splits.items()})
    except InputError as error:
        if str(error).startswith("--"):
            raise
        raise InputError(f"--data_dir: {error}") from error
    source = Source(dataset, tuple(names), splits, str(ignored), "; ".join([*how, *said]), was_split=bool(said))
    return tagged(source, exif)


def _check_classes(labels: Iterable[str], classes: tuple[str, ...], name: str) -> None:
    unknown = [label for label in labels if label not in classes] if classes else []
    if unknown:
        raise InputError(f"{name}: class {unknown[0]} is not in --classes")


def _examples(
    what: str,
    storage: Files | Memory,
    sides: list[list[float]],
    objects: list[list[boxes.Annotation]],
    inclusive: bool = False,
) -> Examples:
    """Make examples of images and their objects.

    Args:
        what: name of the data in a warning.
        storage: the images.
        sides: height and width of each image.
        objects: the annotations of each image; labels are indices of classes.
        inclusive: meaning of the corners; see `boxes.clipped`.
    """
    count = len(storage)
    sides = np.array(sides, np.int64).reshape(-1, 2)
    image = np.repeat(np.arange(count), np.array([len(of_image) for of_image in objects], np.int64))
    annotations = [annotation for of_image in objects for annotation in of_image]
    labels = np.array([annotation.label for annotation in annotations], np.int32)
    ignored = np.array([annotation.ignored for annotation in annotations], bool)
    corners = np.array([annotation.corners for annotation in annotations], np.float32).reshape(-1, 4)
    placed, good = boxes.clipped(corners, sides[image], inclusive)
    boxes.warn_skipped(what, [storage.names[number] for number in image[~good]])
    starts = np.searchsorted(image[good], np.arange(count + 1))
    objects = Objects(starts, placed[good], labels[good], ignored[good])
    numbers = np.arange(count, dtype=np.int64)
    return Examples(storage, numbers, np.zeros(count, np.int32), objects=objects, sides=sides)


def _index_voc(root: Path, classes: tuple[str, ...], exif: str, ignored: Ignored, _how: list[str]) -> Indexed:
    _, entries = voc.annotated(str(root), exif, ignored)
    for one in (one for of_split in entries.values() for one in of_split):
        _check_classes([each.label for each in one.objects], classes, f"{root}: {one.annotation}")
    every = {each.label for of_split in entries.values() for one in of_split for each in one.objects}
    names, _ = arranged(classes, sorted(every), {})
    position = {name: index for index, name in enumerate(names)}

    def examples(of_split: list[voc.Annotated]) -> Examples:
        objects = [[each._replace(label=position[each.label]) for each in one.objects] for one in of_split]
        storage = store(root, [one.image for one in of_split])
        return _examples(str(root), storage, [one.sides for one in of_split], objects, inclusive=True)

    return names, {split: examples(of_split) for split, of_split in entries.items()}


def _index_coco(root: Path, classes: tuple[str, ...], _exif: str, ignored: Ignored, how: list[str]) -> Indexed:
    instances, images = coco.find(root, ignored, how)
    for one in instances.values():
        _check_classes(one.categories.values(), classes, one.name)
    categories = instances["train"].categories
    names, _ = arranged(classes, list(categories.values()), {})
    position = {category: names.index(name) for category, name in categories.items()}
    splits = {}
    for split, one in instances.items():
        members, sides, objects = one.annotated(images, position)
        splits[split] = _examples(str(root), store(root, members), sides, objects)
    return names, splits


# --- A synthetic data set --------------------------------------------------------------------------------------------

_COUNTS = {"train": 64, "test": 64}
_SIZE = (48, 60)  # height and width: not square
_LEVELS = (110, 200)  # brightness of each class, added to noise of 0 to 39


def _synthetic() -> Source:
    """Make images of rectangles in noise, whose brightness tells the class; every 16th image has no rectangle."""
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in _COUNTS.items():
        data, objects = [], []
        for number in range(count):
            pixels = rng.integers(0, 40, (*_SIZE, 3), dtype=np.uint8)
            objects.append([])
            for column in range(0, 60, 20) if number % 16 else ():
                label = int(rng.integers(-1, 2))
                if label < 0:  # no rectangle in this column
                    continue
                height, width = rng.integers(10, 20, 2)
                top, left = rng.integers(0, _SIZE[0] - height), column + rng.integers(0, 20 - width)
                pixels[top : top + height, left : left + width] += np.uint8(_LEVELS[label])
                objects[-1].append(boxes.Annotation(label, [top, left, top + height, left + width], False))
            data.append(images.encode_png(pixels))
        storage = Memory("synthetic", [f"{name}/{number}.png" for number in range(count)], data)
        splits[name] = _examples("synthetic", storage, [list(_SIZE)] * count, objects)
    return Source("synthetic", ("grey", "bright"), splits)
