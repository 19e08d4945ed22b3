"""Pictures of heat maps over whole images, for people who ask a server why it answered so."""

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from resnet_tf.data import colour, images, orientation

_LONGEST = 1024  # side of a picture in pixels
_OPACITY = 0.6
_DIMMED = 0.35  # brightness of what the network does not see
_FRAME = 235.0  # grey level
# Five colours of matplotlib's map "inferno" at equal steps, from 0 to 1.
_INFERNO = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)


@dataclasses.dataclass(frozen=True)
class Explainer:
    """Draws where a network sees a class.

    Attributes:
        heat: function(view uint8 [size, size, 3], class name) that returns float32 [h, w], 0 or above.
        classes: names of the classes.
        size: side of the view in pixels.
        resize: shorter side of an image before the central crop; 0 for `size`.
        exif: treatment of orientation tags; see `orientation.treated`.
        interpolation: see `images.resize_center`.
    """

    heat: Callable[[np.ndarray, str], np.ndarray]
    classes: list[str]
    size: int
    resize: int
    exif: str
    interpolation: str = ""

    def picture(self, content: bytes, name: str, class_name: str) -> bytes:
        """Return a JPEG of the image in grey with the heat map of a class over what the network sees of it.

        Args:
            content: an encoded image in a format that TensorFlow reads.
            name: name of the image in errors.
            class_name: one of `classes`.

        Raises:
            InputError: the image cannot be decoded.
        """
        upright = orientation.treated(self.exif)(tf.constant(content)).numpy()
        pixels = images.decode(upright, name)
        view = images.resize_center(pixels, self.size, self.resize, self.interpolation).numpy()
        return overlay(pixels, self.heat(view, class_name), self.size / (self.resize or self.size))


def overlay(pixels: np.ndarray, heat: np.ndarray, share: float) -> bytes:
    """Draw a heat map over an image.

    Args:
        pixels: uint8 [H, W, 3].
        heat: float32 [h, w], 0 or above, of the central square; its largest value gets the lightest colour. Nothing is
            laid over an image whose heat is zero everywhere.
        share: side of that square as a share of the shorter side of the image.

    Returns:
        A JPEG of the proportions of the image, at most 1,024 pixels wide and high.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_LONGEST, _LONGEST))
    width, height = image.size
    grey = np.repeat((np.asarray(image, np.float32) @ colour.LUMA)[..., None], 3, axis=-1)
    side = max(1, round(min(width, height) * share))
    top, left = (height - side) // 2, (width - side) // 2
    seen = grey[top : top + side, left : left + side].copy()
    if heat.max() > 0:
        smooth = Image.fromarray((heat / heat.max()).astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
        values = np.clip(np.asarray(smooth), 0, 1) * (len(_INFERNO) - 1)
        colours = [np.interp(values, np.arange(len(_INFERNO)), _INFERNO[:, channel]) for channel in range(3)]
        seen = _OPACITY * np.stack(colours, axis=-1) + (1 - _OPACITY) * seen
    drawn = _DIMMED * grey
    drawn[top : top + side, left : left + side] = _FRAME  # of one pixel around what is seen
    drawn[top + 1 : top + side - 1, left + 1 : left + side - 1] = seen[1:-1, 1:-1]
    file = io.BytesIO()
    Image.fromarray(np.clip(drawn.round(), 0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()
