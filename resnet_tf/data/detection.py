"""Images with boxes of objects: PASCAL VOC and COCO, as folders or tar archives, and a synthetic set."""

import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from resnet_tf.data import archives, boxes, formats, voc
from resnet_tf.data.boxes import Objects
from resnet_tf.data.examples import Examples, Files, Memory
from resnet_tf.data.folder import SPLIT_NAMES, store
from resnet_tf.data.splits import Indexed, Source, arranged, check_encoded, existing, tagged, with_test
from resnet_tf.errors import InputError

DATASETS = ("voc", "coco", "synthetic")

_INSTANCES = re.compile(
    rf"(?P<above>(?:.*/)?)annotations/instances_(?P<stem>(?P<split>{'|'.join(SPLIT_NAMES)})\d*)\.json"
)


def index(dataset: str, data_dir: str = "", classes: tuple[str, ...] = (), exif: str = "apply") -> Source:
    """Finds images and their objects; images stay encoded where they are.

    Boxes are cut off at the edges of their image; those without area in it, or with corners in no order, are skipped,
    with one warning that names the images. An image without boxes stays, as one where nothing is to be found.

    Args:
        dataset: one of DATASETS:

            - "voc": PASCAL VOC devkits, see `voc.annotated`; pixels count from 1 and the last one belongs to the box.
              Difficult objects are ignored. Classes are those found, in the alphabet's order;
            - "coco": [anything/]annotations/instances_STEM.json, where STEM is train, val or test with a year or
              without, and beside annotations the folder STEM, or images/STEM, of the images. Crowds are ignored.
              Classes are those of the files, in the order of their ids;
            - "synthetic": rectangles of two classes in noise, for trials.
        data_dir: a folder or a tar archive; anything may be above the data set.
        classes: their names in the order that labels shall have.
        exif: "apply" turns images upright as their orientation tags say, "ignore" takes them as they are stored. Boxes
            are those of the upright images: programs for labelling show these.

    Returns:
        The data set, its splits "train", "test" and, where there is one besides, "validation": `Examples` with objects
        in the order of the lists or files. Of a folder no image is read; of an archive they are held in memory.

    Raises:
        InputError: nothing of that layout; an image that a list or file names is missing; an annotation that cannot
            be read or lacks something; a class that is not in `classes`; a split without boxes; a damaged archive.
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


def _check_classes(found: Iterable[str], classes: tuple[str, ...], name: str) -> None:
    unknown = [label for label in found if label not in classes] if classes else []
    if unknown:
        raise InputError(f"{name}: class {unknown[0]} is not in --classes")


def _examples(
    what: str,
    storage: Files | Memory,
    sides: list[list[float]],
    found: list[list[boxes.Annotation]],
    inclusive: bool = False,
) -> Examples:
    """Images and their objects.

    Args:
        what: to call the data in a warning.
        storage: of the images.
        sides: height and width of each.
        found: the objects of each, with the numbers of their classes.
        inclusive: what the corners mean; see `boxes.clipped`.
    """
    count = len(storage)
    sides = np.array(sides, np.int64).reshape(-1, 2)
    image = np.repeat(np.arange(count), np.array([len(of_image) for of_image in found], np.int64))
    annotations = [annotation for of_image in found for annotation in of_image]
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
    root, found = voc.annotated(data_dir, exif)
    for one in (one for of_split in found.values() for one in of_split):
        _check_classes([each.label for each in one.objects], classes, f"{root}: {one.annotation}")
    every = {each.label for of_split in found.values() for one in of_split for each in one.objects}
    names, _ = arranged(classes, sorted(every), {})
    position = {name: number for number, name in enumerate(names)}

    def examples(of_split: list[voc.Annotated]) -> Examples:
        objects = [[each._replace(label=position[each.label]) for each in one.objects] for one in of_split]
        storage = store(root, [one.image for one in of_split])
        return _examples(str(root), storage, [one.sides for one in of_split], objects, inclusive=True)

    return names, _checked(root, {split: examples(of_split) for split, of_split in found.items()})


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
    chosen = with_test(files)
    if chosen is None:
        raise InputError(
            f"{root} needs annotations/instances_train*.json, and instances_val*.json or instances_test*.json"
        )
    read = {split: _Instances(root, name, content) for split, (name, content) in chosen.items()}
    categories = read["train"].categories
    for one in read.values():
        _check_classes(one.categories.values(), classes, one.name)
        if one.categories != categories:
            raise InputError(f"{one.name}: other categories than in {read['train'].name}")
    names, _ = arranged(classes, list(categories.values()), {})
    position = {category: names.index(name) for category, name in categories.items()}
    return names, _checked(root, {split: one.examples(images, position) for split, one in read.items()})


def _files(root: Path) -> Iterator[tuple[str, bytes | int]]:
    """Images, with their sizes or, from an archive, contents; and files of instances with theirs."""

    def picture(name: str) -> bool:
        return formats.is_image(name) and not any(part.startswith(".") for part in name.split("/"))

    def instances(name: str) -> bool:
        return _INSTANCES.fullmatch(name) is not None

    if root.is_dir():
        yield from archives.list_files(root, picture)
        yield from archives.read_members(root, instances)
        return
    size = 0
    for name, data in archives.read_members(root, lambda name: picture(name) or instances(name)):
        size += len(data)
        check_encoded(size, root)
        yield name, data


class _Instances:
    """What one file of instances says.

    Attributes:
        name: of the file.
        categories: their names by their ids, in the order of these.
    """

    def __init__(self, root: Path, name: str, data: bytes):
        self.name = f"{root}: {name}"
        self._root, self._match = root, _INSTANCES.fullmatch(name)
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.name}: no JSON ({' '.join(str(error).split())})") from error
        parts = [self._get(content, key, list) for key in ("images", "annotations", "categories")]
        self._images, self._annotations, categories = parts
        pairs = [
            (self._get(one, "id", int, "categories"), self._get(one, "name", str, "categories")) for one in categories
        ]
        self.categories = dict(sorted(pairs))
        if not pairs or len(self.categories) < len(pairs) or len(set(self.categories.values())) < len(pairs):
            raise InputError(f"{self.name}: categories: none, or some of one id or name")

    def _get(self, item, key: str, kind: type, where: str = ""):
        value = item.get(key) if isinstance(item, dict) else None
        if not isinstance(value, kind):
            raise InputError(f"{self.name}: {where + ': ' if where else ''}no {key}, or none that is {kind.__name__}")
        return value

    def _numbers(self, values: list, where: str) -> list[float]:
        if not all(isinstance(value, int | float) and abs(value) < 1e6 for value in values):
            raise InputError(f"{self.name}: {where} of {values}")
        return [float(value) for value in values]

    def examples(self, images: dict[str, tuple[str, bytes | int]], position: dict[int, int]) -> Examples:
        """The images of the file and their objects.

        Args:
            images: name and size, or content, of those that there are, by their names.
            position: label of each category.
        """
        above, stem = self._match["above"], self._match["stem"]
        members, sides, found = [], [], {}
        for one in self._images:
            file = self._get(one, "file_name", str, "images")
            places = [place for place in (f"{above}{stem}/{file}", f"{above}images/{stem}/{file}") if place in images]
            if not places:
                raise InputError(
                    f"{self.name} lists {file}, of which there is no image in {above}{stem} or {above}images/{stem}"
                )
            members.append(images[places[0]])
            found[self._get(one, "id", int, "images")] = []
            size = [self._get(one, side, int, "images") for side in ("height", "width")]
            if min(size) < 1:
                raise InputError(f"{self.name}: images: {file} of {size[0]} x {size[1]} pixels")
            sides.append(self._numbers(size, "images: size"))
        if len(found) < len(members) or len({name for name, _ in members}) < len(members):
            raise InputError(f"{self.name}: images: some twice")
        for one in self._annotations:
            image = self._get(one, "image_id", int, "annotations")
            category = self._get(one, "category_id", int, "annotations")
            if image not in found or category not in position:
                raise InputError(f"{self.name}: annotations: no image {image}, or no category {category}")
            left, top, width, height = self._numbers(self._box(one), "annotations: bbox")
            corners = [top, left, top + height, left + width]
            found[image].append(boxes.Annotation(position[category], corners, bool(one.get("iscrowd", 0))))
        return _examples(str(self._root), store(self._root, members), sides, list(found.values()))

    def _box(self, annotation: dict) -> list:
        box = self._get(annotation, "bbox", list, "annotations")
        if len(box) != 4:
            raise InputError(f"{self.name}: annotations: bbox of {len(box)} numbers, not 4")
        return box


# --- A set for trials ------------------------------------------------------------------------------------------------

_COUNTS = {"train": 64, "test": 64}
_SIZE = (48, 60)  # height and width: not square
_LEVELS = (110, 200)  # brightness of each class, above noise of 40


def _synthetic() -> Source:
    """Rectangles side by side, each as bright as its class says, in noise; every 16th image has none."""
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in _COUNTS.items():
        data, found = [], []
        for number in range(count):
            pixels = rng.integers(0, 40, (*_SIZE, 3), dtype=np.uint8)
            found.append([])
            for column in range(0, 60, 20) if number % 16 else ():
                label = int(rng.integers(-1, 2))
                if label < 0:  # an empty place
                    continue
                height, width = rng.integers(10, 20, 2)
                top, left = rng.integers(0, _SIZE[0] - height), column + rng.integers(0, 20 - width)
                pixels[top : top + height, left : left + width] += np.uint8(_LEVELS[label])
                found[-1].append(boxes.Annotation(label, [top, left, top + height, left + width], False))
            data.append(_encoded(pixels))
        storage = Memory("synthetic", [f"{name}/{number}.png" for number in range(count)], data)
        splits[name] = _examples("synthetic", storage, [list(_SIZE)] * count, found)
    return Source("synthetic", ("grey", "bright"), splits)


def _encoded(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
