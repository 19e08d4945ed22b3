"""Imagenette from scratch in PyTorch alone: what others' networks and recipes give on the same files.

    python benchmarks/peers/torch_imagenette.py --data=imagenette192.tar --model=xse_resnext50 --recipe=fastai \
      --size=128 --epochs=5 --seeds=0,1,2,3,4 --out=peers --results=results/imagenette.csv

DATA is a folder or tar of train/CLASS/IMAGE and val/CLASS/IMAGE, all images of one square size. Images are decoded once
and held on the device as bytes; views are made there. --model is fastai's xse_resnext50 (xresnet.py) or any of timm's.

--recipe=fastai is fastai's, from nbs/examples/train_imagenette.py with the settings of 2020-01-train.md in
fastai/imagenette: Ranger at 8e-3, momenta 0.95 and 0.99, epsilon 1e-6, weight decay 0.01 but for BN and biases, flat
for 75% of the steps and then a cosine to 1e-5 of that, batches of 64 of which the last short one is dropped, label
smoothing 0.1, views of 0.35 to 1 of the area mirrored half of the time, float16; mixup from 80 epochs on. Its alpha is
not in those notes; 0.4 is the default of fastai's callback, with one weight for each image, at least one half. Mish,
max pools in the shortcuts and self-attention are the network's. Validation scales the whole image to 1.14 times the
size, rounded up to 8 pixels, and crops the centre. What differs: the images are 192x192 and squashed, theirs have a
shorter side of 320; PyTorch's RAdam adds epsilon elsewhere (xresnet.py); attention is computed in float32.

--recipe=sgd is Bag of Tricks' (arXiv 1812.01187) in batches of 64: Nesterov's momentum at 0.05, a warm-up of 10% of the
epochs, at most 5, then a cosine, weight decay 5e-4 of kernels, label smoothing 0.1, the same views, and from 80 epochs
on mixup of 0.2 and jitter of 0.4 in brightness, contrast and saturation. Flags change single settings of either.

With --validation_examples=N training holds out those N images that resnet_tf holds out, and scores them; the test
images (val) are scored only without it, once, at the end. A folder OUT/MODEL_RECIPE_SIZE_EPOCHS_SEED gets examples.csv,
the predictions in the form of resnet_tf's, which benchmarks/peers/paired.py compares, and result.json; a finished seed
is not repeated, and a folder of other settings is refused. --save_every=EPOCHS writes state.pt there, from which an
interrupted training goes on. Seconds are of one GPU and count from the second step of the first seed on, so that
compilation is counted apart.
Needs torch, numpy and Pillow, and timm for its networks; nothing of resnet_tf.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import time

import imagenette_files as files
import torch
import views
import xresnet
from torch.nn import functional as F


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a training; the docstring of this file says where they are from."""

    optimizer: str
    lr: float
    weight_decay: float
    schedule: str
    mixup: float
    jitter: float
    long: int = 80  # epochs from which on mixup and jitter are used
    batch: int = 64
    area: float = 0.35
    smoothing: float = 0.1
    warmup: float = 0.0


RECIPES = {
    "fastai": Recipe("ranger", 8e-3, 1e-2, "flat_cos", 0.4, 0.0),
    "sgd": Recipe("sgd", 0.05, 5e-4, "cosine", 0.2, 0.4, warmup=0.1),
}
_FLAT, _LAST = 0.75, 1e-5  # of flat_cos: share of the steps at the full rate, and the last rate over it
_ALSO_SETTINGS = ("validation_examples", "precision", "steps", "limit")  # that no name of a folder says
PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def build(name: str, classes: int) -> torch.nn.Module:
    """Return a network with initial weights of torch's current seed."""
    if name == "xse_resnext50":
        return xresnet.xse_resnext50(classes)
    import timm

    return timm.create_model(name, num_classes=classes)


def optimizer_of(model, recipe: Recipe):
    """Return the optimizer, and its Lookahead or None; BN and biases do not decay."""
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    other = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": other, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True, foreach=True), None
    inner = torch.optim.RAdam(
        groups, lr=recipe.lr, betas=(0.95, 0.99), eps=1e-6, decoupled_weight_decay=True, foreach=True
    )
    return inner, xresnet.Lookahead(inner)


