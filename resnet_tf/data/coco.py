"""Read annotations in the format of COCO, from the layouts in which programs for labelling write them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from resnet_tf.data import archives, boxes, formats
from resnet_tf.data.ignored import Ignored, is_hidden
from resnet_tf.data.splits import ANY_SPLIT_NAMES, listed, read_archive
from resnet_tf.errors import InputError

# {name: (name, size or content)}
Images = dict[str, tuple[str, bytes | int]]

_INSTANCES = re.compile(
    r"(?P<above>(?:.*/)?)(?:"
    r"annotations/instances_(?P<stem>[^/]+)\.json"  # COCO and CVAT
    r"|_annotations\.coco\.json"  # Roboflow
    r"|(?:labels|result)\.json"  # FiftyOne and Label Studio
    r")"
)


class Annotated(NamedTuple):
    """The images of a split, the height and width of each, and its objects, whose labels are positions of classes."""

    members: list[tuple[str, bytes | int]]
    sides: list[list[float]]
    objects: list[list[boxes.Annotation]]


def find(root: Path, ignored: Ignored, how: list[str]) -> tuple[dict[str, "Instances"], Images]:
    """Find the files of annotations and the images of a data set, in one of these layouts.

    - COCO and CVAT: [anything/]annotations/instances_STEM.json, where STEM is the name of a split, optionally with a
      year. The images are in STEM, images/STEM or images beside annotations.
    - Roboflow: SPLIT/_annotations.coco.json, with the images beside it.
    - FiftyOne and Label Studio: [SPLIT/]labels.json with data, or result.json with images.

    A file that names no split, as its own name or as that of a folder, is for training if it is the only one. A
    category that has no box and is the supercategory of another one is dropped: Roboflow writes it as class 0.

    Args:
        root: a folder or an archive.
        ignored: counts files of annotations that are not used.
        how: receives a sentence if a category is dropped.

    Returns:
        {split: its annotations}, with "train", "validation" and "test" as the data name them; and all images.

    Raises:
        InputError: there are no annotations, or several of one split; one cannot be read; or they differ in categories.
    """
    images: Images = {}
    found: dict[str, list[tuple[str, bytes]]] = {}
    for name, content in _files(root):
        if _INSTANCES.fullmatch(name):
            found.setdefault(_split_of(name), []).append((name, content))
        else:
            images[name] = name, content
    if len(found) > 1 and found.get(""):
        ignored.add("files of annotations that name no split", len(found.pop("")))
    files = {split or "train": of_split for split, of_split in found.items()}
    for of_split in files.values():
        if len(of_split) > 1:
            raise InputError(f"{root}: both {of_split[0][0]} and {of_split[1][0]}")
    if not files:
        raise InputError(f"{root} needs annotations/instances_train*.json, SPLIT/_annotations.coco.json or labels.json")
    if "train" not in files:
        raise InputError(f"{root} has annotations of {listed(sorted(files))}, but not of train")
    instances = {split: Instances(root, *of_split[0]) for split, of_split in files.items()}
    dropped = set.intersection(*(one.parents() for one in instances.values()))
    for one in instances.values():
        one.drop(dropped)
    for one in instances.values():
        if one.categories != instances["train"].categories:
            raise InputError(f"{one.name}: other categories than in {instances['train'].name}")
    if dropped:
        how.append(f"left out {listed(sorted({name for _, name in dropped}))}, a group of classes without boxes")
    return instances, images


def _files(root: Path) -> Iterator[tuple[str, bytes | int]]:
    """Yield names of images with their sizes, or contents from an archive; and files of instances with contents."""

    def is_image(name: str) -> bool:
        return formats.is_image(name) and not is_hidden(name)

    def is_instances(name: str) -> bool:
        return _INSTANCES.fullmatch(name) is not None and not is_hidden(name)

    if root.is_dir():
        yield from archives.list_files(root, is_image)
        yield from archives.read_members(root, is_instances)
        return
    yield from read_archive(root, lambda name: is_image(name) or is_instances(name))


def _split_named(name: str) -> str:
    """Return the split that the name of a folder or file means, with or without a year; "" for other names."""
    return ANY_SPLIT_NAMES.get(name.lower().rstrip("0123456789"), "")


def _split_of(name: str) -> str:
    """Return the split of a file of annotations: by its own name, or that of the outermost folder that names one."""
    stem = _INSTANCES.fullmatch(name)["stem"]
    names = ([stem] if stem else []) + name.split("/")[:-1]
    return next((split for split in map(_split_named, names) if split), "")


class Instances:
    """The content of one file of annotations.

    Attributes:
        name: name of the file.
        categories: {id: name} in the order of the ids, after `drop`.
    """

    def __init__(self, root: Path, name: str, data: bytes):
        """Read the file; raises InputError if it is no JSON or lacks a part."""
        self.name, self._file = f"{root}: {name}", name
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.name}: not JSON ({' '.join(str(error).split())})") from error
        parts = [self._get(content, key, list) for key in ("images", "annotations", "categories")]
        self._images, self._annotations, self._categories = parts
        self._pairs = [
            (self._get(one, "id", int, "categories"), self._get(one, "name", str, "categories"))
            for one in self._categories
        ]
        self.categories: dict[int, str] = {}

    def parents(self) -> set[tuple[int, str]]:
        """Return id and name of the categories without boxes that are the supercategory of another one."""
        boxed = [one.get("category_id") for one in self._annotations if isinstance(one, dict)]
        used = {number for number in boxed if isinstance(number, int)}
        return {
            (number, name)
            for number, name in self._pairs
            if number not in used
            and any(one.get("supercategory") == name and one["id"] != number for one in self._categories)
        }

    def drop(self, dropped: set[tuple[int, str]]) -> None:
        """Set `categories` to all but the dropped ones; raises InputError if there are duplicates, or none."""
        pairs = [pair for pair in self._pairs if pair not in dropped]
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

    def annotated(self, images: Images, position: dict[int, int]) -> Annotated:
        """Return the images of the file with their objects.

        Args:
            images: all images of the data set.
            position: {id of a category: label}.

        Raises:
            InputError: an image is missing or ambiguous, or a part of the file is incomplete or wrong.
        """
        members, sides, objects = [], [], {}
        by_end: dict[str, list[str]] = {}
        for name in images:
            by_end.setdefault(name.rpartition("/")[2], []).append(name)
        for one in self._images:
            file = self._get(one, "file_name", str, "images")
            members.append(images[self._find(file.replace("\\", "/"), images, by_end)])
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
        return Annotated(members, sides, list(objects.values()))

    def _find(self, file: str, images: Images, by_end: dict[str, list[str]]) -> str:
        """Return the name of the image that the file calls `file`."""
        match = _INSTANCES.fullmatch(self._file)
        above, stem = match["above"], match["stem"]
        places = [f"{above}{stem}/", f"{above}images/{stem}/"] if stem else [above, f"{above}data/"]
        for place in (*places, f"{above}images/", above):
            if place + file in images:
                return place + file
        # The only image with such an end below the folder that is not of another split.
        split = _split_of(self._file) or "train"
        found = [
            name
            for name in by_end.get(file.rpartition("/")[2], ())
            if name.startswith(above) and name.endswith(f"/{file}")
            if {_split_named(part) for part in name[len(above) :].split("/")[:-1]} <= {"", split}
        ]
        if len(found) != 1:
            where = " or ".join(place.rstrip("/") or "the folder itself" for place in places)
            several = f" and means several files: {listed(sorted(found), 3)}" if found else ""
            raise InputError(f"{self.name} lists {file}, which is not in {where}{several}")
        return found[0]

    def _box(self, annotation: dict) -> list:
        box = self._get(annotation, "bbox", list, "annotations")
        if len(box) != 4:
            raise InputError(f"{self.name}: annotations: bbox of {len(box)} numbers, not 4")
        return box
