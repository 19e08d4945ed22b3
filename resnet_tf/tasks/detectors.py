"""Faster R-CNN (Ren et al. 2015) on the backbones: C4 as in He et al. 2015, appendix A, and FPN (Lin et al. 2017).

    c4   all stages but the last are shared; boxes of their output, RoI aligned to 14x14, go through the last stage,
         its stride and all, and are averaged
    fpn  256 channels at each stage, added from the top down, and one level more for proposals; boxes, RoI aligned to
         7x7, go through two layers of 1,024

A network has three inputs: images, and for training the objects and the keys of the examples, since the boxes that it
learns from are drawn around the truth. In inference the last two are not looked at.

What is new of a network has names that begin with logits_, as in heads.py.
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

ROI_VARIANCE = (0.1, 0.1, 0.2, 0.2)  # of the box head's deltas, as in Fast R-CNN's code
_CROPS = {"c4": 14, "fpn": 7}
OBJECT_FROM = 0.5  # IoU with an object from which on a box is one (Girshick 2015, section 2.3)
_RPN, _PYRAMID, _HIDDEN = 512, 256, 1024
_C4_SIZES = (128.0, 256.0, 512.0)  # Ren et al. 2015, section 3.3; of a pyramid 8 strides of each level, Lin et al. 2017
_RPN_STD, _CLASS_STD, _DELTA_STD = 0.01, 0.01, 0.001  # of initial weights, as in Fast and Faster R-CNN


@dataclasses.dataclass(frozen=True)
class Choices:
    """How boxes are chosen.

    Attributes:
        candidates: anchors of each level that proposals are made of, before suppression.
        proposals: that are left in training, and in inference.
        proposal_nms: IoU above which the proposal of lower score is suppressed.
        rois: boxes of an image that the box head learns from, and the part of them that is objects.
        score_threshold: score above which a detection is kept.
        nms: IoU above which the detection of lower score is suppressed, class by class.
        detections: of an image.
    """

    candidates: int = 2000
    proposals: tuple[int, int] = (1000, 300)
    proposal_nms: float = 0.7
    rois: tuple[int, float] = (128, 0.25)
    score_threshold: float = 0.05
    nms: float = 0.5
    detections: int = 100


class Outputs(NamedTuple):
    """What a detector returns. Detections come first, since evaluation takes the first output of any network."""

    detections: tf.Tensor  # float32 [b, detections, boxes.PACKED], see `regions.detect`; zeros in training
    objectness: tf.Tensor  # float32 [b, anchors], logits
    anchor_deltas: tf.Tensor  # float32 [b, anchors, 4]
    rois: tf.Tensor  # float32 [b, n, 4], the boxes that the head has looked at; in training sampled around the truth
    class_logits: tf.Tensor  # float32 [b * n, classes + 1], of the background last
    roi_deltas: tf.Tensor  # float32 [b * n, classes * 4], for each class, over ROI_VARIANCE
    keys: tf.Tensor  # int64 [b], as they came in


def create(
    name,
    classes,
    size,
    *,
    neck="c4",
    anchor_sizes=(),
    anchor_ratios=(0.5, 1.0, 2.0),
    most=100,
    choices=None,
    shortcut=None,
    graph=None,
    zero_gamma=False,
    initializer="he",
    sync_bn=False,
    dtype="float32",
    seed=0,
):
    """Build a detector.

    Args:
        name: of a network of the table; the model has this name too.
        classes: how many, without the background.
        size: height and width of the view in pixels.
        neck: "c4" or "fpn".
        anchor_sizes: square roots of areas in pixels: all of them at every place of c4, one for each level of fpn; ()
            for the papers'.
        anchor_ratios: widths over heights.
        most: objects of each view at most.
        choices: a `Choices`; None for the defaults.
        shortcut: as for `create_model`.
        graph: as for `create_model`.
        zero_gamma: as for `create_model`.
        initializer: as for `create_model`.
        sync_bn: as for `create_model`.
        dtype: as for `create_model`.
        seed: as for `create_model`.

    Returns:
        A `keras.Model` from normalised images, float [b, size, size, 3], objects, float32 [b, most, boxes.PACKED] as
        `boxes.ImageObjects.pack` makes them, and keys, int64 [b], to `Outputs`.

    Raises:
        InputError: an unknown name, or sizes that it cannot have.
    """
    row, choices = builder.row_of(name, shortcut, graph), choices or Choices()
    layers = Layers(keras.dtype_policies.get(dtype), sync_bn, zero_gamma, initializer, seed)
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
    pooled = features[: len(row.blocks)]  # all but the pyramid's last
    align = Align(strides[: len(pooled)], _CROPS[neck], dtype=layers.dtype, name="logits_align")
    crops = align([rois, *pooled])
    if neck == "c4":
        x = builder.grow_stage(layers, row, crops, len(row.blocks), blocks.Sampling(2))
        if row.preactivation:
            x = layers.relu(layers.norm(x, name="head_bn"), name="head_relu")
        x = layers.global_pool(x, name="logits_pool")
    else:
        x = keras.layers.Flatten(FORMAT, dtype=layers.dtype, name="logits_flat")(crops)
        for number in (1, 2):
            x = _hidden(layers, x, name=f"logits_hidden{number}")
    class_logits = layers.dense(x, classes + 1, _CLASS_STD, name="logits_scores")
    roi_deltas = layers.dense(x, 4 * classes, _DELTA_STD, name="logits_places")
    detections = Suppression(classes, size, choices, name="logits_detections")([rois, class_logits, roi_deltas])
    outputs = Outputs(detections, objectness, anchor_deltas, rois, class_logits, roi_deltas, keys)
    return close(row, [images, objects, keys], outputs, name)


def anchors_of(name, size, neck="c4", sizes=(), ratios=(0.5, 1.0, 2.0)):
    """Where a detector looks.

    Args:
        name: of a network of the table.
        size: height and width of the view in pixels.
        neck: see `create`.
        sizes: `anchor_sizes` of `create`.
        ratios: `anchor_ratios` of `create`.

    Returns:
        Strides of the levels; list over levels of the anchors, see `regions.anchors`.

    Raises:
        InputError: as `create`.
    """
    levels = builder.levels_of(name)
    if neck == "c4":
        strides, by_level = [2 ** levels[-2]], [sizes or _C4_SIZES]
    else:
        strides = [2**level for level in (*levels, levels[-1] + 1)]
        if size % strides[-2]:
            raise InputError(f"--image_size={size}: the fpn of {name} needs a multiple of {strides[-2]}")
        if sizes and len(sizes) != len(strides):
            raise InputError(f"--anchor_sizes: {len(sizes)} of them; the fpn of {name} has {len(strides)} levels")
        by_level = [(one,) for one in sizes or [8.0 * stride for stride in strides]]
    return strides, regions.anchors((size, size), strides, by_level, ratios)


def _rpn(layers, features, count):
    """Objectness and deltas of the anchors of all levels, `count` at each place, by the same three convolutions."""
    x = Slide(
        min(_RPN, features[0].shape[-1]), 3, padding="same", activation="relu", dtype=layers.dtype, name="logits_rpn",
        data_format=FORMAT, kernel_initializer=layers.initializer_of("logits_rpn"),
    )(features)  # fmt: skip
    objectness = layers.dense(x, count, _RPN_STD, name="logits_objectness")
    deltas = layers.dense(x, 4 * count, _RPN_STD, name="logits_offsets")
    return (
        keras.layers.Reshape((-1,), dtype="float32", name="logits_objectness_flat")(objectness),
        keras.layers.Reshape((-1, 4), dtype="float32", name="logits_offsets_flat")(deltas),
    )


def _pyramid(layers, stages):
    """From the stages' outputs to levels of one width, each half the size of the one before, and one more."""
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
    # Every second pixel.
    last = keras.layers.AveragePooling2D(1, 2, data_format=FORMAT, dtype=layers.dtype, name="logits_last")
    return [*levels, last(levels[-1])]


