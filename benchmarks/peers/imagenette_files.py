"""Files of torch_imagenette.py: images in, predictions and rows of results out."""

import concurrent.futures
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

import numpy as np
import torch
from PIL import Image

COLUMNS = (
    "date", "commit", "command", "hardware", "versions", "seed", "wall_seconds", "model", "recipe", "dataset", "steps",
    "epochs", "examples", "top1", "top5",
)  # fmt: skip
EXAMPLES = ("example", "name", "label", "predicted", "probability", "loss")
_SPLITS = {"train": "train", "val": "test"}
_SUFFIXES = (".jpeg", ".jpg", ".png")


def _encoded(path):
    """Yield (name, encoded image) of a folder or tar."""
    if path.is_dir():
        for file in path.rglob("*"):
            if file.suffix.lower() in _SUFFIXES:
                yield file.relative_to(path).as_posix(), file.read_bytes()
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.lower().endswith(_SUFFIXES):
                yield member.name, archive.extractfile(member).read()


def _pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def held_out(labels: np.ndarray, count: int) -> np.ndarray:
    """Return which of the training images resnet_tf holds out by --validation_examples=COUNT: bool [n].

    It holds out each class's share of `count`, the first ones of a fixed permutation; where shares are not whole, the
    classes with the largest rest give one more.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    sizes = np.bincount(labels)
    shares = sizes * (count / sizes.sum())
    quotas = sizes * count // sizes.sum()
    while quotas.sum() < count:
        quotas[(shares - quotas).argmax()] += 1
    chosen = np.zeros(len(labels), bool)
    for label, quota in enumerate(quotas):
        chosen[order[labels[order] == label][:quota]] = True
    return chosen


def read(path: pathlib.Path, validation_examples: int, limit: int = 0) -> dict:
    """Read all images.

    Args:
        path: folder or tar of SPLIT/CLASS/IMAGE, all images of one square size.
        validation_examples: training images to hold out; the test images are then not read.
        limit: most images of a class; 0 for all.

    Returns:
        {"classes": names, and for "train" and "test" or "validation": (uint8 [n, 3, side, side], labels [n], names)},
        sorted by class and name.
    """
    found = {}
    for name, data in _encoded(path):
        parts = pathlib.PurePosixPath(name).parts
        if len(parts) >= 3 and parts[-3] in _SPLITS:
            found.setdefault(_SPLITS[parts[-3]], []).append((parts[-2], name, data))
    if "train" not in found or "test" not in found:
        raise SystemExit(f"--data={path}: no images in train/CLASS and val/CLASS")
    classes = sorted({label for label, *_ in found["train"]})
    result = {"classes": classes}
    for split, images in found.items():
        if split == "test" and validation_examples:
            continue
        images.sort(key=lambda image: image[:2])
        if limit:
            images = [image for name in classes for image in [one for one in images if one[0] == name][:limit]]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the GIL
            pixels = list(pool.map(_pixels, (data for *_, data in images)))
        if len({image.shape for image in pixels}) > 1 or pixels[0].shape[0] != pixels[0].shape[1]:
            raise SystemExit(f"--data={path}: images of {split} are not squares of one size")
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
        labels = np.array([classes.index(label) for label, *_ in images])
        result[split] = (stacked, torch.from_numpy(labels), [name for _, name, _ in images])
    if validation_examples:
        images, labels, names = result["train"]
        out = held_out(labels.numpy(), validation_examples)
        for split, mask in (("train", ~out), ("validation", out)):
            kept = torch.from_numpy(np.flatnonzero(mask))
            result[split] = (images[kept], labels[kept], [names[index] for index in kept.tolist()])
    return result


def write_predictions(path: pathlib.Path, logits: torch.Tensor, labels: torch.Tensor, names: list[str]) -> None:
    """Write examples.csv as resnet_tf's evaluation does."""
    probabilities = logits.double().softmax(1)
    predicted = probabilities.argmax(1)
    rows = torch.arange(len(labels))
    losses = -probabilities[rows, labels].log()
    unfinished = path.with_suffix(".part")
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(EXAMPLES)
        for row in rows.tolist():
            best = predicted[row].item()
            numbers = f"{probabilities[row, best].item():.6g}", f"{losses[row].item():.6g}"
            writer.writerow([row, names[row], labels[row].item(), best, *numbers])
    unfinished.replace(path)


def claim(folder: pathlib.Path, settings: dict) -> None:
    """Create the folder of a training, or check that the one that is there is of the same settings."""
    path = folder / "settings.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings) + "\n")
        return
    theirs = json.loads(path.read_text())
    other = [f"--{name}={theirs.get(name)} there, {value} here" for name, value in settings.items()
             if theirs.get(name) != value]  # fmt: skip
    if other:
        raise SystemExit(f"--out: {folder} is of other settings: {'; '.join(other)}")


def save(path: pathlib.Path, parts: dict, step: int, seconds: float, device: torch.device) -> None:
    """Save the state of a training, whole or not at all."""
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"step": step, "seconds": seconds, "random": torch.get_rng_state()}
    if device.type == "cuda":
        state["random_device"] = torch.cuda.get_rng_state()
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)


def restore(path: pathlib.Path, parts: dict, device: torch.device) -> tuple[int, float]:
    """Restore a saved state if there is one; return the number of steps done and the seconds that they took."""
    if not path.exists():
        return 0, 0.0
    # From the host: the parts copy to the device what belongs there, and optimizers count their steps on the host.
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["random_device"])
    print(f"{path}: goes on from step {state['step']}", flush=True)
    return state["step"], state["seconds"]


def commit() -> str:
    """Return the commit of this file's checkout, or $RESNET_TF_COMMIT, for copies without git."""
    git = ["git", "-C", pathlib.Path(__file__).parent, "rev-parse", "--short=12", "HEAD"]
    found = os.environ.get("RESNET_TF_COMMIT") or subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return found or "unknown"


def hardware() -> str:
    """Return the device's name, as rows of results have it."""
    shared = os.environ.get("RESNET_TF_SHARED_BY")
    name = f"{torch.cuda.get_device_name()} x1" if torch.cuda.is_available() else platform.machine()
    return name + (f", shared by {shared} trainings" if shared else "")


def check_results(parser, path: pathlib.Path) -> None:
    """Refuse a results file with other columns."""
    if path.exists() and path.read_text().split("\n", 1)[0] != ",".join(COLUMNS):
        parser.error(f"--results={path}: it has other columns")


def append(path: pathlib.Path, arguments, result: dict) -> None:
    """Append a row of results, with a header where the file is new."""
    settings = result["settings"]
    recipe = [result["recipe"], settings["optimizer"], f"lr {settings['lr']:g}", settings["schedule"]]
    recipe += [f"batch {settings['batch']}", f"decay {settings['weight_decay']:g} kernels", result["precision"]]
    recipe += [f"smoothing {settings['smoothing']:g}", f"area {settings['area']:g}", f"{result['size']} pixels"]
    if arguments.epochs >= settings["long"]:
        recipe += [f"{name} {settings[name]:g}" for name in ("mixup", "jitter") if settings[name]]
    row = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": shlex.join(["python", *sys.argv]),
        "hardware": hardware(),
        "versions": f"python {platform.python_version()}; torch {torch.__version__}",
        "wall_seconds": result["seconds"],
        "model": f"torch {result['model']}",
        "recipe": " ".join(recipe),
        "dataset": f"folder:{arguments.data.name}",
        **{name: result[name] for name in ("seed", "steps", "epochs", "examples", "top1", "top5")},
    }
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
