"""What bounds a training step of a network on this machine's GPU: its MACs and bytes over rates measured here.

    python benchmarks/limit.py --model=resnet50_v1b --batch_size=256

Prints one JSON line. The rates: a product of two 8192x8192 bfloat16 matrices of random values, and an elementwise pass
over 2 GiB of them, bytes read and written both counted: more than a cache holds, and fewer than 2^31 values. FLOPs of a
step: six a MAC, two forward and four backward. Bytes: passes over what convolutions put out, in 16 bits, where batch
normalisation and ReLU are one pass and its sums another; sums of paths, pools and weights are not counted:

- convolutions, 6: forward read their input and write their output; backward read its gradient twice, the input
  once, and write the input's gradient;
- the rest, 8: forward read for the sums, read and write to normalise; backward read output and gradient for the sums,
  read both again and write the gradient.
"""

import argparse
import statistics
import time

import tensorflow as tf

from resnet_tf import files
from resnet_tf.models import cost_by_name

CONVOLUTIONS, REST = 6, 8  # passes
SIZE, FEW, MANY = 8192, 10, 50


def rate(one, values, work):
    """Units of work a second of one(values), repeated in a compiled program.

    By what many repetitions take longer than few, medians of five calls: a copy of the values and a sum are in both.
    """

    @tf.function(jit_compile=True)
    def repeated(values, count):
        for _ in tf.range(count):
            values = one(values)
        return tf.reduce_sum(tf.cast(values, tf.float32))

    def seconds(count):
        taken = []
        for _ in range(6):
            begun = time.perf_counter()
            repeated(values, tf.constant(count)).numpy()
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken[1:])

    return work * (MANY - FEW) / (seconds(MANY) - seconds(FEW))


def main():
    """Measure, count and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet50_v1b")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--gib", type=float, default=2.0, help="of the elementwise pass")
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
    rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in result.items()}
    print(files.to_json(rounded))


if __name__ == "__main__":
    main()
