"""Write docs/scaling.md: what the ImageNet recipe of 79.3% needs on 1, 8 and 64 GPUs, from what was measured on one.

python benchmarks/scaling.py
"""

import csv
import itertools
import math
import pathlib
import textwrap

from resnet_tf.models import cost_by_name

DOC = pathlib.Path(__file__).parents[1] / "docs" / "scaling.md"

# Measured; docs/performance.md and results/speed.csv, results/input_speed.csv say by which commands.
STEP_RATE = 6242.0  # images/s: steps of resnet50_v1b at 224 pixels, float16, batch 256, one H100 80GB HBM3
FROM_FILES = 0.99  # of such a rate where the images came from JPEG files, on an H200 with 32 cores
TWO_GPUS = 0.0015  # seconds that a step of two H200 took longer than that of one with the same images each
ONE_H200 = 7400.0  # images/s of one H200 beside which the two were measured: 14,143 / 1.911
MFU = 6 * 4.089e9 * STEP_RATE / 989e12
VIEWS = {"ImageNet's files": (725.0, 115e3), "prepared with `--shorter_side=288`": (1216.0, 30e3)}
# Random resized crops a second of one core, and bytes of a mean image: of the training archive's 147.9 GB, and of 100
# ImageNet originals prepared so.

EXAMPLES, VALIDATION, EPOCHS, BATCH = 1_281_167, 50_000, 200, 1024  # flags/imagenet_r50d_distil.cfg
BATCHES = {1: 1024, 8: 1024, 64: 8192}  # GPUs: global batch
STUDENT, TEACHER = "resnet50_v1d", "resnet152_v1d"
SHARE_OF_STEP = 0.1  # that the all-reduce may add to a step, since it does not overlap with the backward pass
PER_HOST = 8


def rate():
    """Images a second of one GPU: FLOPs of student and teacher at the utilisation that resnet50_v1b was measured at."""
    flops = 6 * cost_by_name(STUDENT).macs + 2 * cost_by_name(TEACHER).macs
    return MFU * 989e12 / flops


def crossing(members):
    """How often a ring of these moves the packed vector through each of its links."""
    return 2 * (members - 1) / members


