"""Write docs/scaling.md: what the ImageNet recipe of 79.3% needs on 1, 8 and 64 GPUs, from what was measured on one.

python benchmarks/scaling.py
"""

import math
import pathlib
import textwrap

from resnet_tf.models import cost_by_name

DOC = pathlib.Path(__file__).parents[1] / "docs" / "scaling.md"

# Measured; docs/performance.md and results/speed.csv, results/input_speed.csv say by which commands.
STEP_RATE = 6242.0  # images/s: steps of resnet50_v1b at 224 pixels, float16, batch 256, one H100 80GB HBM3
FROM_FILES = 0.99  # of such a rate where the images came from JPEG files, on an H200 with 32 cores
TWO_GPUS = 0.0015  # seconds that a step of two H200 took longer than that of one with the same images each
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


def summing(gpus):
    """Seconds a step of an all-reduce in one host, from that between two."""
    return TWO_GPUS * crossing(gpus) / crossing(2)


def table(header, rows):
    """Lines of a Markdown table between empty ones."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return ["", *lines, ""]


def wrapped(part):
    """A paragraph in lines of 120 characters; what is no prose as it is."""
    return part if part[:1] in ("", "#", "|") else textwrap.fill(part, 120, break_on_hyphens=False)


def main():
    """Compute and write."""
    one, cost = rate(), cost_by_name(STUDENT)
    packed = 4 * (cost.trainable_parameters + (cost.parameters - cost.trainable_parameters))
    images = EPOCHS * EXAMPLES
    hours, network, hosts = [], [], []
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

Computed by `python benchmarks/scaling.py`, not measured: from the rate of one H100 (80GB HBM3), the costs of the
networks, and the speed of reading. Of several GPUs only a step of two was measured. The recipe is
`flags/imagenet_r50d_distil.cfg`, Bag of Tricks' 79.29%: ResNet-50-D taught by ResNet-152-D, {EPOCHS} epochs, float16,
mixup, cosine.

One GPU steps through {STEP_RATE:,.0f} images/s with resnet50_v1b, {100 * MFU:.0f}% of its tensor cores' dense peak
(6 x 4.089 GMACs an image). At the same utilisation student and teacher
(6 x {cost.macs / 1e9:.2f} + 2 x {cost_by_name(TEACHER).macs / 1e9:.2f} GMACs) make {one:,.0f} images/s. The
{EPOCHS} evaluations of {VALIDATION:,} images are in the hours, at a third of a step's FLOPs.

## Hours
""".splitlines()
    lines += table(
        ["GPUs", "batch", "of a GPU", "ms a step", "steps", "hours", f"hours at {FROM_FILES:.2f} of the rate",
         "hours with the all-reduce of two GPUs"],
        hours,
    )  # fmt: skip
    lines += f"""
The last column but one has the rate from JPEG files that was measured on one GPU with 32 cores. Several GPUs are
charged {100 * SHARE_OF_STEP:.0f}% for the all-reduce, as below. Two H200 with 256 images of resnet50_v1b each took
{1000 * TWO_GPUS:.1f} ms a step more than one, 1.91 times its images; the last column has that time for a ring of
eight, {1000 * summing(8):.1f} ms. Eight GPUs keep the recipe's batch. Of 64 each would have 16
images, too few to fill one: the row has {BATCHES[64]:,}, and the rate of `--linear_scaling` with it. Whether this batch
still reaches 79.3% is not known here; Goyal et al. 2017 (arXiv:1706.02677) lose nothing up to 8,192 in 90 epochs, with
the 5 epochs of warm-up that the recipe has. Without the teacher (`flags/imagenet_r50d.cfg`, 79.15%) all hours are
{6 * cost.macs / (6 * cost.macs + 2 * cost_by_name(TEACHER).macs):.2f} of these.

## Images
""".splitlines()
    lines += table(
        ["GPUs", "images are", "hosts of 8", "images/s a host", "cores a host", "MB/s read a host", "GB in all"], hosts
    )
    lines += f"""
Cores are those that decode and cut, by one core's measured {VIEWS["ImageNet's files"][0]:.0f} and
{VIEWS["prepared with `--shorter_side=288`"][0]:,.0f} views a second; leave some for the rest. Where a host has fewer,
`--data_service` decodes on others, which then send {one * 224 * 224 * 3 / 1e9:.1f} GB/s a GPU of uint8 views.
Prepared images fit into the memory of most hosts, so that a disk is read once.

## Network

Once a step all replicas sum one packed float32 vector: gradients and BN statistics, {packed / 1e6:.0f} MB. A ring moves
2 (n - 1) / n of it through every link, and nothing overlaps with it. For the {100 * SHARE_OF_STEP:.0f}% above it
may take:
""".splitlines()
    lines += table(["GPUs", "ms", "GB/s between GPUs", "between hosts, each way, a host"], network)
    lines += """
A host's NVLink has the first (an H100's is 450 GB/s each way by its data sheet). The last column is a ring over
hosts, one crossing a host.

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
