"""Orientation tags (EXIF, 0x0112): which way up an image is meant to be, and turning it so, inside a graph.

A camera that is held sideways stores the pixels as its sensor has them and says in a tag how they are to be turned.
Everything here is TensorFlow's operations, so that an exported model does the same without Python. The tag is read
where JPEG (segment APP1), PNG (chunk eXIf) and WebP (chunk EXIF) have it, in both byte orders; a tag in XMP, or in the
text chunks that some programs write into PNG, is not. BMP and GIF have none. A damaged tag counts as none.
"""

import numpy as np
import tensorflow as tf

_HEAD = 16  # bytes that tell what a segment or chunk is, and how long
_MOST_PARTS = 10_000  # of an image that are looked through
_LARGEST = 2**16  # bytes of EXIF that are looked at, as many as a segment of a JPEG has


def rare(*signature):
    """Return a decorator for what a graph does seldom: it becomes a function of its own, traced once a process.

    TensorFlow visits every operation of a branch that it does not take, at a microsecond or so each, unless they are
    in a function that it leaves as it is.
    """
    return tf.function(input_signature=signature, autograph=False, experimental_attributes={"_noinline": True})


def of(data):
    """The orientation that the tag of an encoded image says: int32 scalar, 1 (upright, or no tag) to 8.

    Args:
        data: scalar string, an encoded image of any format.
    """
    return _find(data)[1]


def of_jpeg(data):
    """The same of what is known to be a JPEG, in a fifth of the time."""
    return tf.cond(_may_have(data, _BEFORE[_JPEG]), lambda: _found(data, _JPEG)[1], lambda: 1)


def upright_sides(sides, orientation):
    """Height and width of the upright image, from those of the stored one: int32 [2]."""
    return tf.where(_swaps(orientation), sides[::-1], sides)


def upright(pixels, orientation):
    """Turn stored pixels.

    Args:
        pixels: uint8 [height, width, 3], of a whole image or of a part of it.
        orientation: int32 scalar, 1 to 8.

    Returns:
        uint8 [height, width, 3], or [width, height, 3]: the same pixels upright.
    """
    return tf.ensure_shape(
        tf.cond(orientation > 1, lambda: _turned(pixels, orientation), lambda: pixels), [None, None, 3]
    )


@rare(tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int32))
def _turned(pixels, orientation):
    turned = tf.cond(_swaps(orientation), lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    return tf.reverse(turned, tf.boolean_mask([0, 1], _flips(orientation)))


def stored_box(box, sides, orientation):
    """Where a box of the upright image lies in the stored one.

    Args:
        box: int32 [4], top, left, height and width in pixels of the upright image.
        sides: int32 [2], height and width of the upright image.
        orientation: int32 scalar, 1 to 8.

    Returns:
        int32 [4], the same in the stored image.
    """
    return tf.cond(orientation > 1, lambda: _stored_box(box, sides, orientation), lambda: box)


@rare(tf.TensorSpec([4], tf.int32), tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.int32))
def _stored_box(box, sides, orientation):
    start = tf.where(_flips(orientation), sides - box[:2] - box[2:], box[:2])
    swapped = _swaps(orientation)
    return tf.concat([tf.where(swapped, start[::-1], start), tf.where(swapped, box[:1:-1], box[2:])], axis=0)


def ignored(data):
    """An encoded image whose tag, if it has one, says that it is upright; scalar string.

    Args:
        data: scalar string.
    """
    where, _, start = _find(data)

    def around(first, new, last):
        last = tf.minimum(last, tf.strings.length(data))
        return tf.strings.join([tf.strings.substr(data, 0, first), new, tf.strings.substr(data, last, -1)])

    def without():
        # A chunk of a PNG ends in its checksum: it is taken out whole.
        size = tf.cast(_number(_bytes(data, start - 8, 4), False), tf.int32)
        return tf.cond(
            _is_png(data), lambda: around(start - 8, b"", start + size + 4), lambda: around(where, b"\1", where + 1)
        )

    return tf.cond(where > 0, without, lambda: data)


def treated(exif):
    """Return function(scalar string) -> scalar string, what of an encoded image is to be decoded.

    Args:
        exif: "apply": all; decoding turns the image as the tag says. "ignore": the image is taken as it is stored.
    """
    return {"apply": lambda data: data, "ignore": ignored}[exif]


def advice(data):
    """What an error adds of an encoded image, bytes, that does not fit its annotation: "" where no tag turns it."""
    return "; its orientation tag turns it, which --exif=ignore does not" if of(tf.constant(data)) > 1 else ""


def _swaps(orientation):
    """Whether rows of the upright image are columns of the stored one."""
    return orientation >= 5


def _flips(orientation):
    """Bool [2]: whether rows, and columns, are in reverse, after rows and columns have been swapped."""
    return tf.stack([tf.reduce_any(orientation == [3, 4, 7, 8]), tf.reduce_any(orientation == [2, 3, 6, 7])])


# --- Finding the tag -------------------------------------------------------------------------------------------------

