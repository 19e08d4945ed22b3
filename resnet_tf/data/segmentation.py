"""Data sets for segmentation: CamVid, PASCAL VOC and ADE20K, as folders or tar archives, and a synthetic set."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_tf.data import archives, formats, images, masks
from resnet_tf.data.examples import Examples, Memory
from resnet_tf.data.folder import store
from resnet_tf.data.splits import Source, existing, listed, read_archive, tagged, with_test
from resnet_tf.errors import InputError

_VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_CAMVID_CLASSES = (  # the version with 11 classes (Badrinarayanan et al. 2015, SegNet)
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """The layout of the files of a data set, and the meaning of the indices of its masks.

    Attributes:
        pattern: regular expression for the paths of files in the data set. The group "image", "mask", "list" or "names"
            is the stem of a file of that kind; "split" or "mask_split" is the name of its split, if folders tell it.
        splits: {name of a split in the data set: its name here}.
        classes: names of the classes; () if a file has them.
        first: index of the first class.
        void: indices of void pixels.
        tail: whether the index after the last class is void too.
    """

    pattern: str
    splits: dict[str, str]
    classes: tuple[str, ...] = ()
    first: int = 0
    void: tuple[int, ...] = (masks.VOID,)
    tail: bool = False


LAYOUTS = {
    "camvid": Layout(
        r"(?:(?P<split>train|val|test)/(?P<image>[^/]+)|(?P<mask_split>train|val|test)annot/(?P<mask>[^/]+)\.png)",
        {"train": "train", "val": "validation", "test": "test"},
        _CAMVID_CLASSES,
        tail=True,
    ),
    "voc": Layout(
        r"(?:JPEGImages/(?P<image>[^/]+)|SegmentationClass/(?P<mask>[^/]+)\.png"
        r"|ImageSets/Segmentation/(?P<list>train|val)\.txt)",
        {"train": "train", "val": "validation"},
        _VOC_CLASSES,
    ),
    "ade20k": Layout(
        r"(?:images/(?P<split>training|validation)/(?P<image>[^/]+)"
        r"|annotations/(?P<mask_split>training|validation)/(?P<mask>[^/]+)\.png|(?P<names>objectInfo150)\.txt)",
        {"training": "train", "validation": "validation"},
        first=1,
        void=(0, masks.VOID),
    ),
}
DATASETS = (*LAYOUTS, "synthetic")


def index(
    dataset: str,
    data_dir: str = "",
    classes: tuple[str, ...] = (),
    mask_values: tuple[int, ...] = (),
    exif: str = "apply",
) -> Source:
    """Find the images and masks of a data set, which stay encoded where they are.

    Args:
        dataset: one of DATASETS:

            - "camvid": [anything/]{train,val,test}/IMAGE and {train,val,test}annot/MASK.png; index 11, or the index
              after the last of `classes`, is void;
            - "voc": JPEGImages, SegmentationClass and ImageSets/Segmentation/{train,val}.txt; 255 is void;
            - "ade20k": {images,annotations}/{training,validation}; 0 is void; objectInfo150.txt has the names;
            - "synthetic": rectangles in noise, for tests.
        data_dir: a folder or a tar archive, in which the data set may be at any depth.
        classes: names of the classes in the order of their indices, for your own data in one of these layouts.
        mask_values: pixel value of each class in the masks, 0 to 255; all other values are void. Empty for the indices
            of the layout.
        exif: "apply" turns images upright as their orientation tags say, "ignore" uses them as they are stored. Masks
            are never turned, since labelling programs show images upright.

    Returns:
        The data set with the splits "train", "test" and, if there is a third one, "validation": `Examples` with masks,
        sorted by name. Images of an archive are held in memory, encoded.

    Raises:
        InputError: no data set of that layout is there; an image has no mask, or a mask no image; or the archive is
            damaged.
    """
    if dataset == "synthetic":
        return _synthetic()
    try:
        return tagged(_index(dataset, data_dir, classes, mask_values), exif)
    except InputError as error:
        if str(error).startswith("--mask_values"):
            raise
        raise InputError(f"--data_dir: {str(error).removeprefix('--data_dir: ')}") from error


def _index(dataset: str, data_dir: str, classes: tuple[str, ...], mask_values: tuple[int, ...]) -> Source:
    root, layout = existing(data_dir, dataset), LAYOUTS[dataset]
    images, annotated, lists, names = {}, {}, {}, None
    for name, match, content in _files(root, layout):
        if match["image"]:
            _put(root, images, (match.groupdict().get("split"), Path(name).stem), name, content)
        elif match["mask"]:
            _put(root, annotated, (match.groupdict().get("mask_split"), match["mask"]), name, content)
        elif match.groupdict().get("list"):
            lists[match["list"]] = content.decode("utf-8", "replace").split()
        else:
            names = content
    classes = classes or layout.classes or _names(names) or _numbered(dataset)
    if not 2 <= len(classes) <= masks.MOST_CLASSES - 1 or len(set(classes)) < len(classes):
        raise InputError(f"{root}: {len(classes)} classes; 2 to {masks.MOST_CLASSES - 1} different ones are needed")
    if mask_values and len(mask_values) != len(classes):
        raise InputError(f"--mask_values: {len(mask_values)} values, but {len(classes)} classes: --classes names them")
    void = (*layout.void, *([len(classes)] if layout.tail else []))
    table = masks.table_of(mask_values) if mask_values else masks.table(len(classes), layout.first, void)
    splits = {}
    for theirs, split in layout.splits.items():
        keys = [(None, stem) for stem in lists.get(theirs, ())] if "list" in layout.pattern else [
            key for key in sorted({**images, **annotated}, key=str) if key[0] == theirs
        ]  # fmt: skip
        if keys:
            splits[split] = _examples(root, keys, images, annotated, table)
    splits = with_test(splits)
    if splits is None:
        raise InputError(f"{root} holds no data set in the layout of {dataset} with {', '.join(layout.splits)}")
    return Source(dataset, tuple(classes), splits)


def _files(root: Path, layout: Layout) -> Iterator[tuple[str, re.Match, bytes | int]]:
    """Yield name, match, and size or content of the files of a data set."""
    pattern = re.compile(rf"(?:.*/)?{layout.pattern}")

    def match(name: str) -> re.Match | None:
        result = pattern.fullmatch(name)
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if not result or is_hidden or (result["image"] and not formats.is_image(name)):
            return None
        return result

    def is_picture(name: str) -> bool:
        result = match(name)
        return bool(result and (result["image"] or result["mask"]))

    if not root.is_dir():
        for name, data in read_archive(root, lambda name: match(name) is not None):
            yield name, match(name), data
        return
    for name, size in archives.list_files(root, is_picture):
        yield name, match(name), size
    for name, data in archives.read_members(root, lambda name: match(name) is not None and not is_picture(name)):
        yield name, match(name), data


def _put(root: Path, members: dict, key: tuple, name: str, content: bytes | int) -> None:
    if key in members:
        raise InputError(f"{root}: both {members[key][0]} and {name}")
    members[key] = name, content


def _names(data: bytes | None) -> tuple[str, ...]:
    """Return the first name of each class in objectInfo150.txt, whose last column has synonyms; () without the file."""
    if data is None:
        return ()
    rows = [line.split("\t")[-1] for line in data.decode("utf-8", "replace").splitlines()[1:] if line.strip()]
    return tuple(row.split(",")[0].strip() for row in rows)


def _numbered(dataset: str) -> tuple[str, ...]:
    return tuple(f"class{number}" for number in range(1, 151)) if dataset == "ade20k" else ()


def _examples(root: Path, keys: list, images: dict, annotated: dict, table: np.ndarray) -> Examples:
    for kind, members in (("image", images), ("mask", annotated)):
        missing = [stem for split, stem in keys if (split, stem) not in members]
        if missing:
            raise InputError(f"{root}: no {kind} for {listed(missing, 3)}")
    count = len(keys)
    return Examples(
        store(root, [images[key] for key in keys]),
        np.arange(count, dtype=np.int64),
        np.zeros(count, np.int32),
        masks=masks.Masks(store(root, [annotated[key] for key in keys]), table),
    )


# --- A synthetic data set --------------------------------------------------------------------------------------------

_COUNTS = {"train": 64, "test": 64}
_SIZE = (24, 30)  # height and width: neither square nor multiples of a stride


def _synthetic() -> Source:
    """Make images of rectangles in noise, whose brightness tells the class; the left column is void."""
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in _COUNTS.items():
        files: dict[str, list[bytes]] = {"image": [], "mask": []}
        for _ in range(count):
            indices = np.zeros(_SIZE, np.uint8)
            for label in (1, 2):
                top, left = rng.integers(0, 10, 2)
                indices[top : top + 12, left + 10 * label - 10 : left + 10 * label] = label
            pixels = rng.integers(0, 40, (*_SIZE, 3), dtype=np.uint8) + (indices * 90)[..., None]
            indices[:, :1] = masks.VOID
            files["image"].append(images.encode_png(pixels))
            files["mask"].append(images.encode_png(indices))
        names = [f"{name}/{number}.png" for number in range(count)]
        image, mask = (Memory("synthetic", names, files[kind]) for kind in ("image", "mask"))
        splits[name] = Examples(
            image, np.arange(count, dtype=np.int64), np.zeros(count, np.int32),
            masks=masks.Masks(mask, masks.table(3)),
        )  # fmt: skip
    return Source("synthetic", ("ground", "grey", "bright"), splits)
