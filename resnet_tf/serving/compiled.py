"""A network for inference with its weights as constants: compiled by XLA on GPUs, run by oneDNN on CPUs.

A graph whose weights are variables converts them to the precision and the memory layout of its kernels in every call.
With constants this is done once. XLA compiles for one shape of batch, which takes seconds; batches are therefore padded
to the next of a few declared sizes.

A small batch takes a GPU about a millisecond, in which every operation around the network counts. Sizes are computed on
the host, and pixels stay where they are.
"""

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

    # The compiled function and that for CPUs call the same one, so that the file holds constants once. The latter is
    # not inlined, so that a call on a GPU does not walk over all of its operations and constants.
    compiled = tf.function(network, input_signature=signature, autograph=False, jit_compile=True)
    on_cpu = tf.function(
        network, input_signature=signature, autograph=False, experimental_attributes={"_noinline": True}
    )
    sizes, largest = tf.constant(sorted(batch_sizes)), max(batch_sizes)

    @tf.function(input_signature=signature, autograph=False)
    def answer(pixels):
        # The shape is taken where the pixels are, which would otherwise travel for it; it is on the host anywhere.
        count = tf.shape(pixels)[0]
        with tf.device("/CPU:0"):
            padded = tf.reduce_min(tf.where(sizes >= count, sizes, largest))
            behind, kept = (padded - count) * tf.constant([[0, 1], [0, 0], [0, 0], [0, 0]]), tf.stack([count, -1])
            words = ["a batch of", tf.strings.as_string(count), f"images; the largest declared is {largest}"]
            checks = [
                tf.debugging.Assert(count > 0, ["an empty batch"]),
                tf.debugging.Assert(count <= largest, [tf.strings.join(words, " ")]),
            ]

        def on_gpu():
            answers = compiled(tf.pad(pixels, behind))
            return {name: tf.slice(value, [0, 0], kept) for name, value in answers.items()}

        with tf.control_dependencies(checks):
            device = tf.raw_ops.DeviceIndex(device_names=["CPU", "GPU"])
        return tf.switch_case(device, [lambda: on_cpu(pixels), on_gpu])

    return answer
