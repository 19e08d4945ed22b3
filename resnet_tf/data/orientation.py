"""Read orientation tags (EXIF, 0x0112) and turn images upright, inside a graph.

A camera that is held sideways stores the pixels as its sensor sees them, and a tag that says how to turn them. The
functions here use TensorFlow operations only, so that an exported model does the same without Python.

The tag is read from JPEG (segment APP1), PNG (chunk eXIf) and WebP (chunk EXIF), in both byte orders. A tag in XMP or
in a text chunk of a PNG is not read. BMP and GIF have no tag. A damaged tag is ignored.
"""

import numpy as np
import tensorflow as tf

_TAG, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # the tag, and its values that swap height and width
_HEAD = 16  # bytes at the beginning of a segment or chunk that tell its kind and length
_MOST_PARTS = 10_000  # segments or chunks of an image that are searched
_LARGEST = 2**16  # bytes of EXIF that are searched, the size of a JPEG segment


def rare(*signature):
    """Return a decorator for rarely executed parts of a graph, which makes them a function that is not inlined.

    TensorFlow visits each operation in a branch that is not taken, which costs about a microsecond, unless it is inside
    such a function.
    """
    return tf.function(input_signature=signature, autograph=False, experimental_attributes={"_noinline": True})


def of(data: tf.Tensor) -> tf.Tensor:
    """Return the orientation of an encoded image according to its tag: int32 scalar, 1 (upright, or no tag) to 8.

    Args:
        data: scalar string, an encoded image of any format.
    """
    return _find(data)[1]


def of_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Return the orientation of a JPEG, like `of` but five times as fast."""
    return tf.cond(_may_have(data, _BEFORE[_JPEG]), lambda: _search(data, _JPEG)[1], lambda: 1)


def upright_sides(sides: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Return height and width of the upright image, int32 [2], given those of the stored image."""
    return tf.where(_swaps(orientation), sides[::-1], sides)


def upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn stored pixels upright.

    Args:
        pixels: uint8 [height, width, 3], an image or a part of it.
        orientation: int32 scalar, 1 to 8.

    Returns:
        uint8 [height, width, 3], or [width, height, 3].
    """
    return tf.ensure_shape(
        tf.cond(orientation > 1, lambda: _turned(pixels, orientation), lambda: pixels), [None, None, 3]
    )


@rare(tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int32))
def _turned(pixels, orientation):
    turned = tf.cond(_swaps(orientation), lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    return tf.reverse(turned, tf.boolean_mask([0, 1], _flips(orientation)))


def stored_box(box: tf.Tensor, sides: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Convert a box from the upright image to the stored image: int32 [4].

    Args:
        box: int32 [4], top, left, height and width in pixels of the upright image.
        sides: int32 [2], height and width of the upright image.
        orientation: int32 scalar, 1 to 8.
    """
    return tf.cond(orientation > 1, lambda: _stored_box(box, sides, orientation), lambda: box)


@rare(tf.TensorSpec([4], tf.int32), tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.int32))
def _stored_box(box, sides, orientation):
    start = tf.where(_flips(orientation), sides - box[:2] - box[2:], box[:2])
    swapped = _swaps(orientation)
    return tf.concat([tf.where(swapped, start[::-1], start), tf.where(swapped, box[:1:-1], box[2:])], axis=0)


def ignored(data: tf.Tensor) -> tf.Tensor:
    """Return an encoded image without its orientation tag, if it has one; both are scalar strings."""
    position, _, start = _find(data)

    def replace(first, new, last):
        last = tf.minimum(last, tf.strings.length(data))
        return tf.strings.join([tf.strings.substr(data, 0, first), new, tf.strings.substr(data, last, -1)])

    def without():
        # A chunk of a PNG has a checksum, so the whole chunk is removed. In other formats the tag becomes 1.
        size = tf.cast(_number(_bytes(data, start - 8, 4), False), tf.int32)
        return tf.cond(
            _is_png(data),
            lambda: replace(start - 8, b"", start + size + 4),
            lambda: replace(position, b"\1", position + 1),
        )

    return tf.cond(position > 0, without, lambda: data)


def treated(exif: str):
    """Return function(encoded image) -> encoded image to decode, both scalar strings.

    Args:
        exif: "apply" keeps the tag, so that decoding turns the image; "ignore" removes it.
    """
    return {"apply": lambda data: data, "ignore": ignored}[exif]


def is_sideways(image) -> bool:
    """Return whether the orientation tag of a `PIL.Image.Image` swaps height and width."""
    return image.getexif().get(_TAG) in _SIDEWAYS


def advice(data: bytes) -> str:
    """Return a hint for an image that does not fit its annotation; "" if it has no orientation tag."""
    return "; its orientation tag turns it, --exif=ignore ignores the tag" if of(tf.constant(data)) > 1 else ""


def _swaps(orientation):
    """Return whether rows of the upright image are columns of the stored image."""
    return orientation >= 5


def _flips(orientation):
    """Return bool [2]: whether rows and columns are reversed, after rows and columns have been swapped."""
    return tf.stack([tf.reduce_any(orientation == [3, 4, 7, 8]), tf.reduce_any(orientation == [2, 3, 6, 7])])


# --- Finding the tag -------------------------------------------------------------------------------------------------

_JPEG, _PNG, _WEBP = range(3)
_PNG_BEGINS = b"\x89PNG\r\n\x1a\n"
_BEFORE = (b"Exif\0\0", b"eXIf", b"EXIF")  # the bytes before EXIF in each format
_FIRST_PART = (2, 8, 12)  # position of the first segment or chunk in each format


