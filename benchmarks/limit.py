"""What bounds a training step of a network on this machine's GPU: its MACs and bytes over rates measured here.

    python benchmarks/limit.py --model=resnet50_v1b --batch_size=256

Prints one JSON line. The rates: a product of two 8192x8192 bfloat16 matrices of random values, and an elementwise pass
over 4 GiB of them, bytes read and written both counted. FLOPs of a step: six a MAC, two forward and four backward.
Bytes: passes over what convolutions put out, in 16 bits, where batch normalisation and ReLU are one pass and its sums
another; sums of paths, pools and weights are not counted:

- convolutions, 6: forward read their input and write their output; backward read its gradient twice, the input
  once, and write the input's gradient;
- the rest, 8: forward read for the sums, read and write to normalise; backward read output and gradient for the sums,
  read both again and write the gradient.
"""

import argparse
import json
import statistics
import time

import tensorflow as tf

from resnet_tf.models import cost_by_name

CONVOLUTIONS, REST = 6, 8  # passes
SIZE, PASSES = 8192, 20


def rate(one, values, work):
    """Units of work a second of one(values), repeated in a compiled program; the median of five calls."""

    @tf.function(jit_compile=True)
    def many(values):
        for _ in tf.range(PASSES):
            values = one(values)
        return tf.reduce_sum(tf.cast(values, tf.float32))

    seconds = []
    for _ in range(6):
        begun = time.perf_counter()
        many(values).numpy()
        seconds.append(time.perf_counter() - begun)
    return work * PASSES / statistics.median(seconds[1:])


def main():
    """Measure, count and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet50_v1b")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--gib", type=float, default=4.0, help="of the elementwise pass")
    parser.add_argument("--size", type=int, default=SIZE, help="of the matrices")
    arguments = parser.parse_args()
    size, count = arguments.size, int(arguments.gib * 2**30 / 2)

    scale = size**-0.5  # so that products neither vanish nor overflow
    first, second = (tf.cast(scale * tf.random.normal([size, size]), tf.bfloat16) for _ in range(2))
    flops = rate(lambda values: values @ second, first, 2.0 * size**3)
    numbers = tf.cast(tf.random.uniform([count]), tf.bfloat16)
    bandwidth = rate(lambda values: 0.5 * values + 1, numbers, 4.0 * count)
    cost = cost_by_name(arguments.model)
    step_flops = 6.0 * cost.macs * arguments.batch_size
    one_pass = 2.0 * cost.activations * arguments.batch_size
    convolutions = max(step_flops / flops, CONVOLUTIONS * one_pass / bandwidth)
    rest = REST * one_pass / bandwidth
    result = {
        "model": arguments.model,
        "batch_size": arguments.batch_size,
        "tflops": flops / 1e12,
        "gb_per_second": bandwidth / 1e9,
        "ms_flops": 1e3 * step_flops / flops,
        "ms_bytes": 1e3 * (CONVOLUTIONS + REST) * one_pass / bandwidth,
        "ms_convolutions": 1e3 * convolutions,
        "ms_rest": 1e3 * rest,
        "ms_limit": 1e3 * (convolutions + rest),
    }
    result["images_per_second"] = arguments.batch_size * 1e3 / result["ms_limit"]
    print(json.dumps({name: round(value, 2) if isinstance(value, float) else value for name, value in result.items()}))


if __name__ == "__main__":
    main()
