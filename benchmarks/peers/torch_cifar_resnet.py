r"""An independent ResNet for CIFAR in PyTorch alone: what the same recipe gives on the same files.

    python benchmarks/peers/torch_cifar_resnet.py --data=cifar10 --depth=20 --seeds=0,1,2,3,4 --decayed=all \
      --normalization=pixel --precision=bfloat16 --state=r20.pt --results=results/cifar10.csv

The data are the folder cifar-10-batches-bin of the official binary version, or one that holds it; or a folder or tar of
SPLIT/CLASS/IMAGE. He et al. 2015, section 4.2: shortcut A, batch 128, 64,000 steps, 0.1 divided by 10 at 32k and 48k,
momentum 0.9, decay 1e-4 on kernels, or as in the paper --decayed=all; pad 4, crop, mirror; less the mean of each
channel, or as in the paper --normalization=pixel. The test images are scored once, after the last step. On a GPU a
whole step is one CUDA graph, in TF32, or with --precision=bfloat16 its forward pass under autocast.

Seeds are trained one after another. Each prints one JSON line, and with --results appends a row in the columns of
resnet_tf's own. With --state=FILE a training saves itself with every line it prints, to FILE, or of several --seeds to
FILE with the seed before its suffix, and goes on from there, random views then drawn anew; one whose file says that it
is finished is not trained again. --time_limit=SECONDS stops at the next such line after that time, and the same command
goes on. Needs torch, Pillow for images in files, and nothing of resnet_tf.
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
from torch import nn
from torch.nn import functional as F

COLUMNS = (
    "date", "commit", "command", "hardware", "versions", "seed", "wall_seconds", "model", "recipe", "dataset", "steps",
    "epochs", "examples", "top1", "top5",
)  # fmt: skip
# That a saved training goes on with, and what files of before have where they do not say it.
SETTINGS = ("depth", "seed", "steps", "decay", "precision", "decayed", "normalization")
EARLIER = {"decayed": "kernels", "normalization": "channel"}
BINARY = "cifar-10-batches-bin"  # official: a byte of label, 3,072 of planes red, green and blue


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


def is_binary(path):
    """Return the folder of the official binary version, None for other data."""
    places = pathlib.Path(path), pathlib.Path(path) / BINARY
    return next((folder for folder in places if (folder / "test_batch.bin").is_file()), None)


def read(path, split):
    """Images uint8 [n, 3, 32, 32] and labels of a split, classes in the order of their names."""
    path = pathlib.Path(path)
    if binary := is_binary(path):
        names = ["test_batch"] if split == "test" else [f"data_batch_{number}" for number in range(1, 6)]
        rows = np.concatenate([np.fromfile(binary / f"{name}.bin", np.uint8) for name in names]).reshape(-1, 3073)
        return torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(rows[:, 0].astype(int))
    return read_files(path, split)


def read_files(path, split):
    """See `read`: of a folder or tar of SPLIT/CLASS/IMAGE."""
    from PIL import Image

    found = []
    if path.is_dir():
        found = [(file.parts[-3:], file.read_bytes()) for file in path.rglob("*/*/*") if file.is_file()]
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    found.append((pathlib.PurePosixPath(member.name).parts[-3:], archive.extractfile(member).read()))
    found = sorted((part for part in found if len(part[0]) == 3 and part[0][0] == split), key=lambda part: part[0])
    if not found:
        raise SystemExit(f"--data={path}: neither {BINARY} nor images as {split}/CLASS/IMAGE")
    names = sorted({name for (_, name, _), _ in found})
    images = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for _, data in found])
    labels = np.array([names.index(name) for (_, name, _), _ in found])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


class Data:
    """Training images on the device, test images beside it, and what is subtracted and divided by.

    "channel": mean and deviation of each channel. "pixel": the mean image, and one deviation of what remains.
    """

    def __init__(self, path, normalization, device):
        (images, labels), self.test = read(path, "train"), read(path, "test")
        pixels = images.double()
        if normalization == "pixel":
            mean = pixels.mean(0, keepdim=True)
            std = ((pixels - mean) ** 2).mean().sqrt()
        else:
            mean, std = (value.view(1, 3, 1, 1) for value in (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))))
        self.mean, self.std = mean.float().to(device), std.float().to(device)
        self.images, self.labels = images.to(device), labels.to(device)
        self.classes = int(labels.max()) + 1


class Training:
    """A network, its momenta and one step of it: `run()` trains on the images of the indices in `chosen`."""

    def __init__(self, arguments, seed, data, device):
        torch.manual_seed(seed)
        self.data, self.device, self.lower = data, device, arguments.precision == "bfloat16"
        self.decay = arguments.decay
        self.model = network(arguments.depth, data.classes).to(device, memory_format=torch.channels_last)
        self.weights = list(self.model.parameters())
        self.momenta = [torch.zeros_like(weight) for weight in self.weights]
        chosen = [number for number, weight in enumerate(self.weights) if arguments.decayed == "all" or weight.ndim > 1]
        self.decayed, self.decayed_momenta = (
            [values[number] for number in chosen] for values in (self.weights, self.momenta)
        )
        self.rate = torch.tensor(0.1, device=device)
        self.chosen = torch.zeros(128, dtype=torch.long, device=device)
        self.total = torch.zeros(2, device=device)  # loss and share of right ones, summed over steps
        self.run = self._captured() if device.type == "cuda" else self._step

    def _views(self):
        """Normalised images of the batch, padded by 4, cropped at random, and mirrored every other time."""
        device = self.device
        x = F.pad((self.data.images[self.chosen].float() - self.data.mean) / self.data.std, (4, 4, 4, 4))
        top, left = (torch.randint(0, 9, (128, 1), device=device) for _ in range(2))
        grid = torch.arange(32, device=device)
        columns = torch.where(torch.rand(128, 1, device=device) < 0.5, grid, 31 - grid) + left
        rows = grid + top
        first = torch.arange(128, device=device).view(-1, 1, 1, 1)
        channel = torch.arange(3, device=device).view(1, -1, 1, 1)
        return x[first, channel, rows[:, None, :, None], columns[:, None, None, :]]

    def _step(self):
        x, y = self._views(), self.data.labels[self.chosen]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.lower, cache_enabled=False):
            logits = self.model(x.contiguous(memory_format=torch.channels_last)).float()
        loss = F.cross_entropy(logits, y)
        gradients = torch.autograd.grad(loss, self.weights)
        with torch.no_grad():
            # All weights by few kernels: momentum <- 0.9 momentum + gradient + decay weight.
            torch._foreach_mul_(self.momenta, 0.9)
            torch._foreach_add_(self.momenta, gradients)
            torch._foreach_add_(self.decayed_momenta, self.decayed, alpha=self.decay)
            torch._foreach_sub_(self.weights, torch._foreach_mul(self.momenta, self.rate))
            self.total.add_(torch.stack([loss.detach(), (logits.argmax(1) == y).float().mean()]))

    def _captured(self):
        """Return a function that replays a step as one CUDA graph."""
        kept = [value.clone() for value in self.model.state_dict().values()]
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        with torch.no_grad():  # the warm-up counts for nothing
            for value, old in zip(self.model.state_dict().values(), kept, strict=True):
                value.copy_(old)
            for momentum in self.momenta:
                momentum.zero_()
        self.total.zero_()
        return graph.replay

    def restore(self, saved):
        """Take weights, momenta and rate from a saved state."""
        self.model.load_state_dict(saved["model"])
        with torch.no_grad():
            for momentum, value in zip(self.momenta, saved["momenta"], strict=True):
                momentum.copy_(value)
        self.rate.copy_(saved["rate"])

    def score(self):
        """Shares of the test images whose label is the likeliest, and among the five likeliest."""
        self.model.eval()
        right, (images, labels) = torch.zeros(2, dtype=torch.long), self.data.test
        with torch.no_grad():
            for x, y in zip(images.split(1000), labels.split(1000), strict=True):
                x = (x.to(self.device).float() - self.data.mean) / self.data.std
                hits = self.model(x).topk(5, dim=1).indices.cpu() == y[:, None]
                right += torch.stack([hits[:, 0].sum(), hits.sum()])
        return [count.item() / len(labels) for count in right]


def state_of(arguments, seed):
    """The file of a seed and what it holds, None for nothing; refuses that of another training."""
    if not arguments.state:
        return None, None
    path = arguments.state
    if arguments.seeds:
        path = path.with_name(f"{path.stem}-{seed}{path.suffix}")
    if not path.exists():
        return path, None
    saved = torch.load(path, weights_only=True, map_location="cpu")
    for name in SETTINGS:
        theirs, ours = saved.get(name, EARLIER.get(name)), seed if name == "seed" else getattr(arguments, name)
        if theirs != ours:
            raise SystemExit(f"--state={path}: of another training: --{name}={theirs} there")
    return path, saved


def save(path, arguments, seed, **values):
    """Write the state of a seed, whole or not at all."""
    unfinished = path.with_suffix(".part")
    torch.save({**{name: getattr(arguments, name) for name in SETTINGS}, "seed": seed, **values}, unfinished)
    unfinished.replace(path)


def train(arguments, seed, data, device, deadline):
    """Train and test one seed; returns the result, or None where the time was up or it was finished before."""
    path, saved = state_of(arguments, seed)
    if saved and saved.get("finished"):
        print(f"seed {seed} is finished: {path}", flush=True)
        return None
    training = Training(arguments, seed, data, device)
    order, begin, before = torch.empty(0, dtype=torch.long), 0, 0.0
    if saved:
        begin, before, order = saved["step"], saved["seconds"], saved["order"]
        training.restore(saved)
        torch.manual_seed(seed + begin)
        torch.set_rng_state(saved["random"])
        print(f"seed {seed} goes on from step {begin}", flush=True)
    started = time.monotonic() - before
    for number in range(begin, arguments.steps):
        if len(order) < 128:
            order = torch.cat([order, torch.randperm(len(data.images))])
        training.chosen.copy_(order[:128])
        order = order[128:]
        if number in (arguments.steps // 2, arguments.steps * 3 // 4):
            training.rate.mul_(0.1)
        training.run()
        if (number + 1) % arguments.log_every and number + 1 < arguments.steps:
            continue
        loss, top1 = (training.total / (number % arguments.log_every + 1)).tolist()
        training.total.zero_()
        print(f"seed {seed}  step {number + 1}  loss {loss:.4f}  top-1 {top1:.4f}", flush=True)
        if path:
            save(
                path, arguments, seed, step=number + 1, seconds=time.monotonic() - started, order=order,
                rate=training.rate, model=training.model.state_dict(), momenta=training.momenta,
                random=torch.get_rng_state(),
            )  # fmt: skip
        if time.monotonic() > deadline and number + 1 < arguments.steps:
            print(f"seed {seed}: the time is up after step {number + 1}", flush=True)
            return None
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - started
    top1, top5 = training.score()
    return {
        "system": f"torch {torch.__version__}",
        "depth": arguments.depth,
        "seed": seed,
        "steps": arguments.steps,
        "epochs": round(arguments.steps * 128 / len(data.labels), 2),
        "examples": len(data.test[1]),
        "top1": top1,
        "top5": top5,
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
        "recipe": f"sgd lr 0.1 x0.1 at {falls} batch 128 decay {arguments.decay} {arguments.decayed} {precision}"
        + (" mean image" if arguments.normalization == "pixel" else ""),
        "dataset": "cifar10" if is_binary(arguments.data) else f"folder:{pathlib.Path(arguments.data).name}",
        **{name: result[name] for name in ("steps", "epochs", "examples", "top1", "top5")},
    }
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def main():
    """Parse the command line, train the seeds and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", help="several, such as 0,1,2, one after another, instead of --seed")
    parser.add_argument("--steps", type=int, default=64000)
    parser.add_argument("--decay", type=float, default=1e-4)
    parser.add_argument("--decayed", choices=("kernels", "all"), default="kernels")
    parser.add_argument("--normalization", choices=("channel", "pixel"), default="channel")
    parser.add_argument("--precision", choices=("tf32", "bfloat16"), default="tf32")
    parser.add_argument("--log_every", type=int, default=4000)
    parser.add_argument("--state", type=pathlib.Path, help="file to save to and to go on from, one for each seed")
    parser.add_argument("--time_limit", type=float, help="seconds after which to stop, to go on later from --state")
    parser.add_argument("--results", type=pathlib.Path, help="CSV file to append a row to")
    arguments = parser.parse_args()
    table = arguments.results
    if table and table.exists() and table.read_text().split("\n", 1)[0] != ",".join(COLUMNS):
        parser.error(f"--results={table}: it has other columns")
    if arguments.time_limit and not arguments.state:
        parser.error("--time_limit needs --state, or what was trained is lost")
    deadline = time.monotonic() + (arguments.time_limit or float("inf"))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = Data(arguments.data, arguments.normalization, device)
    for seed in map(int, (arguments.seeds or str(arguments.seed)).split(",")):
        if time.monotonic() > deadline:
            print(f"seed {seed}: the time is up", flush=True)
            break
        result = train(arguments, seed, data, device, deadline)
        if result:
            if table:
                append(table, arguments, result)
            if arguments.state:
                save(state_of(arguments, seed)[0], arguments, seed, finished=True, result=result)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
