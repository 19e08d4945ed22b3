"""Read annotations of PASCAL VOC, in devkits or beside images: for detection, and boxes as examples to classify.

The multi-label task of the VOC challenge, to find all classes of a whole image, is not supported.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np
import tensorflow as tf

from resnet_tf.data import archives, boxes, formats, images, orientation
from resnet_tf.data.examples import Examples
from resnet_tf.data.folder import store
from resnet_tf.data.ignored import Ignored, is_hidden
from resnet_tf.data.splits import ANY_SPLIT_NAMES, Indexed, arranged, existing, listed, ordered, read_archive
from resnet_tf.errors import InputError

MAX_ANNOTATION_BYTES = 2**20  # a usual annotation has a few thousand bytes

_NAME = re.compile(r"(?:(?P<kit>.*)/)?(?P<kind>Annotations|JPEGImages|ImageSets/Main)/(?P<file>[^/]+)")
_LISTS = ("trainval", "train", "val", "test")


@dataclasses.dataclass
class _Devkit:
    """The folder of one year.

    Attributes:
        images: {identifier: (name, size or content)}.
        annotations: {identifier of the image: (name, content)}.
        lists: {name without suffix: (name, content)} of the lists in ImageSets/Main.
    """

    images: dict[str, tuple[str, bytes | int]] = dataclasses.field(default_factory=dict)
    annotations: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    lists: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Annotated:
    """An image and the content of its annotation.

    Attributes:
        image: name, and size or content.
        annotation: name of the file.
        sides: height and width of the image, from the annotation or else from the image.
        objects: see `parse_annotation`.
    """

    image: tuple[str, bytes | int]
    annotation: str
    sides: list[float]
    objects: list[boxes.Annotation]


def index(data_dir: str, classes: tuple[str, ...] = (), exif: str = "apply", ignored: Ignored | None = None) -> Indexed:
    """Find the objects of images with annotations of PASCAL VOC, as examples for classification.

    The examples are the boxes that are not difficult. Boxes without area in the image are skipped, with a warning.

    Args:
        data_dir: see `annotated`.
        classes: the classes to use, in the order of their labels; empty for all of them, sorted by name.
        exif: see `annotated`.
        ignored: counts the boxes of other classes.

    Returns:
        The classes, and the splits "train" and, if they are there, "test" and "validation", with boxes, in the order of
        devkits, lists and annotations. Validation is "test" if the data have no other test split.

    Raises:
        InputError: see `annotated`; a split without boxes.
    """
    root, entries = annotated(data_dir, exif, ignored)
    entries = ordered(entries, "test")
    objects = [each for of_split in entries.values() for one in of_split for each in one.objects]
    names = sorted({each.label for each in objects if not each.ignored})
    splits = {split: _examples(root, of_split, names) for split, of_split in entries.items()}
    check_boxes(root, {split: len(examples) for split, examples in splits.items()})
    return arranged(classes, names, splits, ignored=ignored)


def check_boxes(root: Path, counts: dict[str, int]) -> None:
    """Refuse splits without boxes, given the number of boxes of each split; raises InputError."""
    empty = [split for split, count in counts.items() if not count]
    if empty:
        raise InputError(f"{root} has no boxes in {listed(empty)}")


def annotated(
    data_dir: str, exif: str = "apply", ignored: Ignored | None = None
) -> tuple[Path, dict[str, list[Annotated]]]:
    """Find images and read their annotations, in one of these layouts.

    - Devkits: folders with Annotations, JPEGImages and ImageSets/Main. The lists trainval make the training split and
      the lists test the test split. In a devkit without trainval, train is training and val is validation. If no devkit
      has a list test, the lists train make the training split and the lists val the validation split.
    - Without lists: an .xml file for each image, beside it as labelImg and Roboflow write them, or in another folder.
      A folder with the name of a split tells the split, else all images are for training. Images without an annotation
      are not used.

    Args:
        data_dir: a folder or archive with the data, at any depth.
        exif: treatment of orientation tags if an annotation does not tell the size of its image; see
            `orientation.treated`.
        ignored: counts images that are not used.

    Returns:
        The path of the data; and the images of "train" and, if they are there, "test" and "validation", in the order of
        devkits and lists, or of names. Images of an archive are held in memory, encoded.

    Raises:
        InputError: there is no "train"; an image or annotation in a list is missing, or an annotation has no image; an
            annotation is not plain XML or is incomplete; or the archive is damaged or too large.
    """
    root = existing(data_dir, "voc")
    kits = {path: kit for path, kit in sorted(_devkits(root).items()) if kit.images and kit.annotations and kit.lists}
    if not kits:
        return root, _read_loose(root, exif, Ignored() if ignored is None else ignored)
    splits = ordered(_choose_lists(kits))
    if splits is None:
        raise InputError(f"{root} needs trainval.txt or train.txt in ImageSets/Main")
    return root, {
        split: [one for path, name in lists for one in _read_listed(root, kits[path], name, exif)]
        for split, lists in splits.items()
    }


def _devkits(root: Path) -> dict[str, _Devkit]:
    kits: dict[str, _Devkit] = {}
    for name, content in _files(root):
        kind, kit, stem = _parse_name(name)
        kit = kits.setdefault(kit, _Devkit())
        members = {"JPEGImages": kit.images, "Annotations": kit.annotations, "ImageSets/Main": kit.lists}[kind]
        if stem in members:
            raise InputError(f"{root}: both {members[stem][0]} and {name}")
        members[stem] = name, content
    return kits


def _files(root: Path) -> Iterator[tuple[str, bytes | int]]:
    """Yield names of images with sizes, or contents from an archive; and annotations and lists with contents."""

    def kind(name: str) -> str:
        return (_parse_name(name) or [""])[0]

    if not root.is_dir():
        yield from read_archive(root, kind)
        return
    yield from archives.list_files(root, lambda name: kind(name) == "JPEGImages")
    yield from archives.read_members(root, lambda name: kind(name) in ("Annotations", "ImageSets/Main"))


def _parse_name(name: str) -> tuple[str, str, str] | None:
    """Return kind, devkit and stem of a file of a devkit; None for other files."""
    match = _NAME.fullmatch(name)
    if not match or any(part.startswith(".") for part in name.split("/")):
        return None
    stem, dot, suffix = match["file"].rpartition(".")
    suffixes = {"Annotations": (".xml",), "JPEGImages": formats.ALL_SUFFIXES, "ImageSets/Main": (".txt",)}
    if (dot + suffix).lower() not in suffixes[match["kind"]]:
        return None
    if match["kind"] == "ImageSets/Main" and stem not in _LISTS:
        return None
    return match["kind"], match["kit"] or "", stem


def _choose_lists(kits: dict[str, _Devkit]) -> dict[str, list[tuple[str, str]]]:
    """Return {split: [(devkit, name of a list)]}."""
    roles = {"trainval": "train", "train": "train", "val": "validation", "test": "test"}
    tested = any("test" in kit.lists for kit in kits.values())
    splits: dict[str, list[tuple[str, str]]] = {}
    for path, kit in kits.items():
        whole = "trainval" in kit.lists and (tested or "train" not in kit.lists)
        for name in ("trainval", "test") if whole else ("train", "val", "test"):
            if name in kit.lists:
                splits.setdefault(roles[name], []).append((path, name))
    return splits


# --- Without lists ---------------------------------------------------------------------------------------------------


def _read_loose(root: Path, exif: str, ignored: Ignored) -> dict[str, list[Annotated]]:
    """Return the images of each split that have an .xml file; see `annotated`."""

    def is_annotation(name: str) -> bool:
        return name.lower().endswith(".xml") and not is_hidden(name)

    def is_image(name: str) -> bool:
        return formats.is_image(name) and not is_hidden(name)

    if root.is_dir():
        found = dict(archives.list_files(root, is_image)) | dict(archives.read_members(root, is_annotation))
    else:
        found = dict(read_archive(root, lambda name: is_image(name) or is_annotation(name)))
    annotations = sorted(name for name in found if is_annotation(name))
    by_stem: dict[str, list[str]] = {}
    for name in sorted(set(found) - set(annotations)):
        by_stem.setdefault(PurePosixPath(name).stem, []).append(name)
    if not annotations or not by_stem:
        raise InputError(
            f"{root} holds no folder with Annotations, JPEGImages and ImageSets/Main, nor images with .xml files"
        )
    pairs = [(name, _image_of(root, name, by_stem.get(PurePosixPath(name).stem, []))) for name in annotations]
    missing = [name for name, image in pairs if not image]
    if missing:
        raise InputError(f"{root}: {len(missing):,} of {len(pairs):,} annotations have no image: {listed(missing, 3)}")
    splits: dict[str, list[Annotated]] = {}
    for name, image in pairs:
        one = _read_annotation(root, (image, found[image]), (name, found[name]), exif)
        splits.setdefault(_split_of(name), []).append(one)
    if "" in splits and len(splits) > 1:
        raise InputError(f"{root}: {splits[''][0].annotation} is in no folder of a split, but other annotations are")
    splits = {split or "train": of_split for split, of_split in splits.items()}
    ignored.add("images without an annotation", len(found) - len(annotations) - len({image for _, image in pairs}))
    arranged_splits = ordered(splits)
    if arranged_splits is None:
        raise InputError(f"{root} has annotations of {listed(sorted(splits))}, but not of train")
    return arranged_splits


def _split_of(name: str) -> str:
    """Return the split that the outermost of the folders of a file names; "" if none does."""
    folders = (part.lower() for part in name.split("/")[:-1])
    return next((ANY_SPLIT_NAMES[part] for part in folders if part in ANY_SPLIT_NAMES), "")


def _image_of(root: Path, annotation: str, candidates: list[str]) -> str:
    """Return the image of an annotation out of those with its name: the nearest one, "" if there is none."""
    folder = PurePosixPath(annotation).parent

    def distance(image: str) -> int:
        beside = PurePosixPath(image).parent
        if beside == folder:
            return 0
        if beside.parent == folder.parent or beside == folder.parent:
            # Images of segmentation have the same names.
            return {"jpegimages": 1, "images": 2}.get(beside.name.lower(), 3)
        return 4

    candidates = [image for image in candidates if _split_of(image) in ("", _split_of(annotation))]
    least = min(map(distance, candidates), default=0)
    nearest = [image for image in candidates if distance(image) == least]
    if len(nearest) > 1:
        raise InputError(f"{root}: {annotation} has several images: {listed(nearest, 3)}")
    return nearest[0] if nearest else ""


# --- Annotations ---------------------------------------------------------------------------------------------------


def _read_listed(root: Path, kit: _Devkit, name: str, exif: str) -> Iterator[Annotated]:
    for identifier in _read_list(root, *kit.lists[name]):
        for kind, members in (("image", kit.images), ("annotation", kit.annotations)):
            if identifier not in members:
                raise InputError(f"{root}: {kit.lists[name][0]} lists {identifier}, which has no {kind}")
        yield _read_annotation(root, kit.images[identifier], kit.annotations[identifier], exif)


def _read_annotation(root: Path, image: tuple[str, bytes | int], annotation: tuple[str, bytes], exif: str) -> Annotated:
    file, data = annotation
    sides, objects = parse_annotation(data, f"{root}: {file}")
    return Annotated(image, file, sides or _read_sides(root, image, exif), objects)


def _read_sides(root: Path, image: tuple[str, bytes | int], exif: str) -> list[float]:
    """Return height and width of an image whose annotation does not tell them."""
    storage = store(root, [image])
    data = storage.read(0)
    images.check_header(data, storage.name(0))
    return _sides_of(orientation.treated(exif)(tf.constant(data))).numpy().astype(float).tolist()


_sides_of = tf.function(boxes.sides_of, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def _read_list(root: Path, name: str, data: bytes) -> list[str]:
    """Return the identifiers in a list, the first word of each line."""
    lines = data.decode("utf-8", "replace").splitlines()
    identifiers = [line.split()[0] for line in lines if line.strip()]
    if len(set(identifiers)) < len(identifiers):
        raise InputError(f"{root}: {name} lists some images twice")
    return identifiers


class _Builder(ElementTree.TreeBuilder):
    """A tree builder that refuses document types, since entities allow a small file to expand without bound."""

    def doctype(self, *_):
        raise ValueError("it declares a document type")


def parse_annotation(data: bytes, name: str) -> tuple[list[float] | None, list[boxes.Annotation]]:
    """Read an annotation.

    Args:
        data: content of the XML file.
        name: name of the file in errors.

    Returns:
        Height and width of the image, or None if the annotation does not tell; and the objects. Their labels are names
        of classes, their corners pixels that count from 1, the last one included. Difficult objects are ignored.

    Raises:
        InputError: the file is too large, is not XML, declares a document type, or is incomplete.
    """
    if len(data) > MAX_ANNOTATION_BYTES:
        raise InputError(f"{name}: {len(data)} bytes; the limit for an annotation is {MAX_ANNOTATION_BYTES}")
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
            objects.append(boxes.Annotation(_text(item, "name"), corners, difficult))
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


def _examples(root: Path, entries: list[Annotated], names: list[str]) -> Examples:
    """Return the objects that are not difficult and have area in their image, each of them an example."""
    objects = [(number, each) for number, one in enumerate(entries) for each in one.objects if not each.ignored]
    image = np.array([number for number, _ in objects], np.int64)
    corners = np.array([each.corners for _, each in objects], np.float64).reshape(-1, 4)
    sides = np.array([one.sides for one in entries], np.float64).reshape(-1, 2).astype(np.int64)[image]
    placed, good = boxes.from_corners(corners, sides, inclusive=True)
    boxes.warn_skipped(str(root), [entries[number].image[0] for number in image[~good]])
    position = {name: number for number, name in enumerate(names)}
    labels = np.array([position[each.label] for _, each in objects], np.int32)
    used, where = np.unique(image[good], return_inverse=True)
    storage = store(root, [entries[number].image for number in used])
    return Examples(storage, where.astype(np.int64), labels[good], placed[good], sides=sides[good])