_JPEG, _PNG, _WEBP = range(3)
_PNG_BEGINS = b"\x89PNG\r\n\x1a\n"
_BEFORE = (b"Exif\0\0", b"eXIf", b"EXIF")  # what stands before the EXIF of each
_FIRST_PART = (2, 8, 12)  # where segments or chunks begin


def _find(data):
    """Which byte holds the orientation, which it is, 2 to 8, and where EXIF begins; 0, 1, 0 where none turns."""

    def starts(kind, at=0):
        return tf.equal(tf.strings.substr(data, tf.minimum(at, tf.strings.length(data)), len(kind)), kind)

    found = tf.stack([tf.io.is_jpeg(data), _is_png(data), starts(b"RIFF") & starts(b"WEBP", 8)])
    kind = tf.argmax(found, output_type=tf.int32)
    there = tf.reduce_any(found) & _may_have(data, tf.gather(list(_BEFORE), kind))
    return tf.cond(there, lambda: _found(data, kind), lambda: (tf.constant(0), tf.constant(1), tf.constant(0)))


def _may_have(data, text):
    """Whether some text is anywhere in an image: most have no EXIF, and this takes a tenth of what a walk takes."""
    return tf.size(tf.raw_ops.StringSplitV2(input=[data], sep=text, maxsplit=1).values) > 1


@rare(tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32))
def _found(data, kind):
    """What `_find` returns of an image that may have EXIF."""
    return _read(data, _walk(data, kind))


def _is_png(data):
    return tf.equal(tf.strings.substr(data, 0, len(_PNG_BEGINS)), _PNG_BEGINS)


def _bytes(data, at, count):
    """int32 [count], bytes of a string from `at` on, zeros after its end."""
    part = tf.strings.substr(data, tf.minimum(at, tf.strings.length(data)), count)
    values = tf.io.decode_raw(tf.strings.join([part, b"\0" * count]), tf.uint8)[:count]
    return tf.cast(tf.ensure_shape(values, [count]), tf.int32)


def _number(values, little):
    """int64, the number that some bytes are, in either order."""
    places = 256 ** np.arange(values.shape[0])
    return tf.tensordot(tf.cast(values, tf.int64), tf.where(little, places, places[::-1]), 1)


def _walk(data, kind):
    """Position where EXIF begins, of the segments or chunks of an image; 0 where none of them holds it."""
    length = tf.cast(tf.strings.length(data), tf.int64)

    def body(at, found, _):
        hit, inside, size, last = _part(_bytes(data, tf.cast(at, tf.int32), _HEAD), kind)
        return at + size, tf.where(hit, at + inside, 0), ~hit & ~last & (at + size < length)

    start = (tf.gather(tf.constant(_FIRST_PART, tf.int64), kind), tf.constant(0, tf.int64), tf.constant(True))
    # No more parts than that: what is made to have very many must not keep a server busy.
    found = tf.while_loop(lambda at, found, more: more, body, start, maximum_iterations=_MOST_PARTS)[1]
    return tf.cast(found, tf.int32)


def _part(head, kind):
    """Of a segment or chunk, from its first bytes: whether it is EXIF, where in it that begins, its size, is it last.

    The last one is that after which there can be no EXIF. A segment of a JPEG may have bytes of 255 before it.
    """

    def same(start, text):
        return tf.reduce_all(head[start : start + len(text)] == list(text))

    def of_kind(*values):
        return tf.gather(tf.stack(values), kind)

    filling = head[1] == 255
    twice = same(8, b"Exif\0\0")  # as some programs write it into WebP
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
    """What `_find` returns, of EXIF that begins at `start`, a TIFF header and directories of entries of 12 bytes."""
    head = _bytes(data, start, 8)
    little = head[0] == ord("I")
    whole = tf.reduce_all(head[:4] == tf.where(little, list(b"II*\0"), list(b"MM\0*")))
    directory = tf.cast(tf.minimum(_number(head[4:8], little), _LARGEST), tf.int32)
    first = start + directory + 2
    count = tf.cast(_number(_bytes(data, first - 2, 2), little), tf.int32)
    part = tf.strings.substr(data, tf.minimum(first, tf.strings.length(data)), tf.minimum(12 * count, _LARGEST))
    entries = tf.cast(tf.io.decode_raw(part, tf.uint8), tf.int32)
    entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], [-1, 12])
    entries = tf.concat([entries, tf.zeros([1, 12], tf.int32)], axis=0)  # so that there is one
    tag = tf.where(little, [0x12, 1], [1, 0x12])  # 0x0112
    one = tf.argmax(tf.reduce_all(entries[:, :2] == tag, axis=1), output_type=tf.int32)  # the first, if none is
    entry = entries[one]
    kind = _number(entry[2:4], little)
    value = tf.where(kind == 4, _number(entry[8:12], little), _number(entry[8:10], little))  # of 32 bits or of 16
    good = (start > 0) & whole & tf.reduce_all(entry[:2] == tag) & ((kind == 3) | (kind == 4))
    good &= (value >= 2) & (value <= 8)
    place = first + 12 * one + tf.where(little, 8, tf.where(kind == 4, 11, 9))
    return tuple(tf.where(good, *pair) for pair in ((place, 0), (tf.cast(value, tf.int32), 1), (start, 0)))