def _find(data):
    """Return the position of the orientation, its value 2 to 8, and the position of EXIF; 0, 1, 0 if there is none."""

    def starts(kind, position=0):
        return tf.equal(tf.strings.substr(data, tf.minimum(position, tf.strings.length(data)), len(kind)), kind)

    is_kind = tf.stack([tf.io.is_jpeg(data), _is_png(data), starts(b"RIFF") & starts(b"WEBP", 8)])
    kind = tf.argmax(is_kind, output_type=tf.int32)
    may_have = tf.reduce_any(is_kind) & _may_have(data, tf.gather(list(_BEFORE), kind))
    return tf.cond(may_have, lambda: _search(data, kind), lambda: (tf.constant(0), tf.constant(1), tf.constant(0)))


def _may_have(data, text):
    """Return whether a text occurs in an image; most images have no EXIF, and this is ten times faster than `_walk`."""
    return tf.size(tf.raw_ops.StringSplitV2(input=[data], sep=text, maxsplit=1).values) > 1


@rare(tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32))
def _search(data, kind):
    """Return the result of `_find` for an image that may have EXIF."""
    return _read(data, _walk(data, kind))


def _is_png(data):
    return tf.equal(tf.strings.substr(data, 0, len(_PNG_BEGINS)), _PNG_BEGINS)


def _bytes(data, start, count):
    """Return the bytes of a string from `start`, with zeros after its end: int32 [count]."""
    part = tf.strings.substr(data, tf.minimum(start, tf.strings.length(data)), count)
    values = tf.io.decode_raw(tf.strings.join([part, b"\0" * count]), tf.uint8)[:count]
    return tf.cast(tf.ensure_shape(values, [count]), tf.int32)


def _number(values, little):
    """Return the number that some bytes encode, little- or big-endian: int64."""
    powers = 256 ** np.arange(values.shape[0])
    return tf.tensordot(tf.cast(values, tf.int64), tf.where(little, powers, powers[::-1]), 1)


def _walk(data, kind):
    """Go through the segments or chunks of an image and return the position of EXIF; 0 if there is none."""
    length = tf.cast(tf.strings.length(data), tf.int64)

    def body(position, exif, _):
        is_exif, inside, size, is_last = _part(_bytes(data, tf.cast(position, tf.int32), _HEAD), kind)
        end = position + size
        return end, tf.where(is_exif, position + inside, 0), ~is_exif & ~is_last & (end < length)

    start = (tf.gather(tf.constant(_FIRST_PART, tf.int64), kind), tf.constant(0, tf.int64), tf.constant(True))
    # The limit keeps a hostile image with very many parts from blocking a server.
    exif = tf.while_loop(lambda position, exif, more: more, body, start, maximum_iterations=_MOST_PARTS)[1]
    return tf.cast(exif, tf.int32)


def _part(head, kind):
    """Parse the first bytes of a segment or chunk.

    Returns:
        Whether it is EXIF, the position of EXIF inside it, its size, and whether no EXIF can follow it.
    """

    def same(start, text):
        return tf.reduce_all(head[start : start + len(text)] == list(text))

    def of_kind(*values):
        return tf.gather(tf.stack(values), kind)

    filling = head[1] == 255  # a JPEG may have bytes of 255 before a segment
    twice = same(8, b"Exif\0\0")  # some programs repeat the marker in WebP
    chunk = _number(head[4:8], True)
    hit = of_kind((head[1] == 0xE1) & same(4, b"Exif\0\0"), same(4, b"eXIf"), same(0, b"EXIF"))
    inside = of_kind(10, 8, tf.where(twice, 14, 8))
    size = of_kind(
        tf.where(filling, tf.constant(1, tf.int64), 2 + _number(head[2:4], False)),
        12 + _number(head[:4], False),
        8 + chunk + chunk % 2,
    )
    last = of_kind((head[0] != 255) | (head[1] == 0xDA), same(4, b"IEND"), False)
    return hit, tf.cast(inside, tf.int64), size, last


def _read(data, start):
    """Read the result of `_find` from EXIF at `start`: a TIFF header and directories with entries of 12 bytes."""
    head = _bytes(data, start, 8)
    little = head[0] == ord("I")
    whole = tf.reduce_all(head[:4] == tf.where(little, list(b"II*\0"), list(b"MM\0*")))
    directory = tf.cast(tf.minimum(_number(head[4:8], little), _LARGEST), tf.int32)
    first = start + directory + 2
    count = tf.cast(_number(_bytes(data, first - 2, 2), little), tf.int32)
    part = tf.strings.substr(data, tf.minimum(first, tf.strings.length(data)), tf.minimum(12 * count, _LARGEST))
    entries = tf.cast(tf.io.decode_raw(part, tf.uint8), tf.int32)
    entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], [-1, 12])
    entries = tf.concat([entries, tf.zeros([1, 12], tf.int32)], axis=0)  # so that there is at least one entry
    tag = tf.where(little, [0x12, 1], [1, 0x12])  # 0x0112
    index = tf.argmax(tf.reduce_all(entries[:, :2] == tag, axis=1), output_type=tf.int32)  # 0 if there is no such tag
    entry = entries[index]
    kind = _number(entry[2:4], little)
    value = tf.where(kind == 4, _number(entry[8:12], little), _number(entry[8:10], little))  # 32 or 16 bits
    good = (start > 0) & whole & tf.reduce_all(entry[:2] == tag) & ((kind == 3) | (kind == 4))
    good &= (value >= 2) & (value <= 8)
    position = first + 12 * index + tf.where(little, 8, tf.where(kind == 4, 11, 9))
    return tuple(tf.where(good, *pair) for pair in ((position, 0), (tf.cast(value, tf.int32), 1), (start, 0)))