def measured():
    """Images/s over those of one GPU in the last `scale.py` rows of results/speed.csv: {(GPUs, kind): "1.91"}."""
    last = {(2, "mirrored"): "1.91"}  # by `benchmark train --replicas=2 --peers=one_replica`, docs/performance.md
    with (DOC.parents[1] / "results" / "speed.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == "scale" and row["model"] == "resnet50_v1b"]
    rates = {row["strategy"]: float(row["images_per_second"]) for row in rows}
    for gpus, (kind, one) in itertools.product(
        (2, 4, 8), (("mirrored", "mirrored x1"), ("processes", "mirrored x1"), ("ddp", "one device"))
    ):
        if f"{kind} x{gpus}" in rates and one in rates:
            last[gpus, kind] = f"{rates[f'{kind} x{gpus}'] / rates[one]:.2f}"
    return last


def summing(gpus):
    """Seconds a step of an all-reduce in one host, from that between two."""
    return TWO_GPUS * crossing(gpus) / crossing(2)


def table(header, rows):
    """Lines of a Markdown table between empty ones."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return ["", *lines, ""]


def wrapped(part):
    """A paragraph in lines of 120 characters; what is no prose as it is."""
    return part if part[:1] in ("", "#", "|", "-", "`") else textwrap.fill(part, 120, break_on_hyphens=False)


def main():
    """Compute and write."""
    one, cost = rate(), cost_by_name(STUDENT)
    packed = 4 * (cost.trainable_parameters + (cost.parameters - cost.trainable_parameters))
    images = EPOCHS * EXAMPLES
    hours, network, hosts, scaled = [], [], [], measured()
    for gpus, batch in BATCHES.items():
        step = batch / gpus / one
        steps = images / batch
        train, score = images / (gpus * one), EPOCHS * VALIDATION / (3 * one)  # each host scores by itself
        budget = SHARE_OF_STEP * step if gpus > 1 else 0.0
        moved = crossing(gpus) * packed
        hours.append([
            str(gpus), f"{batch:,}", f"{batch // gpus}", f"{1000 * step:.0f}", f"{steps:,.0f}",
            f"{(train * (1 + SHARE_OF_STEP * (gpus > 1)) + score) / 3600:.1f}",
            f"{(train / FROM_FILES * (1 + SHARE_OF_STEP * (gpus > 1)) + score) / 3600:.1f}",
            f"{(train * (1 + summing(gpus) / step) + score) / 3600:.1f}" if gpus <= PER_HOST else "",
        ])  # fmt: skip
        if gpus > 1:
            between = crossing(gpus / PER_HOST) * packed
            network.append([
                str(gpus), f"{1000 * budget:.1f}", f"{moved / budget / 1e9:.0f}",
                f"{8 * between / budget / 1e9:.0f} Gbit/s" if between else "none",
            ])  # fmt: skip
        for name, (views, size) in VIEWS.items():
            here = min(gpus, PER_HOST)
            hosts.append([
                str(gpus), name, str(math.ceil(gpus / PER_HOST)), f"{here * one:,.0f}",
                f"{math.ceil(here * one / views)}", f"{here * one * size / 1e6:,.0f}",
                f"{(EXAMPLES + VALIDATION) * size / 1e9:.0f}",
            ])  # fmt: skip
    lines = f"""# The full ImageNet recipe on 1, 8 and 64 GPUs

The hours, images and rates below are computed by `python benchmarks/scaling.py`, not measured, from the rate of one
H100 (80GB HBM3), the costs of the networks, and the speed of reading. What was measured with several GPUs stands first.
The recipe is `flags/imagenet_r50d_distil.cfg`, with which Bag of Tricks reports 79.29%: ResNet-50-D distilled from
ResNet-152-D, {EPOCHS} epochs, float16, mixup, cosine.

One GPU trains resnet50_v1b at {STEP_RATE:,.0f} images/s, {100 * MFU:.0f}% of the dense peak of its tensor cores
(6 x 4.089 GMACs per image). With the same utilisation, student and teacher
(6 x {cost.macs / 1e9:.2f} + 2 x {cost_by_name(TEACHER).macs / 1e9:.2f} GMACs) reach {one:,.0f} images/s. The hours
include {EPOCHS} evaluations of {VALIDATION:,} images, each with a third of the FLOPs of training.

## Prediction and measurement

A step of resnet50_v1b with 256 images on each GPU, float16, images held on the GPUs. The prediction adds the all-reduce
of a ring, extrapolated from that of two GPUs, to the step of one (H200, {ONE_H200:,.0f} images/s); the first line is
therefore no test of it.
""".splitlines()
    lines += table(["GPUs", "predicted, times one GPU", "measured: one process", "one process a GPU", "PyTorch DDP"], [
        [str(gpus), f"{gpus / (1 + summing(gpus) / (256 / ONE_H200)):.2f}",
         *(scaled.get((gpus, kind), "not measured") for kind in ("mirrored", "processes", "ddp"))]
        for gpus in (2, 4, 8)
    ])  # fmt: skip
    lines += """
The measurements are made by this command, whose rows go to [results/speed.csv](../results/speed.csv) as benchmark
`scale`; `strategy` has the number of replicas. The table is filled from there when `python benchmarks/scaling.py` runs
again. `scale.py` also tells what the all-reduce, the input and the host cost, by runs with and without each of them:

```
python benchmarks/scale.py --gpus=1,2,4,8 --data_dir=imagenette192.tar --results=results/speed.csv --picture=scale.png
```

That more GPUs also learn the same is what
[flags/grids/imagenette_replicas.yaml](../flags/grids/imagenette_replicas.yaml) compares: the loss curve of a whole
training on 1, 2, 4 and 8 GPUs with one global batch, beside what seeds differ by. It was not run yet.

## Hours
""".splitlines()
    lines += table(
        ["GPUs", "batch", "batch per GPU", "ms per step", "steps", "hours", f"hours at {FROM_FILES:.2f} of the rate",
         "hours with the measured all-reduce"],
        hours,
    )  # fmt: skip
    lines += f"""
- "hours" adds {100 * SHARE_OF_STEP:.0f}% to the step of several GPUs for the all-reduce; see Network below.
- "hours at {FROM_FILES:.2f} of the rate" uses the rate from JPEG files, measured on one GPU with 32 cores.
- "hours with the measured all-reduce" extrapolates from two H200 with 256 images of resnet50_v1b each. They took
  {1000 * TWO_GPUS:.1f} ms per step more than one GPU, at 1.91 times its rate. For a ring of eight this is
  {1000 * summing(8):.1f} ms.
- Eight GPUs use the batch of the recipe. With 64 GPUs, each would get 16 images, too few to fill it. The row for 64
  GPUs therefore has a batch of {BATCHES[64]:,} and scales the learning rate with `--linear_scaling`. It is
  not known whether this batch still reaches 79.3%. Goyal et al. 2017 (arXiv:1706.02677) lose no accuracy up to
  8,192 images in 90 epochs, with 5 epochs of warm-up as in this recipe.
- Without the teacher (`flags/imagenet_r50d.cfg`, 79.15%), all hours are multiplied by
  {6 * cost.macs / (6 * cost.macs + 2 * cost_by_name(TEACHER).macs):.2f}.

## Images
""".splitlines()
    lines += table(
        ["GPUs", "images", "hosts of 8", "images/s per host", "cores per host", "MB/s per host", "GB in total"], hosts
    )
    lines += f"""
The cores decode and crop, at the measured {VIEWS["ImageNet's files"][0]:.0f} and
{VIEWS["prepared with `--shorter_side=288`"][0]:,.0f} views per second and core; leave some cores for other work. If a
host has fewer cores, other machines can decode with `--data_service`; they then send
{one * 224 * 224 * 3 / 1e9:.1f} GB/s of uint8 views per GPU. Prepared images fit into the memory of most hosts, so a
disk is read once.

## Network

In each step all replicas sum one packed float32 vector, gradients and BN statistics, of {packed / 1e6:.0f} MB. A ring
moves 2 (n - 1) / n of it through every link, and nothing overlaps with it. To take {100 * SHARE_OF_STEP:.0f}% of a
step, as assumed above, it needs these rates:
""".splitlines()
    lines += table(["GPUs", "ms", "GB/s between GPUs", "per host, between hosts, each way"], network)
    lines += """
The NVLink of a host is fast enough for the rate between GPUs (450 GB/s each way according to the data sheet of the
H100). The last column assumes a ring over hosts, with one connection between each two neighbours.

## Commands

```
python -m resnet_tf.prepare --dataset=folder --data_dir=/data/imagenet --out=/data/imagenet288 --shorter_side=288

# 1 or 8 GPUs of one host
python -m resnet_tf.train --flagfile=flags/imagenet_r50d_distil.cfg --dataset=records --data_dir=/data/imagenet288

# 64 GPUs: on each of eight hosts h0 to h7, with its own index, and a folder that all can read
TF_CONFIG='{"cluster": {"worker": ["h0:7000", "h1:7000", "h2:7000", "h3:7000", "h4:7000", "h5:7000", "h6:7000",
  "h7:7000"]}, "task": {"type": "worker", "index": 0}}' \\
  python -m resnet_tf.train --flagfile=flags/imagenet_r50d_distil.cfg --dataset=records --data_dir=/data/imagenet288 \\
  --batch_size=8192 --eval_every=157 --checkpoint_every=157 --out=/shared/run
```
""".splitlines()
    text = "\n".join(lines).replace("\n\n\n", "\n\n")
    prose, commands = text.split("## Commands")
    prose = "\n\n".join(map(wrapped, prose.split("\n\n")))
    DOC.write_text(f"{prose}## Commands{commands}\n")


if __name__ == "__main__":
    main()
