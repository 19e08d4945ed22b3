"""Image formats: those that TensorFlow reads, and others, which Pillow reads and which become PNGs on the way.

Which images of a folder there are is told by their suffixes, how each is decoded by its first bytes. What Pillow reads
takes Python and some ten times as long, so that pipelines call it for files of those suffixes alone; exported models
have no Python and take what TensorFlow reads.
"""

import io
from collections.abc import Iterable

import numpy as np

from resnet_tf.errors import InputError

NAMES = "JPEG, PNG, BMP, GIF or WebP"  # what TensorFlow reads, in words
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".webp")
PILLOW_SUFFIXES = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm")
ALL_SUFFIXES = SUFFIXES + PILLOW_SUFFIXES
_PILLOW = ("TIFF", "HEIF", "AVIF", "JPEG2000", "PPM")  # as Pillow calls them
_HEIF = (".heic", ".heif")
_ADVICE = "pip install 'resnet_tf[heic]', which is pillow-heif, reads HEIC"


def is_webp(data: bytes) -> bool:
    """Whether an image is a WebP, by its first bytes."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def is_known(data: bytes) -> bool:
    """Whether an image is of a format that TensorFlow reads, by its first bytes."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a")) or is_webp(data)


def is_image(name: str) -> bool:
    """Whether a file is an image that can be read, by its suffix in any case."""
    return name.lower().endswith(ALL_SUFFIXES)


def by_pillow(names: Iterable[str]) -> np.ndarray:
    """Which files Pillow may have to read, by their suffixes: bool [n]."""
    return np.array([name.lower().endswith(PILLOW_SUFFIXES) for name in names], bool)


def check_readable(names: Iterable[str], where: str) -> None:
    """Refuses HEIC files where nothing can read them.

    Args:
        names: of files.
        where: what to call the place that they are in.

    Raises:
        InputError: there are some, and pillow-heif is not installed; it names the first and says how many there are.
    """
    found = [name for name in names if name.lower().endswith(_HEIF)]
    if found and not _has_heif():
        raise InputError(f"{where}: {len(found)} HEIC images, such as {found[0]}: {_ADVICE}")


def as_png(data: bytes, name: str, most_pixels: int) -> bytes:
    """Makes a PNG of an image that Pillow reads and TensorFlow does not: TIFF, HEIC, AVIF, JPEG 2000, PPM.

    Args:
        data: the encoded image; of several pages or frames the first counts.
        name: what to call it in errors.
        most_pixels: that it may have.

    Returns:
        A PNG of 8-bit RGB: grey becomes RGB, alpha is dropped, of 16-bit samples the high byte stays. The image is
        upright; that is how it is meant in these formats, whatever is done with the orientation tags of others.

    Raises:
        InputError: it is no image that Pillow reads, is damaged, too large, or has samples of other sizes.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    heif = _has_heif()
    Image.init()
    try:
        image = Image.open(io.BytesIO(data), formats=[form for form in _PILLOW if form in Image.OPEN])
        width, height = image.size
        if width * height > most_pixels:
            raise InputError(f"{name}: {width} x {height} pixels; the limit is {most_pixels} in all")
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise InputError(f"{name}: samples of 32 bits; save it with 8 or 16")
        file = io.BytesIO()
        Image.fromarray(np.asarray(image.convert("RGB"))).save(file, "PNG", compress_level=1)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too many pixels; the limit is {most_pixels} in all") from error
    except UnidentifiedImageError as error:
        advice = f"; {_ADVICE}" if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1") and not heif else ""
        raise InputError(f"{name}: not a {NAMES} image, nor one that Pillow reads{advice}") from error
    except Exception as error:  # each of Pillow's readers has its own for damage
        raise InputError(f"{name}: damaged or truncated image") from error
    return file.getvalue()


def _has_heif() -> bool:
    """Whether Pillow reads HEIC, which it does once pillow-heif is registered."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
