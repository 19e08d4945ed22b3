"""Small pictures of examples for a page: as data URLs, with the crop that the network sees and its Grad-CAM."""

import base64
import dataclasses
import io

import numpy as np
from PIL import Image, ImageDraw

from resnet_tf.data import geometry, images
from resnet_tf.data.splits import Split
from resnet_tf.evaluation import attribution, gallery

LONGEST = 320  # longer side in pixels
_SMALLEST = 160  # smaller images are enlarged, so that their pixels are seen
_QUALITY = 80
_BATCH = 8  # images of a call of the network
_FRAME = (255, 214, 10)  # yellow, seen on dark and bright pictures


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A small picture of an example.

    Attributes:
        pixels: uint8 [height, width, 3], at most `LONGEST` pixels long.
        box: top, left, height and width of the crop that the network sees, in pixels of this picture.
        view: uint8 [size, size, 3], the crop as the network sees it; None if it is not needed.
    """

    pixels: np.ndarray
    box: list[float]
    view: np.ndarray | None


def of_example(split, example: int, subject: attribution.Subject | None) -> Thumbnail:
    """Return the thumbnail of an example.

    Args:
        split: a `Split` or an `Examples`.
        example: position in the split.
        subject: the network, whose view is wanted; None for no view.
    """
    pixels = gallery.stored(split, example)
    height, width = pixels.shape[:2]
    view, box = None, [0, 0, height, width]
    if subject is not None:
        if isinstance(split, Split):
            view = pixels
        else:
            view = images.resize_center(pixels, subject.size, subject.resize, subject.interpolation).numpy()
            box = geometry.ten_boxes(height, width, subject.size, subject.resize, subject.interpolation)[
                4
            ]  # the central one
    small = shrunk(pixels)
    scale = small.shape[0] / height, small.shape[1] / width
    return Thumbnail(small, [side * scale[axis % 2] for axis, side in enumerate(box)], view)


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """Return an image with its longer side from 160 to 320 pixels; enlarged ones show their pixels."""
    longest = max(pixels.shape[:2])
    if _SMALLEST <= longest <= LONGEST:
        return pixels
    if longest < _SMALLEST:
        times = -(-_SMALLEST // longest)
        return pixels.repeat(times, axis=0).repeat(times, axis=1)
    return gallery.smaller(pixels, LONGEST)


def heat_maps(thumbnails: list[Thumbnail], subject: attribution.Subject, classes: list[int]) -> list[np.ndarray]:
    """Return the Grad-CAM of a class on each view, float32 [h, w], by `attribution.heat_maps`."""
    views = np.stack([thumbnail.view for thumbnail in thumbnails])
    maps = []
    for start in range(0, len(views), _BATCH):
        part = slice(start, start + _BATCH)
        maps += list(attribution.heat_maps(subject, views[part], np.array(classes[part]))[0])
    return maps


def with_heat(thumbnail: Thumbnail, heat: np.ndarray) -> np.ndarray:
    """Lay a heat map over the part of a picture that the network sees, in grey, and frame this part.

    The lightest value is the largest of the map; a map that is zero everywhere leaves the picture grey.

    Args:
        thumbnail: the picture.
        heat: float [h, w], 0 or above.

    Returns:
        uint8 of the shape of the picture.
    """
    from matplotlib import colormaps

    height, width = thumbnail.pixels.shape[:2]
    picture = Image.fromarray(thumbnail.pixels).convert("L").convert("RGB")
    top, left, tall, wide = thumbnail.box
    corners = [max(0, round(left)), max(0, round(top)), min(width, round(left + wide)), min(height, round(top + tall))]
    if heat.max() > 0:
        size = (max(1, corners[2] - corners[0]), max(1, corners[3] - corners[1]))
        share = Image.fromarray((heat / heat.max()).astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        colours = Image.fromarray(colormaps["inferno"](np.asarray(share), bytes=True)[..., :3])
        region = picture.crop((corners[0], corners[1], corners[0] + size[0], corners[1] + size[1]))
        picture.paste(Image.blend(region, colours, 0.6), (corners[0], corners[1]))
    frame = (corners[0], corners[1], corners[2] - 1, corners[3] - 1)
    ImageDraw.Draw(picture).rectangle(frame, outline=_FRAME, width=2)
    return np.asarray(picture)


def data_url(pixels: np.ndarray) -> str:
    """Return an image as a JPEG in a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