def rate(recipe: Recipe, step: int, total: int, epochs: int) -> float:
    """Return the learning rate of a step over the highest one."""
    if recipe.schedule == "flat_cos":
        done = max(0.0, (step / total - _FLAT) / (1 - _FLAT))
        return _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * done))
    warm = round(min(5, recipe.warmup * epochs) * total / epochs)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


class Training:
    """One training after another of the same cell, with the same compiled network."""

    def __init__(self, arguments, recipe: Recipe, data: dict):
        self.arguments, self.recipe, self.data = arguments, recipe, data
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.images, self.labels = (part.to(self.device) for part in data["train"][:2])
        self.classes = len(data["classes"])
        self.model = build(arguments.model, self.classes).to(self.device, memory_format=torch.channels_last)
        self.forward = self.model if arguments.compile == "none" else torch.compile(self.model, mode=arguments.compile)
        self.dtype = PRECISIONS[arguments.precision]
        self.is_warm, self.compile_seconds = False, 0.0
        self.per_epoch = len(self.images) // recipe.batch
        if not self.per_epoch:
            raise SystemExit(f"--batch={recipe.batch}: more than the {len(self.images)} training images")
        self.total = min(self.per_epoch * arguments.epochs, arguments.steps or 10**9)

    def _autocast(self):
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _step(self, chosen, optimizer, lookahead, scaler):
        recipe, is_long = self.recipe, self.arguments.epochs >= self.recipe.long
        x = views.random(self.images[chosen], self.arguments.size, recipe.area)
        x = views.normalized(views.jittered(x, recipe.jitter) if is_long and recipe.jitter else x)
        targets = F.one_hot(self.labels[chosen], self.classes).float()
        if is_long and recipe.mixup:
            x, targets = views.mixed(x, targets, recipe.mixup)
        with self._autocast():
            logits = self.forward(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=recipe.smoothing)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if lookahead:
            lookahead.after_step()
        return loss.detach()

    def run(self, seed: int, folder: pathlib.Path) -> dict:
        """Train with a seed, score, write the predictions, and return the result."""
        torch.manual_seed(seed)
        self.model.load_state_dict(build(self.arguments.model, self.classes).state_dict())
        optimizer, lookahead = optimizer_of(self.model, self.recipe)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        parts = {"model": self.model, "optimizer": lookahead or optimizer, "scaler": scaler}
        step, before = files.restore(folder / "state.pt", parts, self.device)
        started, order = time.monotonic() - before, None
        self.model.train()
        while step < self.total:
            if step % self.per_epoch == 0 or order is None:
                order = torch.randperm(len(self.images), device=self.device)
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.lr * rate(self.recipe, step, self.total, self.arguments.epochs)
            start = step % self.per_epoch * self.recipe.batch
            loss = self._step(order[start : start + self.recipe.batch], optimizer, lookahead, scaler)
            step += 1
            if not self.is_warm:
                self.compile_seconds, self.is_warm = self._seconds(started) - before, True
                started += self.compile_seconds
            if step % self.per_epoch == 0:
                self._after_epoch(step // self.per_epoch, loss, seed, started)
                if self.arguments.save_every and step // self.per_epoch % self.arguments.save_every == 0:
                    files.save(folder / "state.pt", parts, step, self._seconds(started), self.device)
        return self._finish(seed, folder, step, self._seconds(started))

    def _seconds(self, started):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic() - started

    def _after_epoch(self, epoch, loss, seed, started):
        if epoch % self.arguments.log_every:
            return
        line = f"seed {seed} epoch {epoch} loss {loss.item():.4f} seconds {self._seconds(started):.1f}"
        if "validation" in self.data:
            right = (self.logits("validation").argmax(1) == self.data["validation"][1]).float().mean()
            line += f" validation {right.item():.4f}"
        print(line, flush=True)

    @torch.no_grad()
    def logits(self, split: str) -> torch.Tensor:
        """Return the logits of a split, float32 [n, classes], on the host."""
        self.model.eval()
        found = []
        for part in self.data[split][0].split(256):
            x = views.normalized(views.central(part.to(self.device), self.arguments.size))
            with self._autocast():
                found.append(self.model(x.contiguous(memory_format=torch.channels_last)).float().cpu())
        self.model.train()
        return torch.cat(found)

    def _finish(self, seed, folder, step, seconds):
        split = "validation" if "validation" in self.data else "test"
        logits, labels = self.logits(split), self.data[split][1]
        files.write_predictions(folder / "examples.csv", logits, labels, self.data[split][2])
        hits = logits.topk(min(5, self.classes), dim=1).indices == labels[:, None]
        return {
            "model": self.arguments.model, "recipe": self.arguments.recipe, "size": self.arguments.size, "seed": seed,
            "split": split, "examples": len(labels), "steps": step, "epochs": round(step / self.per_epoch, 2),
            "top1": hits[:, 0].sum().item() / len(labels), "top5": hits.any(1).sum().item() / len(labels),
            "loss": F.cross_entropy(logits, labels).item(), "seconds": round(seconds, 1),
            "compile_seconds": round(self.compile_seconds, 1), "settings": dataclasses.asdict(self.recipe),
            "precision": self.arguments.precision, "compile": self.arguments.compile,
        }  # fmt: skip


def parsed() -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=pathlib.Path, help="folder or tar of SPLIT/CLASS/IMAGE")
    parser.add_argument("--model", default="xse_resnext50", help="xse_resnext50, or a name of timm")
    parser.add_argument("--recipe", choices=RECIPES, default="fastai")
    parser.add_argument("--size", type=int, default=128, help="side of the views in pixels")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", default="0", help="seeds, separated by commas")
    parser.add_argument("--validation_examples", type=int, default=0)
    parser.add_argument("--precision", choices=PRECISIONS, default="float16")
    parser.add_argument(
        "--compile", choices=("none", "default", "reduce-overhead", "max-autotune"), default="default",
        help="mode of torch.compile",
    )  # fmt: skip
    for field in dataclasses.fields(Recipe):
        if field.name not in ("optimizer", "schedule"):
            parser.add_argument(f"--{field.name}", type=field.type, help="changes this setting of the recipe")
    parser.add_argument("--steps", type=int, default=0, help="most steps, for trials; 0: no limit")
    parser.add_argument("--limit", type=int, default=0, help="most images of a class, for trials; 0: no limit")
    parser.add_argument("--log_every", type=int, default=5, help="epochs between lines")
    parser.add_argument("--save_every", type=int, default=0, help="epochs between saved states; 0: none")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("peers"), help="folder of the results")
    parser.add_argument("--results", type=pathlib.Path, help="CSV file to append a row to")
    arguments = parser.parse_args()
    if arguments.results:
        files.check_results(parser, arguments.results)
    return arguments


def main() -> None:
    """Train each seed and print one JSON line for each."""
    arguments = parsed()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    given = {field.name: getattr(arguments, field.name, None) for field in dataclasses.fields(Recipe)}
    changed = {name: value for name, value in given.items() if value is not None}
    recipe = dataclasses.replace(RECIPES[arguments.recipe], **changed)
    training = None
    for seed in map(int, arguments.seeds.split(",")):
        name = f"{arguments.model}_{arguments.recipe}_{arguments.size}_{arguments.epochs}_{seed}"
        folder = arguments.out / name
        done = folder / "result.json"
        files.claim(folder, dataclasses.asdict(recipe) | {name: getattr(arguments, name) for name in _ALSO_SETTINGS})
        if done.exists():
            print(done.read_text().strip(), flush=True)
            continue
        training = training or Training(
            arguments, recipe, files.read(arguments.data, arguments.validation_examples, arguments.limit)
        )
        result = training.run(seed, folder)
        if arguments.results and result["split"] == "test":
            files.append(arguments.results, arguments, result)
        done.write_text(json.dumps(result) + "\n")
        (folder / "state.pt").unlink(missing_ok=True)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
