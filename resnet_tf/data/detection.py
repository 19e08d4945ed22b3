"""Data sets for object detection: PASCAL VOC and COCO, as folders or tar archives, and a synthetic set."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from resnet_tf.data import archives, boxes, formats, images, voc
from resnet_tf.data.boxes import Objects
from resnet_tf.data.examples import Examples, Files, Memory
from resnet_tf.data.folder import store
from resnet_tf.data.splits import SPLIT_NAMES, Indexed, Source, arranged, existing, read_archive, tagged, with_test
from resnet_tf.errors import InputError

DATASETS = ("voc", "coco", "synthetic")

_INSTANCES = re.compile(
    rf"(?P<above>(?:.*/)?)annotations/instances_(?P<stem>(?P<split>{'|'.join(SPLIT_NAMES)})\d*)\.json"
)


def index(dataset: str, data_dir: str = "", classes: tuple[str, ...] = (), exif: str = "apply") -> Source:
    """Find the images of a data set and their objects; images stay encoded where they are.

    Boxes are clipped to their image. Boxes without area in the image, or with corners in the wrong order, are skipped,
    with one warning that names the images. Images without boxes are kept, as images without objects.

    Args:
        dataset: one of DATASETS:

            - "voc": PASCAL VOC devkits, see `voc.annotated`. Pixels count from 1 and the last one belongs to the box.
              Evaluation ignores difficult objects. The classes are sorted by name;
            - "coco": [anything/]annotations/instances_STEM.json, where STEM is train, val or test, optionally with a
              year. The images are in the folder STEM or images/STEM beside annotations. Evaluation ignores crowds. The
              classes are in the order of their ids;
            - "synthetic": rectangles of two classes in noise, for tests.
        data_dir: a folder or a tar archive, in which the data set may be at any depth.
        classes: names of the classes in the order of their labels; empty for the default order.
        exif: "apply" turns images upright as their orientation tags say, "ignore" uses them as they are stored. Boxes
            refer to the upright images, which labelling programs show.

    Returns:
        The data set with the splits "train", "test" and, if there is a third one, "validation": `Examples` with objects
        in the order of the lists or files. Images of an archive are held in memory.

    Raises:
        InputError: no data set of that layout is there; an image named by a list or file is missing; an annotation
            cannot be read or is incomplete; a class is not in `classes`; a split has no boxes; the archive is damaged.
    """
    if dataset == "synthetic":
        return _synthetic()
    try:
        names, splits = {"voc": _index_voc, "coco": _index_coco}[dataset](data_dir, classes, exif)
    except InputError as error:
        if str(error).startswith("--"):
            raise
        raise InputError(f"--data_dir: {error}") from error
    return tagged(Source(dataset, tuple(names), splits), exif)


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


def _checked(root: Path, splits: dict[str, Examples]) -> dict[str, Examples]:
    voc.check_boxes(root, {split: (~examples.objects.ignored).sum() for split, examples in splits.items()})
    return splits


def _index_voc(data_dir: str, classes: tuple[str, ...], exif: str) -> Indexed:
    root, entries = voc.annotated(data_dir, exif)
    for one in (one for of_split in entries.values() for one in of_split):
        _check_classes([each.label for each in one.objects], classes, f"{root}: {one.annotation}")
    every = {each.label for of_split in entries.values() for one in of_split for each in one.objects}
    names, _ = arranged(classes, sorted(every), {})
    position = {name: index for index, name in enumerate(names)}

    def examples(of_split: list[voc.Annotated]) -> Examples:
        objects = [[each._replace(label=position[each.label]) for each in one.objects] for one in of_split]
        storage = store(root, [one.image for one in of_split])
        return _examples(str(root), storage, [one.sides for one in of_split], objects, inclusive=True)

    return names, _checked(root, {split: examples(of_split) for split, of_split in entries.items()})


# --- COCO ------------------------------------------------------------------------------------------------------------


def _index_coco(data_dir: str, classes: tuple[str, ...], _exif: str) -> Indexed:
    root = existing(data_dir, "coco")
    images: dict[str, tuple[str, bytes | int]] = {}
    files: dict[str, tuple[str, bytes]] = {}
    for name, content in _files(root):
        match = _INSTANCES.fullmatch(name)
        if not match:
            images[name] = name, content
            continue
        split = SPLIT_NAMES[match["split"]]
        if split in files:
            raise InputError(f"{root}: both {files[split][0]} and {name}")
        files[split] = name, content
    splits = with_test(files)
    if splits is None:
        raise InputError(
            f"{root} needs annotations/instances_train*.json, and instances_val*.json or instances_test*.json"
        )
    instances = {split: _Instances(root, name, content) for split, (name, content) in splits.items()}
    categories = instances["train"].categories
    for one in instances.values():
        _check_classes(one.categories.values(), classes, one.name)
        if one.categories != categories:
            raise InputError(f"{one.name}: other categories than in {instances['train'].name}")
    names, _ = arranged(classes, list(categories.values()), {})
    position = {category: names.index(name) for category, name in categories.items()}
    return names, _checked(root, {split: one.examples(images, position) for split, one in instances.items()})


def _files(root: Path) -> Iterator[tuple[str, bytes | int]]:
    """Yield names of images with their sizes, or contents from an archive; and files of instances with contents."""

    def is_image(name: str) -> bool:
        return formats.is_image(name) and not any(part.startswith(".") for part in name.split("/"))

    def is_instances(name: str) -> bool:
        return _INSTANCES.fullmatch(name) is not None

    if root.is_dir():
        yield from archives.list_files(root, is_image)
        yield from archives.read_members(root, is_instances)
        return
    yield from read_archive(root, lambda name: is_image(name) or is_instances(name))


class _Instances:
    """The content of one file of instances.

    Attributes:
        name: name of the file.
        categories: {id: name} in the order of the ids.
    """

    def __init__(self, root: Path, name: str, data: bytes):
        self.name = f"{root}: {name}"
        self._root, self._match = root, _INSTANCES.fullmatch(name)
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.name}: not JSON ({' '.join(str(error).split())})") from error
        parts = [self._get(content, key, list) for key in ("images", "annotations", "categories")]
        self._images, self._annotations, categories = parts
        pairs = [
            (self._get(one, "id", int, "categories"), self._get(one, "name", str, "categories")) for one in categories
        ]
        self.categories = dict(sorted(pairs))
        if not pairs or len(self.categories) < len(pairs) or len(set(self.categories.values())) < len(pairs):
            raise InputError(f"{self.name}: categories: none, or duplicate ids or names")

    def _get(self, item, key: str, kind: type, where: str = ""):
        value = item.get(key) if isinstance(item, dict) else None
        if not isinstance(value, kind):
            raise InputError(f"{self.name}: {where + ': ' if where else ''}no {key} of type {kind.__name__}")
        return value

    def _numbers(self, values: list, where: str) -> list[float]:
        if not all(isinstance(value, int | float) and abs(value) < 1e6 for value in values):
            raise InputError(f"{self.name}: {where} of {values}")
        return [float(value) for value in values]

    def examples(self, images: dict[str, tuple[str, bytes | int]], position: dict[int, int]) -> Examples:
        """Return the images of the file with their objects.

        Args:
            images: {name: (name, size or content)} of all images.
            position: {id of a category: label}.
        """
        above, stem = self._match["above"], self._match["stem"]
        members, sides, objects = [], [], {}
        for one in self._images:
            file = self._get(one, "file_name", str, "images")
            names = [name for name in (f"{above}{stem}/{file}", f"{above}images/{stem}/{file}") if name in images]
            if not names:
                raise InputError(f"{self.name} lists {file}, which is not in {above}{stem} or {above}images/{stem}")
            members.append(images[names[0]])
            objects[self._get(one, "id", int, "images")] = []
            size = [self._get(one, side, int, "images") for side in ("height", "width")]
            if min(size) < 1:
                raise InputError(f"{self.name}: images: {file} of {size[0]} x {size[1]} pixels")
            sides.append(self._numbers(size, "images: size"))
        if len(objects) < len(members) or len({name for name, _ in members}) < len(members):
            raise InputError(f"{self.name}: images: duplicate ids or file names")
        for one in self._annotations:
            image = self._get(one, "image_id", int, "annotations")
            category = self._get(one, "category_id", int, "annotations")
            if image not in objects or category not in position:
                raise InputError(f"{self.name}: annotations: no image {image}, or no category {category}")
            left, top, width, height = self._numbers(self._box(one), "annotations: bbox")
            corners = [top, left, top + height, left + width]
            objects[image].append(boxes.Annotation(position[category], corners, bool(one.get("iscrowd", 0))))
        return _examples(str(self._root), store(self._root, members), sides, list(objects.values()))

    def _box(self, annotation: dict) -> list:
        box = self._get(annotation, "bbox", list, "annotations")
        if len(box) != 4:
            raise InputError(f"{self.name}: annotations: bbox of {len(box)} numbers, not 4")
        return box


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
