"""Image formats: those that TensorFlow reads, and those that Pillow reads and converts to PNG.

The suffix of a file tells whether it is an image, its first bytes tell how to decode it. Pillow needs Python and about
ten times as long, so pipelines use it only for files with certain suffixes. Exported models have no Python and accept
only the formats that TensorFlow reads.
"""

import io
from collections.abc import Iterable

import numpy as np

from resnet_tf.errors import InputError

NAMES = "JPEG, PNG, BMP, GIF or WebP"  # the formats that TensorFlow reads, in words
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".webp")
PILLOW_SUFFIXES = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm")
ALL_SUFFIXES = SUFFIXES + PILLOW_SUFFIXES
_PILLOW = ("TIFF", "HEIF", "AVIF", "JPEG2000", "PPM")  # Pillow's names of these formats
_HEIF = (".heic", ".heif")
_ADVICE = "to read HEIC, pip install 'resnet_tf[heic]' (pillow-heif)"


def is_webp(data: bytes) -> bool:
    """Return whether an image is a WebP, by its first bytes."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def is_known(data: bytes) -> bool:
    """Return whether an image has a format that TensorFlow reads, by its first bytes."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a")) or is_webp(data)


def is_image(name: str) -> bool:
    """Return whether a file is a readable image, by its suffix in upper or lower case."""
    return name.lower().endswith(ALL_SUFFIXES)


def by_pillow(names: Iterable[str]) -> np.ndarray:
    """Return which files may need Pillow, by their suffixes: bool [n]."""
    return np.array([name.lower().endswith(PILLOW_SUFFIXES) for name in names], bool)


def check_readable(names: Iterable[str], where: str) -> None:
    """Refuse HEIC files if pillow-heif is not installed.

    Args:
        names: names of files.
        where: name of their folder or archive in the error.

    Raises:
        InputError: there are HEIC files, and pillow-heif is not installed; says how many and names the first one.
    """
    heic = [name for name in names if name.lower().endswith(_HEIF)]
    if heic and not _has_heif():
        raise InputError(f"{where}: {len(heic)} HEIC images, such as {heic[0]}: {_ADVICE}")


def as_png(data: bytes, name: str, most_pixels: int) -> bytes:
    """Convert a TIFF, HEIC, AVIF, JPEG 2000 or PPM, which only Pillow reads, to PNG.

    Args:
        data: the encoded image; the first one of several pages or frames is used.
        name: name of the image in errors.
        most_pixels: largest allowed number of pixels.

    Returns:
        A PNG of 8-bit RGB: grey becomes RGB, alpha is dropped, 16-bit samples are reduced to their high byte. The image
        is always turned upright, since these formats define their orientation, independently of --exif.

    Raises:
        InputError: Pillow cannot read the image, or it is damaged, too large, or has samples of another size.
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
    except Exception as error:  # each of Pillow's readers has its own exceptions for damaged data
        raise InputError(f"{name}: damaged or truncated image") from error
    return file.getvalue()


def _has_heif() -> bool:
    """Register pillow-heif with Pillow and return whether it is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