def _convolution(layers, x, filters, kernel, *, name):
    """With a bias, without batch normalisation, and no ReLU after it."""
    return keras.layers.Conv2D(
        filters, kernel, padding="same", data_format=FORMAT, dtype=layers.dtype, name=name,
        kernel_initializer=layers.initializer_of(name, dense=True),
    )(x)  # fmt: skip


def _hidden(layers, x, name):
    return keras.layers.Dense(
        _HIDDEN, activation="relu", kernel_initializer=layers.initializer_of(name, dense=True), dtype=layers.dtype,
        name=name,
    )(x)  # fmt: skip


class Slide(keras.layers.Conv2D):
    """One convolution over the maps of all levels, whose places then stand one after another."""

    input_spec = property(lambda self: None, lambda self, spec: None)  # Keras' asks for one map

    def build(self, input_shape):
        """Weights as of the first map."""
        super().build(input_shape[0])

    def call(self, inputs):
        """List of [b, height, width, channels] to [b, places, filters]."""
        maps = [super(Slide, self).call(x) for x in inputs]
        return tf.concat([tf.reshape(x, [-1, x.shape[1] * x.shape[2], x.shape[3]]) for x in maps], axis=1)

    def compute_output_shape(self, input_shape):
        """Static shape of the output; of one map where `build` asks."""
        if not isinstance(input_shape[0], tuple):
            return super().compute_output_shape(input_shape)
        return (input_shape[0][0], sum(height * width for _, height, width, _ in input_shape), self.filters)


