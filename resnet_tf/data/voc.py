"""PASCAL VOC devkits: annotated images, and each box of an object as an example of classification.

Whole images with the set of classes in them, the multi-label task of the VOC challenge, are not built.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tensorflow as tf

from resnet_tf.data import archives, boxes, formats, images, orientation
from resnet_tf.data.examples import Examples
from resnet_tf.data.folder import store
from resnet_tf.data.splits import Indexed, arranged, check_encoded, existing, listed, with_test
from resnet_tf.errors import InputError

MAX_ANNOTATION_BYTES = 2**20  # an annotation has a few thousand

_PLACE = re.compile(r"(?:(?P<kit>.*)/)?(?P<kind>Annotations|JPEGImages|ImageSets/Main)/(?P<file>[^/]+)")
_LISTS = ("trainval", "train", "val", "test")


@dataclasses.dataclass
class _Devkit:
    """One year's folder.

    Attributes:
        images: name and size, or content, of each image by its identifier.
        annotations: name and content of each by its image's identifier.
        lists: name and content of each list in ImageSets/Main.
    """

    images: dict[str, tuple[str, bytes | int]] = dataclasses.field(default_factory=dict)
    annotations: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    lists: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Annotated:
    """An image and what its annotation says.

    Attributes:
        image: name and size, or content.
        annotation: name of the file.
        sides: height and width of the image, as the annotation has them or else as the image does.
        objects: class, corners and whether it is difficult, of each; see `parse_annotation`.
    """

    image: tuple[str, bytes | int]
    annotation: str
    sides: list[float]
    objects: list[tuple[str, list[float], bool]]


def index(data_dir: str, classes: tuple[str, ...] = (), exif: str = "apply") -> Indexed:
    """Find the objects of one or more PASCAL VOC devkits, each of which is an example.

    An example is a box that is not difficult; boxes without area in the image are skipped, with a warning.

    Args:
        data_dir: see `annotated`.
        classes: their order, instead of the alphabet's.
        exif: see `annotated`.

    Returns:
        The classes, and "train", "test" and, where there is one, "validation", with boxes, in the order of devkits,
        lists and annotations.

    Raises:
        InputError: see `annotated`; a split without boxes.
    """
    root, found = annotated(data_dir, exif)
    objects = {split: _crops(of_split) for split, of_split in found.items()}
    names = sorted({label for of_split in objects.values() for label in of_split.labels})
    splits = {split: _examples(root, of_split, names) for split, of_split in objects.items()}
    check_boxes(root, {split: len(examples) for split, examples in splits.items()})
    return arranged(classes, names, splits)


def check_boxes(root: Path, counts: dict[str, int]) -> None:
    """Refuses, with InputError, splits of which there are no boxes, from their counts."""
    empty = [split for split, count in counts.items() if not count]
    if empty:
        raise InputError(f"{root} has no boxes in {listed(empty)}")


def annotated(data_dir: str, exif: str = "apply") -> tuple[Path, dict[str, list[Annotated]]]:
    """Find the images of one or more PASCAL VOC devkits, and reads their annotations.

    A devkit is a folder with Annotations, JPEGImages and ImageSets/Main. Over all of them, the lists trainval are
    training and the lists test are test; of one without trainval, train is training and val is validation. Where there
    is no list test at all, the lists train are training and the lists val are test.

    Args:
        data_dir: a folder or tar archive with the devkits, at any depth.
        exif: what is done with orientation tags, where an annotation does not say how large its image is; see
            `orientation.treated`.

    Returns:
        Where they are; and the images of "train", "test" and, where there is one, "validation", in the order of
        devkits and lists. Of a folder no image is read; of an archive they are held in memory, encoded.

    Raises:
        InputError: an image or annotation that a list names is missing; an annotation is no plain XML, or lacks
            something; the archive is damaged or too large.
    """
    root = existing(data_dir, "voc")
    kits = {path: kit for path, kit in sorted(_devkits(root).items()) if kit.images and kit.annotations and kit.lists}
    if not kits:
        raise InputError(f"{root} holds no folder with Annotations, JPEGImages and ImageSets/Main")
    chosen = with_test(_choose_lists(kits))
    if chosen is None:
        raise InputError(f"{root} needs in ImageSets/Main trainval.txt and test.txt, or train.txt and val.txt")
    return root, {
        split: [one for path, name in lists for one in _read_annotations(root, kits[path], name, exif)]
        for split, lists in chosen.items()
    }


def _devkits(root: Path) -> dict[str, _Devkit]:
    kits: dict[str, _Devkit] = {}
    for name, content in _files(root):
        kind, kit, stem = _place(name)
        kit = kits.setdefault(kit, _Devkit())
        members = {"JPEGImages": kit.images, "Annotations": kit.annotations, "ImageSets/Main": kit.lists}[kind]
        if stem in members:
            raise InputError(f"{root}: both {members[stem][0]} and {name}")
        members[stem] = name, content
    return kits


def _files(root: Path) -> Iterator[tuple[str, bytes | int]]:
    """Images, with their sizes or, from an archive, contents; annotations and lists with theirs."""
    if not root.is_dir():
        size = 0
        for name, data in archives.read_members(root, lambda name: _place(name) is not None):
            size += len(data)
            check_encoded(size, root)
            yield name, data
        return
    yield from archives.list_files(root, lambda name: (_place(name) or [""])[0] == "JPEGImages")
    yield from archives.read_members(root, lambda name: (_place(name) or [""])[0] in ("Annotations", "ImageSets/Main"))


def _place(name: str) -> tuple[str, str, str] | None:
    """Kind, devkit and name without suffix of a file that is wanted."""
    match = _PLACE.fullmatch(name)
    if not match or any(part.startswith(".") for part in name.split("/")):
        return None
    stem, dot, suffix = match["file"].rpartition(".")
    pictures = formats.ALL_SUFFIXES
    suffixes = {"Annotations": (".xml",), "JPEGImages": pictures, "ImageSets/Main": (".txt",)}[match["kind"]]
    if (dot + suffix).lower() not in suffixes or (match["kind"] == "ImageSets/Main" and stem not in _LISTS):
        return None
    return match["kind"], match["kit"] or "", stem


def _choose_lists(kits: dict[str, _Devkit]) -> dict[str, list[tuple[str, str]]]:
    """The lists, devkit and name, of each split that has any."""
    roles = {"trainval": "train", "train": "train", "val": "validation", "test": "test"}
    tested = any("test" in kit.lists for kit in kits.values())
    splits: dict[str, list[tuple[str, str]]] = {}
    for path, kit in kits.items():
        whole = tested and "trainval" in kit.lists
        for name in ("trainval", "test") if whole else ("train", "val", "test"):
            if name in kit.lists:
                splits.setdefault(roles[name], []).append((path, name))
    return splits


# --- Annotations ---------------------------------------------------------------------------------------------------


def _read_annotations(root: Path, kit: _Devkit, name: str, exif: str) -> Iterator[Annotated]:
    for identifier in _read_list(root, *kit.lists[name]):
        for kind, members in (("image", kit.images), ("annotation", kit.annotations)):
            if identifier not in members:
                raise InputError(f"{root}: {kit.lists[name][0]} lists {identifier}, of which there is no {kind}")
        file, data = kit.annotations[identifier]
        sides, objects = parse_annotation(data, f"{root}: {file}")
        yield Annotated(kit.images[identifier], file, sides or _read_sides(root, kit.images[identifier], exif), objects)


def _read_sides(root: Path, image: tuple[str, bytes | int], exif: str) -> list[float]:
    """Height and width of an image whose annotation does not say them."""
    storage = store(root, [image])
    data = storage.read(0)
    images.check_header(data, storage.name(0))
    return _sides_of(orientation.treated(exif)(tf.constant(data))).numpy().astype(float).tolist()


_sides_of = tf.function(boxes.sides_of, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def _read_list(root: Path, name: str, data: bytes) -> list[str]:
    """The identifiers in a list, of which each line has one first."""
    lines = data.decode("utf-8", "replace").splitlines()
    identifiers = [line.split()[0] for line in lines if line.strip()]
    if len(set(identifiers)) < len(identifiers):
        raise InputError(f"{root}: {name} lists some images twice")
    return identifiers


class _Builder(ElementTree.TreeBuilder):
    """Refuses document types, and with them entities, which a few bytes can make grow without bound."""

    def doctype(self, *_):
        raise ValueError("it declares a document type")


def parse_annotation(data: bytes, name: str) -> tuple[list[float] | None, list[tuple[str, list[float], bool]]]:
    """Read an annotation.

    Args:
        data: the XML file.
        name: what to call it in errors.

    Returns:
        Height and width of the image, or None where it says nothing of a size; and of each object its class, top,
        left, bottom and right as they are written: pixels from 1 on, the last one included; and whether it is
        difficult.

    Raises:
        InputError: the file is too large, no XML, declares a document type, or lacks any of these.
    """
    if len(data) > MAX_ANNOTATION_BYTES:
        raise InputError(f"{name}: {len(data)} bytes; an annotation has {MAX_ANNOTATION_BYTES} at most")
    try:
        annotation = ElementTree.fromstring(data, ElementTree.XMLParser(target=_Builder()))
        sides = None
        if annotation.find("size") is not None:
            sides = [_number(annotation, f"size/{side}") for side in ("height", "width")]
        if sides and min(sides) < 1:
            raise ValueError(f"a size of {sides[0]:g} x {sides[1]:g}")
        objects = []
        for item in annotation.findall("object"):
            difficult = item.find("difficult") is not None and _number(item, "difficult") != 0
            corners = [_number(item, f"bndbox/{side}") for side in ("ymin", "xmin", "ymax", "xmax")]
            objects.append((_text(item, "name"), corners, difficult))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{name}: no annotation ({' '.join(str(error).split())})") from error
    return sides, objects


def _text(element: ElementTree.Element, path: str) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"no {path}")
    return text


def _number(element: ElementTree.Element, path: str) -> float:
    number = float(_text(element, path))
    if not abs(number) < 1e6:
        raise ValueError(f"{path} of {number}")
    return number


# --- Crops ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Crops:
    """The objects of a split that are not difficult, good or not.

    Attributes:
        images: name and size, or content, of each.
        image: of each object, an index into `images`.
        labels: class of each object.
        corners: top, left, bottom, right of each.
        sides: height and width of its image.
    """

    images: list[tuple[str, bytes | int]] = dataclasses.field(default_factory=list)
    image: list[int] = dataclasses.field(default_factory=list)
    labels: list[str] = dataclasses.field(default_factory=list)
    corners: list[list[float]] = dataclasses.field(default_factory=list)
    sides: list[list[float]] = dataclasses.field(default_factory=list)


def _crops(found: list[Annotated]) -> _Crops:
    crops = _Crops()
    for number, one in enumerate(found):
        crops.images.append(one.image)
        for label, corners, difficult in one.objects:
            if not difficult:
                crops.image.append(number)
                crops.labels.append(label)
                crops.corners.append(corners)
                crops.sides.append(one.sides)
    return crops


def _examples(root: Path, objects: _Crops, names: list[str]) -> Examples:
    corners = np.array(objects.corners, np.float64).reshape(-1, 4)
    sides = np.array(objects.sides, np.float64).reshape(-1, 2).astype(np.int64)
    placed, good = boxes.from_corners(corners, sides, inclusive=True)
    image = np.array(objects.image, np.int64)
    boxes.warn_skipped(str(root), [objects.images[number][0] for number in image[~good]])
    position = {name: number for number, name in enumerate(names)}
    labels = np.array([position[label] for label in objects.labels], np.int32)
    used, where = np.unique(image[good], return_inverse=True)
    storage = store(root, [objects.images[number] for number in used])
    return Examples(storage, where.astype(np.int64), labels[good], placed[good], sides=sides[good])
