"""An independent ResNet for CIFAR in PyTorch alone: what the same recipe gives on the same files.

    python benchmarks/peers/torch_cifar_resnet.py --data=DIR_OR_TAR --depth=20 --seed=0 --results=results/cifar10.csv

The data are a folder or tar of SPLIT/CLASS/IMAGE. He et al. 2015, section 4.2: shortcut A, batch 128, 64,000
steps, 0.1 divided by 10 at 32k and 48k, momentum 0.9, decay 1e-4 on kernels; pad 4, crop, mirror. On a GPU a
whole step is one CUDA graph, in TF32, or with --precision=bfloat16 its forward pass under autocast. Prints one JSON
line, and with --results appends a row in the columns of resnet_tf's own. With --state=FILE it saves itself with every
line it prints and goes on from there, random views then drawn anew.
Needs torch and Pillow, and nothing of resnet_tf.
"""

import argparse
import csv
import datetime
import io
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tarfile
import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

COLUMNS = (
    "date", "commit", "command", "hardware", "versions", "seed", "wall_seconds", "model", "recipe", "dataset", "steps",
    "epochs", "examples", "top1", "top5",
)  # fmt: skip
SETTINGS = ("depth", "seed", "steps", "decay", "precision")  # that a saved training goes on with


class Block(nn.Module):
    """Two 3x3 convolutions and shortcut A."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x):
        """Sum of both paths, activated."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(shortcut, (0, 0, 0, 0, 0, self.extra)))


def network(depth, classes):
    """CIFAR ResNet of depth 6n+2, He (fan-out) initialisation."""
    layers, width = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for stage, filters in enumerate((16, 32, 64)):
        for index in range((depth - 2) // 6):
            layers.append(Block(width, filters, 2 if stage and not index else 1))
            width = filters
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def read(path, split):
    """Images uint8 [n, 3, 32, 32] and labels of a split, classes in the order of their names."""
    path, found = pathlib.Path(path), []
    if path.is_dir():
        found = [(file.parts[-3:], file.read_bytes()) for file in path.rglob("*/*/*") if file.is_file()]
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    found.append((pathlib.PurePosixPath(member.name).parts[-3:], archive.extractfile(member).read()))
    found = sorted((part for part in found if len(part[0]) == 3 and part[0][0] == split), key=lambda part: part[0])
    names = sorted({name for (_, name, _), _ in found})
    images = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for _, data in found])
    labels = np.array([names.index(name) for (_, name, _), _ in found])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


