"""Faster R-CNN (Ren et al. 2015) on the backbones: C4 as in He et al. 2015, appendix A, and FPN (Lin et al. 2017).

    c4   The RPN uses the output of the last stage but one. RoI align crops it to 14x14, and the last stage, with its
         stride, and average pooling process each crop.
    fpn  A pyramid has 256 channels at each stage, added from the top down, and one more level for proposals. RoI align
         crops it to 7x7, and two dense layers of 1,024 process each crop.

A network has three inputs: images, and for training the objects and the keys of the examples, since training samples
boxes around the objects. Inference ignores the last two.

The names of new layers begin with logits_, as in heads.py.
"""

import dataclasses
import math
from typing import NamedTuple

import keras
import tensorflow as tf

from resnet_tf.data import boxes, draws
from resnet_tf.errors import InputError
from resnet_tf.models import blocks, builder
from resnet_tf.models.layers import FORMAT, Layers, close
from resnet_tf.tasks import regions

ROI_VARIANCE = (0.1, 0.1, 0.2, 0.2)  # of the deltas of the box head, as in the code of Fast R-CNN
_CROPS = {"c4": 14, "fpn": 7}
OBJECT_FROM = 0.5  # smallest IoU of a positive roi with its object (Girshick 2015, section 2.3)
_RPN, _PYRAMID, _HIDDEN = 512, 256, 1024
_C4_SIZES = (128.0, 256.0, 512.0)  # Ren et al. 2015, section 3.3; for fpn 8 strides of each level, Lin et al. 2017
_RPN_STD, _CLASS_STD, _DELTA_STD = 0.01, 0.01, 0.001  # of initial weights, as in Fast and Faster R-CNN


@dataclasses.dataclass(frozen=True)
class Choices:
    """The limits and thresholds for proposals, rois and detections.

    Attributes:
        candidates: best anchors of each level, before NMS.
        proposals: proposals of an image after NMS, in training and in inference.
        proposal_nms: IoU above which NMS drops the proposal of lower score.
        rois: boxes of an image that the box head is trained on, and the largest fraction of objects among them.
        score_threshold: score above which a detection is kept.
        nms: IoU above which NMS drops the detection of lower score, within a class.
        detections: most detections of an image.
    """

    candidates: int = 2000
    proposals: tuple[int, int] = (1000, 300)
    proposal_nms: float = 0.7
    rois: tuple[int, float] = (128, 0.25)
    score_threshold: float = 0.05
    nms: float = 0.5
    detections: int = 100


class Outputs(NamedTuple):
    """The outputs of a detector; detections are first, since evaluation takes the first output of any network."""

    detections: tf.Tensor  # float32 [b, detections, boxes.PACKED], see `regions.detect`; zeros in training
    objectness: tf.Tensor  # float32 [b, anchors], logits
    anchor_deltas: tf.Tensor  # float32 [b, anchors, 4]
    rois: tf.Tensor  # float32 [b, n, 4], boxes of the head: proposals, in training a sample around the objects
    class_logits: tf.Tensor  # float32 [b * n, classes + 1], background last
    roi_deltas: tf.Tensor  # float32 [b * n, classes * 4], for each class, divided by ROI_VARIANCE
    keys: tf.Tensor  # int64 [b], the input keys


