"""A network for inference with its weights as constants: compiled by XLA on GPUs, run by oneDNN on CPUs.

A graph whose weights are variables converts them to the precision and the memory layout of its kernels in every call.
With constants this is done once. XLA compiles for one shape of batch, which takes seconds; batches are therefore padded
to the next of a few declared sizes.

On a GPU every operation around the network counts. The host takes tens of microseconds to start one, which is long
beside a small batch; TensorFlow's kernels that slice and pad bytes take milliseconds for a large one. So a batch of a
declared size goes to the network as it is, the central crop of images that are already scaled is part of the compiled
program, and sizes are computed on the GPU's side of the graph, since values that travel between its part for a GPU and
its part for a CPU would cost as much as an operation. TensorFlow keeps int32 numbers of a GPU's part in the memory of
the host, so that computing with them costs no kernel.
"""

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from resnet_tf.data import images, resizing
from resnet_tf.data.colour import Normalization
from resnet_tf.serving import folding


def make(
    model: keras.Model,
    normalization: Normalization,
    size: int,
    batch_sizes: tuple[int, ...],
    temperature: float = 1.0,
    resize: int = 0,
    interpolation: str = "",
    top_k: int = 5,
) -> dict[int, tf.types.experimental.GenericFunction]:
    """Return a network as functions of pixels.

    Args:
        model: a model from normalised images to (features, logits); its BN is folded, see `folding.fold`.
        normalization: a `colour.Normalization`.
        size: side of the images in pixels.
        batch_sizes: the declared sizes of batches.
        temperature: number by which logits are divided before the softmax.
        resize: side of images before their central crop; 0 for `size`.
        interpolation: see `images.resize_center`.
        top_k: see `ranked`.

    Returns:
        {side: a function of uint8 [n, side, side, 3]} for the sides `size` and `resize`. The functions return
        {"features": float32 [n, channels]} and what `ranked` returns. They raise InvalidArgumentError for n = 0 and for
        n above the largest of `batch_sizes`.
    """
    folded = folding.fold(model)
    values = [
        [np.asarray(variable) for variable in group]
        for group in (folded.trainable_variables, folded.non_trainable_variables)
    ]

    # All functions call this one, so that the file holds constants once.
    @tf.function(input_signature=_signature(size), autograph=False)
    def network(pixels):
        constants = [[tf.constant(value) for value in group] for group in values]
        (features, logits), _ = folded.stateless_call(*constants, normalization(pixels), training=False)
        logits = tf.cast(logits, tf.float32) / temperature
        return {"features": tf.cast(features, tf.float32)} | ranked(tf.nn.softmax(logits), top_k)

    def cropped(pixels):
        return network(images.resize_center(pixels, size, resize, interpolation))

    sizes = sorted(set(batch_sizes))
    ways = {size: network} | ({resize: cropped} if resize > size else {})
    return {side: _batched(way, side, sizes) for side, way in ways.items()}


def ranked(probabilities: tf.Tensor, top_k: int) -> dict[str, tf.Tensor]:
    """Return {"probabilities"} and, of the likeliest classes, {"scores": float32 [n, k], "indices": int64 [n, k]}.

    Args:
        probabilities: float32 [n, classes].
        top_k: number of classes; all if there are fewer.
    """
    scores, indices = tf.math.top_k(probabilities, min(top_k, probabilities.shape[-1]))
    # TensorFlow moves integers of 32 bits between a GPU and the host at every operation.
    return {"probabilities": probabilities, "scores": scores, "indices": tf.cast(indices, tf.int64)}


def _signature(side):
    return [tf.TensorSpec([None, side, side, 3], tf.uint8)]


def _batched(network: Callable, side: int, sizes: list[int]):
    """Return a function of a batch: on a GPU, the network compiled for the next of `sizes`; on a CPU, as it is."""
    signature, last = _signature(side), 2 * len(sizes)
    compiled = tf.function(network, input_signature=signature, autograph=False, jit_compile=True)
    whole = resizing.as_one_operation(network, signature)
    branches = [compiled] * len(sizes) + [functools.partial(_padded, compiled, size) for size in sizes]
    branches += [resizing.as_one_operation(_refusal(whole, sizes[-1]), signature), whole]

    @tf.function(input_signature=signature, autograph=False)
    def answer(pixels):
        count = tf.shape(pixels)[0]
        smaller, fitting = (tf.reduce_sum(tf.clip_by_value(count - sizes + one, 0, 1)) for one in (0, 1))
        # The index of its own size for a batch of a declared size, behind these for a smaller one, and then `last` for
        # more images than the largest; also for none.
        index = smaller + len(sizes) * (1 - (fitting - smaller)) + last * (1 - tf.minimum(count, 1))
        index = tf.minimum(index, last)
        on_gpu = tf.raw_ops.DeviceIndex(device_names=["CPU", "GPU"])
        branch = on_gpu * index + (1 - on_gpu) * (last + 1 - index // last)
        return tf.switch_case(branch, [functools.partial(one, pixels) for one in branches])

    return answer


def _padded(network, size, pixels):
    """Answer a batch of fewer than `size` images as one of `size`."""
    count = tf.shape(pixels)[0]
    # Concatenation copies bytes, which tf.pad would compute the position of one by one.
    answers = network(tf.concat([pixels, tf.zeros([size - count, *pixels.shape[1:]], tf.uint8)], 0))
    return {name: tf.slice(value, [0, 0], tf.stack([count, -1])) for name, value in answers.items()}


def _refusal(network, largest):
    """Return a function that fails for a batch of no images or of more than `largest`, and says so."""
    outputs = network.get_concrete_function().structured_outputs

    def refuse(pixels):
        count = tf.shape(pixels)[0]
        words = ["a batch of", tf.strings.as_string(count), f"images; the largest declared is {largest}"]
        checks = [
            tf.debugging.Assert(count > 0, ["an empty batch"]),
            tf.debugging.Assert(count <= largest, [tf.strings.join(words, " ")]),
        ]
        with tf.control_dependencies(checks):
            return {name: tf.zeros([count, one.shape[1]], one.dtype) for name, one in outputs.items()}

    return refuse