def train(arguments):
    """Train and test; returns the result."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    (images, labels), test = read(arguments.data, "train"), read(arguments.data, "test")
    pixels = images.double()
    mean = pixels.mean((0, 2, 3)).float().view(1, 3, 1, 1).to(device)
    std = pixels.std((0, 2, 3)).float().view(1, 3, 1, 1).to(device)
    del pixels
    images, labels = images.to(device), labels.to(device)
    model = network(arguments.depth, int(labels.max()) + 1).to(device, memory_format=torch.channels_last)
    weights = list(model.parameters())
    momenta = [torch.zeros_like(weight) for weight in weights]
    kernels = [index for index, weight in enumerate(weights) if weight.ndim > 1]
    decayed, decayed_momenta = ([values[index] for index in kernels] for values in (weights, momenta))
    lower = arguments.precision == "bfloat16"
    rate = torch.tensor(0.1, device=device)
    chosen = torch.zeros(128, dtype=torch.long, device=device)
    total = torch.zeros(2, device=device)
    grid = torch.arange(32, device=device)

    def step():
        x, y = (images[chosen].float() - mean) / std, labels[chosen]
        x = F.pad(x, (4, 4, 4, 4))
        top, left = (torch.randint(0, 9, (128, 1), device=device) for _ in range(2))
        columns = torch.where(torch.rand(128, 1, device=device) < 0.5, grid, 31 - grid) + left
        rows = grid + top
        first = torch.arange(128, device=device).view(-1, 1, 1, 1)
        channel = torch.arange(3, device=device).view(1, -1, 1, 1)
        x = x[first, channel, rows[:, None, :, None], columns[:, None, None, :]]
        with torch.autocast(device.type, torch.bfloat16, enabled=lower, cache_enabled=False):
            logits = model(x.contiguous(memory_format=torch.channels_last)).float()
        loss = F.cross_entropy(logits, y)
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            # All weights by few kernels: momentum <- 0.9 momentum + gradient + decay weight.
            torch._foreach_mul_(momenta, 0.9)
            torch._foreach_add_(momenta, gradients)
            torch._foreach_add_(decayed_momenta, decayed, alpha=arguments.decay)
            torch._foreach_sub_(weights, torch._foreach_mul(momenta, rate))
            total.add_(torch.stack([loss.detach(), (logits.argmax(1) == y).float().mean()]))

    run = step
    if device.type == "cuda":
        kept = [value.clone() for value in model.state_dict().values()]
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        with torch.no_grad():  # the warm-up counts for nothing
            for value, old in zip(model.state_dict().values(), kept, strict=True):
                value.copy_(old)
            for momentum in momenta:
                momentum.zero_()
        total.zero_()
        run = graph.replay
    order, begin, before = torch.empty(0, dtype=torch.long), 0, 0.0
    if arguments.state and arguments.state.exists():
        saved = torch.load(arguments.state, weights_only=True)
        other = [name for name in SETTINGS if saved[name] != getattr(arguments, name)]
        if other:
            raise SystemExit(f"--state={arguments.state}: of another training: --{other[0]}={saved[other[0]]} there")
        begin, before, order = saved["step"], saved["seconds"], saved["order"]
        model.load_state_dict(saved["model"])
        with torch.no_grad():
            for momentum, value in zip(momenta, saved["momenta"], strict=True):
                momentum.copy_(value)
        rate.copy_(saved["rate"])
        torch.manual_seed(arguments.seed + begin)
        torch.set_rng_state(saved["random"])
        print(f"goes on from step {begin}", flush=True)
    started = time.monotonic() - before
    for number in range(begin, arguments.steps):
        if len(order) < 128:
            order = torch.cat([order, torch.randperm(len(images))])
        chosen.copy_(order[:128])
        order = order[128:]
        if number in (arguments.steps // 2, arguments.steps * 3 // 4):
            rate.mul_(0.1)
        run()
        if (number + 1) % arguments.log_every == 0:
            loss, top1 = (total / arguments.log_every).tolist()
            total.zero_()
            print(f"step {number + 1}  loss {loss:.4f}  top-1 {top1:.4f}", flush=True)
            if arguments.state:
                state = {
                    **{name: getattr(arguments, name) for name in SETTINGS},
                    "step": number + 1, "seconds": time.monotonic() - started, "order": order, "rate": rate,
                    "model": model.state_dict(), "momenta": momenta, "random": torch.get_rng_state(),
                }  # fmt: skip
                unfinished = arguments.state.with_suffix(".part")
                torch.save(state, unfinished)
                unfinished.replace(arguments.state)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - started
    model.eval()
    right = torch.zeros(2, dtype=torch.long)  # among the best one, and the best five
    with torch.no_grad():
        for x, y in zip(test[0].split(1000), test[1].split(1000), strict=True):
            x = (x.to(device).float() - mean) / std
            hits = model(x).topk(5, dim=1).indices.cpu() == y[:, None]
            right += torch.stack([hits[:, 0].sum(), hits.sum()])
    return {
        "system": f"torch {torch.__version__}",
        "depth": arguments.depth,
        "seed": arguments.seed,
        "steps": arguments.steps,
        "epochs": round(arguments.steps * 128 / len(labels), 2),
        "examples": len(test[1]),
        "top1": right[0].item() / len(test[1]),
        "top5": right[1].item() / len(test[1]),
        "seconds": round(seconds, 1),
    }


def commit():
    """Commit of this file's checkout, or $RESNET_TF_COMMIT, for copies without git."""
    here = pathlib.Path(__file__).parent
    git = ["git", "-C", here, "rev-parse", "--short=12", "HEAD"]
    found = os.environ.get("RESNET_TF_COMMIT") or subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return found or "unknown"


def append(path, arguments, result):
    """Append a row of results, with a header where the file is new."""
    falls = f"{arguments.steps // 2}/{arguments.steps * 3 // 4}"
    on_gpu = torch.cuda.is_available()
    shared = os.environ.get("RESNET_TF_SHARED_BY")  # as resnet_tf's own rows say it
    precision = "float32" if arguments.precision == "tf32" and not on_gpu else arguments.precision
    row = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": shlex.join(["python", *sys.argv]),
        "hardware": (f"{torch.cuda.get_device_name()} x1" if on_gpu else platform.processor() or platform.machine())
        + (f", shared by {shared} trainings" if shared else ""),
        "versions": f"python {platform.python_version()}; {result['system']}",
        "seed": result["seed"],
        "wall_seconds": result["seconds"],
        "model": f"torch cifar_resnet{result['depth']}_v1",
        "recipe": f"sgd lr 0.1 x0.1 at {falls} batch 128 decay {arguments.decay} kernels {precision}",
        "dataset": f"folder:{pathlib.Path(arguments.data).name}",
        **{name: result[name] for name in ("steps", "epochs", "examples", "top1", "top5")},
    }
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def main():
    """Parse the command line and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=64000)
    parser.add_argument("--decay", type=float, default=1e-4)
    parser.add_argument("--precision", choices=("tf32", "bfloat16"), default="tf32")
    parser.add_argument("--log_every", type=int, default=4000)
    parser.add_argument("--state", type=pathlib.Path, help="file to save to and to go on from")
    parser.add_argument("--results", type=pathlib.Path, help="CSV file to append a row to")
    arguments = parser.parse_args()
    table = arguments.results
    if table and table.exists() and table.read_text().split("\n", 1)[0] != ",".join(COLUMNS):
        parser.error(f"--results={table}: it has other columns")
    result = train(arguments)
    if table:
        append(table, arguments, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
