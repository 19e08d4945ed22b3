"""A network for inference with its weights as constants: compiled by XLA on GPUs, run by oneDNN on CPUs.

A graph whose weights are variables converts them to the precision and the memory layout of its kernels in every call.
With constants this is done once. XLA compiles for one shape of batch, which takes seconds; batches are therefore padded
to the next of a few declared sizes.

A small batch takes a GPU about a third of a millisecond, in which every operation around the network counts, since the
host takes tens of microseconds to start one. All of them run on the GPU's side of the graph: values that travel between
its part for a GPU and its part for a CPU would cost as much again. TensorFlow keeps int32 numbers of a GPU's part in
the memory of the host, so that computing with them there costs no kernel.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from resnet_tf.data.colour import Normalization
from resnet_tf.serving import folding


def make(
    model: keras.Model, normalization: Normalization, size: int, batch_sizes: tuple[int, ...], temperature: float = 1.0
) -> tf.types.experimental.GenericFunction:
    """Return a network as a function of pixels.

    Args:
        model: a model from normalised images to (features, logits); its BN is folded, see `folding.fold`.
        normalization: a `colour.Normalization`.
        size: side of the images in pixels.
        batch_sizes: the declared sizes of batches.
        temperature: number by which logits are divided before the softmax.

    Returns:
        A function of uint8 [n, size, size, 3] that returns {"features": float32 [n, channels], "probabilities": float32
        [n, classes]}. It raises InvalidArgumentError for n = 0 and for n above the largest of `batch_sizes`.
    """
    folded = folding.fold(model)
    values = [
        [np.asarray(variable) for variable in group]
        for group in (folded.trainable_variables, folded.non_trainable_variables)
    ]
    signature = [tf.TensorSpec([None, size, size, 3], tf.uint8)]

    @tf.function(input_signature=signature, autograph=False)
    def network(pixels):
        constants = [[tf.constant(value) for value in group] for group in values]
        (features, logits), _ = folded.stateless_call(*constants, normalization(pixels), training=False)
        logits = tf.cast(logits, tf.float32) / temperature
        return {"features": tf.cast(features, tf.float32), "probabilities": tf.nn.softmax(logits)}

    # The compiled function and that for CPUs call the same one, so that the file holds constants once.
    compiled = tf.function(network, input_signature=signature, autograph=False, jit_compile=True)
    sizes = sorted(set(batch_sizes))
    branches = [_padded(compiled, size, before) for before, size in zip([0, *sizes], sizes, strict=False)]
    branches += [_whole(_refusal(network, sizes[-1]), signature), _whole(network, signature)]

    @tf.function(input_signature=signature, autograph=False)
    def answer(pixels):
        count, last = tf.shape(pixels)[0], len(sizes)
        # How many sizes are smaller than the batch, which is the index of its own; `last` for none or too many images.
        smaller = tf.reduce_sum(tf.clip_by_value(count - sizes, 0, 1))
        index = tf.minimum(smaller + last * (1 - tf.minimum(count, 1)), last)
        on_gpu = tf.raw_ops.DeviceIndex(device_names=["CPU", "GPU"])
        branch = on_gpu * index + (1 - on_gpu) * (last + 1 - index // last)
        return tf.switch_case(branch, [functools.partial(one, pixels) for one in branches])

    return answer


def _padded(network, size, before):
    """Return a function that answers a batch of more than `before` images as one of `size`."""

    def padded(pixels):
        if size == before + 1:  # of exactly `size` images
            return network(pixels)
        count = tf.shape(pixels)[0]
        answers = network(tf.pad(pixels, (size - count) * tf.constant([[0, 1], [0, 0], [0, 0], [0, 0]])))
        return {name: tf.slice(value, [0, 0], tf.stack([count, -1])) for name, value in answers.items()}

    return padded


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


def _whole(function, signature):
    """Return a function that stays one operation in a graph which calls it; the parts of others are walked over."""
    whole = {"_noinline": True}
    return tf.function(function, input_signature=signature, autograph=False, experimental_attributes=whole)