def create(
    name: str, classes: int, size: int, *, neck="c4", anchor_sizes=(), anchor_ratios=(0.5, 1.0, 2.0), most=100,
    choices: Choices | None = None, shortcut=None, graph=None, dtype="float32", **options,
) -> keras.Model:  # fmt: skip
    """Build a detector.

    Args:
        name: network of the table; the model has the same name.
        classes: number of classes, without the background.
        size: height and width of the view in pixels.
        neck: "c4" or "fpn".
        anchor_sizes: square roots of anchor areas in pixels: c4 uses all of them at each position, fpn one for each
            level; () for the papers' sizes.
        anchor_ratios: widths over heights.
        most: most objects of a view.
        choices: a `Choices`; None for the defaults.
        shortcut: see `create_model`.
        graph: see `create_model`.
        dtype: see `create_model`.
        **options: `zero_gamma`, `initializer`, `drop_path`, `sync_bn` and `seed` of `create_model`.

    Returns:
        A `keras.Model` from normalised images, float [b, size, size, 3], objects, float32 [b, most, boxes.PACKED] of
        `boxes.ImageObjects.pack`, and keys, int64 [b], to `Outputs`.

    Raises:
        InputError: an unknown name, or sizes that the network does not support.
    """
    row, choices = builder.row_of(name, shortcut, graph), choices or Choices()
    layers = Layers(keras.dtype_policies.get(dtype), **options)
    images = keras.Input((size, size, 3), dtype="float32", name="images")
    objects = keras.Input((most, boxes.PACKED), dtype="float32", name="objects")
    keys = keras.Input((), dtype="int64", name="keys")
    strides, anchors = anchors_of(name, size, neck, anchor_sizes, anchor_ratios)
    if neck == "c4":
        features = builder.grow(layers, row, images, stages=len(row.blocks) - 1)[-1:]
    else:
        features = _pyramid(layers, builder.grow(layers, row, images))
    objectness, anchor_deltas = _rpn(layers, features, len(anchors[0]) // math.ceil(size / strides[0]) ** 2)
    rois = Rois(anchors, size, choices, name="logits_regions")([objectness, anchor_deltas, objects, keys])
    pooled = features[: len(row.blocks)]  # without the extra level of the pyramid
    align = Align(strides[: len(pooled)], _CROPS[neck], dtype=layers.dtype, name="logits_align")
    x = _box_head(layers, row, neck, align([rois, *pooled]))
    class_logits = layers.dense(x, classes + 1, _CLASS_STD, name="logits_scores")
    roi_deltas = layers.dense(x, 4 * classes, _DELTA_STD, name="logits_places")
    detections = Suppression(classes, size, choices, name="logits_detections")([rois, class_logits, roi_deltas])
    outputs = Outputs(detections, objectness, anchor_deltas, rois, class_logits, roi_deltas, keys)
    return close(row, [images, objects, keys], outputs, name)


def _box_head(layers, row, neck, crops):
    """Return the features of each crop: of the last stage for c4, of two dense layers for fpn."""
    if neck == "c4":
        x = builder.grow_stage(layers, row, crops, len(row.blocks), blocks.Sampling(2))
        if row.preactivation:
            x = layers.norm_relu(x, row, name="head_bn", relu="head_relu")
        return layers.global_pool(x, name="logits_pool")
    x = keras.layers.Flatten(FORMAT, dtype=layers.dtype, name="logits_flat")(crops)
    for name in ("logits_hidden1", "logits_hidden2"):
        kernel = layers.initializer_of(name, dense=True)
        x = keras.layers.Dense(
            _HIDDEN, activation="relu", kernel_initializer=kernel, dtype=layers.dtype, name=name
        )(x)  # fmt: skip
    return x


def anchors_of(name: str, size: int, neck="c4", anchor_sizes=(), anchor_ratios=(0.5, 1.0, 2.0)) -> tuple[list, list]:
    """Return the strides of the levels, and a list over levels of anchors, see `regions.anchors`.

    For the arguments and errors see `create`.
    """
    levels = builder.levels_of(name)
    if neck == "c4":
        strides, by_level = [2 ** levels[-2]], [anchor_sizes or _C4_SIZES]
    else:
        strides = [2**level for level in (*levels, levels[-1] + 1)]
        if size % strides[-2]:
            raise InputError(f"--image_size={size}: the fpn of {name} needs a multiple of {strides[-2]}")
        if anchor_sizes and len(anchor_sizes) != len(strides):
            raise InputError(f"--anchor_sizes: {len(anchor_sizes)} sizes; the fpn of {name} has {len(strides)} levels")
        by_level = [(one,) for one in anchor_sizes or [8.0 * stride for stride in strides]]
    return strides, regions.anchors((size, size), strides, by_level, anchor_ratios)


def _rpn(layers, features, count):
    """Return objectness and deltas of the anchors of all levels, `count` at each position, with shared weights."""
    x = Slide(
        min(_RPN, features[0].shape[-1]), 3, padding="same", activation="relu", dtype=layers.dtype, name="logits_rpn",
        data_format=FORMAT, kernel_initializer=layers.initializer_of("logits_rpn"),
    )(features)  # fmt: skip
    objectness = layers.dense(x, count, _RPN_STD, name="logits_objectness")
    deltas = layers.dense(x, 4 * count, _RPN_STD, name="logits_offsets")
    objectness = keras.layers.Reshape((-1,), dtype="float32", name="logits_objectness_flat")(objectness)
    return objectness, keras.layers.Reshape((-1, 4), dtype="float32", name="logits_offsets_flat")(deltas)


def _pyramid(layers, stages):
    """Return the levels of a feature pyramid over the stages, plus one of half the size of the last."""
    sides = [
        _convolution(layers, x, _PYRAMID, 1, name=f"logits_lateral{level}") for level, x in enumerate(stages, start=1)
    ]
    for level in range(len(sides) - 2, -1, -1):
        enlarge = keras.layers.UpSampling2D(2, FORMAT, dtype=layers.dtype, name=f"logits_enlarge{level + 1}")
        above = enlarge(sides[level + 1])
        sides[level] = layers.add(sides[level], above, name=f"logits_add{level + 1}")
    levels = [
        _convolution(layers, x, _PYRAMID, 3, name=f"logits_level{level}") for level, x in enumerate(sides, start=1)
    ]
    # Pooling of size 1 keeps every second pixel.
    last = keras.layers.AveragePooling2D(1, 2, data_format=FORMAT, dtype=layers.dtype, name="logits_last")
    return [*levels, last(levels[-1])]


def _convolution(layers, x, filters, kernel, *, name):
    return keras.layers.Conv2D(
        filters, kernel, padding="same", data_format=FORMAT, dtype=layers.dtype, name=name,
        kernel_initializer=layers.initializer_of(name, dense=True),
    )(x)  # fmt: skip


class Slide(keras.layers.Conv2D):
    """One convolution over the maps of all levels; the output concatenates their positions."""

    input_spec = property(lambda self: None, lambda self, spec: None)  # that of Keras expects one map

    def build(self, input_shape):
        """Create the weights for the channels of the first map."""
        super().build(input_shape[0])

    def call(self, inputs):
        """Convolve a list of [b, height, width, channels] to [b, positions, filters]."""
        maps = [super(Slide, self).call(x) for x in inputs]
        return tf.concat([tf.reshape(x, [-1, x.shape[1] * x.shape[2], x.shape[3]]) for x in maps], axis=1)

    def compute_output_shape(self, input_shape):
        """Return the static shape of the output; `build` asks for that of one map."""
        if not isinstance(input_shape[0], tuple):
            return super().compute_output_shape(input_shape)
        return (input_shape[0][0], sum(height * width for _, height, width, _ in input_shape), self.filters)


class Rois(keras.layers.Layer):
    """The boxes for the box head: proposals; in training a sample of proposals and true boxes."""

    def __init__(self, anchors, side, choices, **kwargs):
        """Take anchors, a list over levels, the side of the view in pixels, and a `Choices`."""
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.anchors, self.side, self.choices = anchors, side, choices

    def call(self, inputs, training=None):
        """Return boxes [b, m, 4], padded with boxes without area; no gradient flows through them.

        The inputs are objectness [b, n], anchor deltas [b, n, 4], packed objects and keys.
        """
        objectness, deltas, objects, keys = inputs
        choices = self.choices
        proposals = regions.propose(
            tf.stop_gradient(objectness), tf.stop_gradient(deltas), self.anchors, self.side, choices.candidates,
            choices.proposals[0 if training else 1], choices.proposal_nms,
        )  # fmt: skip
        if not training:
            return proposals
        objects = boxes.ImageObjects.unpack(objects)
        truth = tf.where(objects.kinds[..., None] == boxes.OBJECT, objects.boxes, 0.0)
        pool = tf.concat([proposals, truth], axis=1)
        matches = regions.match(pool, objects, OBJECT_FROM, OBJECT_FROM)
        count, fraction = choices.rois
        index, is_sampled = regions.sample(matches, keys, draws.Stream.REGIONS, count, round(count * fraction))
        return tf.where(is_sampled[..., None], tf.gather(pool, index, batch_dims=1), 0.0)

    def compute_output_shape(self, input_shape):
        """Return the static shape of the output."""
        return (input_shape[0][0], None, 4)


class Align(keras.layers.Layer):
    """A layer of RoI align; see `regions.align`."""

    def __init__(self, strides, size, **kwargs):
        """Take the strides of the levels, and the bins along each axis."""
        super().__init__(autocast=False, **kwargs)
        self.strides, self.size = strides, size

    def call(self, inputs):
        """Crop the maps of the levels to boxes [b, n, 4], giving [b * n, size, size, channels]."""
        rois, *features = inputs
        crops = regions.align(features, self.strides, rois, self.size)
        return tf.reshape(crops, [-1, *crops.shape[2:]])

    def compute_output_shape(self, input_shape):
        """Return the static shape of the output."""
        return (None, self.size, self.size, input_shape[1][-1])


class Suppression(keras.layers.Layer):
    """The detections after NMS; zeros in training."""

    def __init__(self, classes, side, choices, **kwargs):
        """Take the number of classes, the side of the view in pixels, and a `Choices`."""
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.classes, self.side, self.choices = classes, side, choices

    def call(self, inputs, training=None):
        """Turn boxes [b, n, 4], class logits [b * n, classes + 1] and deltas [b * n, 4 * classes] into detections."""
        rois, class_logits, deltas = inputs
        choices, count = self.choices, rois.shape[1]
        if training:
            return tf.zeros([tf.shape(rois)[0], choices.detections, boxes.PACKED])
        scores = tf.nn.softmax(tf.reshape(class_logits, [-1, count, self.classes + 1]))[..., :-1]
        scores = tf.where(regions.area(rois)[..., None] > 0, scores, 0.0)
        deltas = tf.reshape(deltas, [-1, count, self.classes, 4])
        decoded = regions.decode(deltas, rois[:, :, None], self.side, ROI_VARIANCE)
        return regions.detect(decoded, scores, choices.score_threshold, choices.nms, choices.detections)

    def compute_output_shape(self, input_shape):
        """Return the static shape of the output."""
        return (input_shape[0][0], self.choices.detections, boxes.PACKED)