class Rois(keras.layers.Layer):
    """The boxes that the head looks at: proposals; in training a sample of them and of the objects themselves."""

    def __init__(self, anchors, side, choices, **kwargs):
        """Args: anchors, list over levels; side of the view; a `Choices`."""
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.anchors, self.side, self.choices = anchors, side, choices

    def call(self, inputs, training=None):
        """Objectness [b, n], anchor deltas, packed objects and keys to boxes [b, m, 4], without gradient.

        Boxes without area stand where there are not so many.
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
        count, part = choices.rois
        index, there = regions.sample(matches, keys, draws.Stream.REGIONS, count, round(count * part))
        return tf.where(there[..., None], tf.gather(pool, index, batch_dims=1), 0.0)

    def compute_output_shape(self, input_shape):
        """Static shape of the output."""
        return (input_shape[0][0], None, 4)


class Align(keras.layers.Layer):
    """RoI align; see `regions.align`."""

    def __init__(self, strides, size, **kwargs):
        """Args: strides of the levels; bins of each side."""
        super().__init__(autocast=False, **kwargs)
        self.strides, self.size = strides, size

    def call(self, inputs):
        """Boxes [b, n, 4] and the maps of the levels to crops [b * n, size, size, channels]."""
        rois, *features = inputs
        crops = regions.align(features, self.strides, rois, self.size)
        return tf.reshape(crops, [-1, *crops.shape[2:]])

    def compute_output_shape(self, input_shape):
        """Static shape of the output."""
        return (None, self.size, self.size, input_shape[1][-1])


class Suppression(keras.layers.Layer):
    """What is found, after boxes that overlap are suppressed; nothing in training."""

    def __init__(self, classes, side, choices, **kwargs):
        """Args: how many classes; side of the view; a `Choices`."""
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.classes, self.side, self.choices = classes, side, choices

    def call(self, inputs, training=None):
        """Boxes [b, n, 4], class logits [b * n, classes + 1] and deltas [b * n, 4 * classes] to packed detections."""
        rois, class_logits, deltas = inputs
        choices, count = self.choices, rois.shape[1]
        if training:
            return tf.zeros([tf.shape(rois)[0], choices.detections, boxes.PACKED])
        scores = tf.nn.softmax(tf.reshape(class_logits, [-1, count, self.classes + 1]))[..., :-1]
        scores = tf.where(regions.area(rois)[..., None] > 0, scores, 0.0)
        deltas = tf.reshape(deltas, [-1, count, self.classes, 4])
        found = regions.decode(deltas, rois[:, :, None], self.side, ROI_VARIANCE)
        return regions.detect(found, scores, choices.score_threshold, choices.nms, choices.detections)

    def compute_output_shape(self, input_shape):
        """Static shape of the output."""
        return (input_shape[0][0], self.choices.detections, boxes.PACKED)
