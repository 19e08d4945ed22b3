"""The settings that --auto chooses from the images, the device and the weights that are at hand.

The choices are the rows of `ROWS`; docs/photos.md shows them as a table. Each chosen setting has a reason, which the
manifest of the run records. A setting that is given is never chosen.
"""

import dataclasses
import hashlib
import json
import pathlib
import textwrap
import types
from typing import NamedTuple

from resnet_tf import config as configuration
from resnet_tf.config import AUTO, TrainConfig
from resnet_tf.data.splits import MAX_BYTES, Source
from resnet_tf.errors import InputError
from resnet_tf.models import preprocessing
from resnet_tf.runs import devices, network, record, run_data
from resnet_tf.training import facts as looking

_SMALL = 1000  # images; with fewer, a fifth is held out, and all of it is needed for the choice of the weights
# Bytes of activations of one image of 224 x 224 pixels in training, in 16 bits; float32 takes twice as much.
_ACTIVATIONS = {"resnet18_v1d": 40e6, "resnet50_v1d": 160e6}


class Row(NamedTuple):
    """A row of the table of choices. The first one that fits holds.

    Attributes:
        pretrained: whether training starts from weights.
        on_gpu: whether it runs on GPUs.
        most: largest number of training images.
        side: largest side in pixels of the central crop in evaluation.
        settings: {flag: value}; the learning rate is for the batch size beside it.
    """

    pretrained: bool
    on_gpu: bool
    most: float
    side: int
    settings: dict


_ANY = float("inf")
_PARTS = ("stem", "stage1", "stage2", "stage3", "stage4")
_SMALL_NET, _LARGE_NET = {"model": "resnet18_v1d"}, {"model": "resnet50_v1d"}
_SGD, _ADAMW = {"optimizer": "nesterov", "weight_decay": 5e-4}, {"optimizer": "adamw", "weight_decay": 0.05}
_TUNED = {"mixup": 0.0, "cutmix": 0.0, "area": (0.35, 1.0), "color_jitter": (0.2, 0.0, 0.2, 0.2)} | _SGD
_SCRATCH = {"freeze": (), "layer_decay": 1.0, "area": (0.25, 1.0), "color_jitter": (0.3, 0.0, 0.3, 0.1)}
_FEW = _SCRATCH | _ADAMW | {"mixup": 0.0, "cutmix": 0.0}
_MANY = _SCRATCH | _SGD | {"mixup": 0.2, "cutmix": 1.0}


def _length(epochs: float, batch_size: int, lr: float) -> dict:
    return {"train_epochs": epochs, "batch_size": batch_size, "lr": lr}


ROWS = (
    # Fine-tuning. A CPU trains the classifier alone: a backward pass through the network takes twice as long as it.
    Row(True, False, _ANY, 192, _SMALL_NET | _TUNED | {"freeze": _PARTS, "layer_decay": 1.0} | _length(15.0, 16, 0.01)),
    Row(True, True, 500, 224, _LARGE_NET | _TUNED | {"freeze": _PARTS[:4]} | _length(40.0, 32, 0.02)),
    Row(True, True, 20_000, 224, _LARGE_NET | _TUNED | {"freeze": _PARTS[:2]} | _length(20.0, 64, 0.02)),
    Row(True, True, _ANY, 224, _LARGE_NET | _TUNED | {"freeze": ()} | _length(10.0, 256, 0.05)),
    # From scratch.
    Row(False, False, 500, 112, _SMALL_NET | _FEW | _length(120.0, 16, 0.001)),
    Row(False, False, 3000, 112, _SMALL_NET | _FEW | _length(40.0, 32, 0.001)),
    Row(False, False, _ANY, 112, _SMALL_NET | _MANY | {"cutmix": 0.0} | _length(15.0, 64, 0.05)),
    Row(False, True, 1000, 128, _SMALL_NET | _FEW | _length(200.0, 16, 0.001)),
    Row(False, True, 30_000, 192, _LARGE_NET | _MANY | _length(250.0, 256, 0.2)),
    Row(False, True, _ANY, 224, _LARGE_NET | _MANY | _length(90.0, 256, 0.2)),
)


def network_for(on_gpu: bool) -> str:
    """Return the name of the network that is fine-tuned where none is given."""
    return (_LARGE_NET if on_gpu else _SMALL_NET)["model"]


class Choice(NamedTuple):
    """A training whose settings are all chosen.

    Attributes:
        config: a `TrainConfig`.
        source: the loaded data.
        skipped: images that were left out, (name, reason).
        reasons: {flag: value and reason, in words} of the chosen settings.
        warnings: sentences that the user must read.
    """

    config: TrainConfig
    source: Source
    skipped: list
    reasons: dict
    warnings: list


def wanted(config) -> bool:
    """Return whether settings of a configuration are to be chosen."""
    return hasattr(config, "choice") and (bool(config.choice.auto) or config.model.init_from == AUTO)


def choose(config: TrainConfig, source: Source | None = None) -> Choice:
    """Choose the settings that --auto names.

    A run that is in its folder already keeps what was chosen for it.

    Args:
        config: a `TrainConfig` with `choice.auto`.
        source: data from Python; None for those of the configuration.

    Raises:
        InputError: data that are missing or damaged, weights that do not exist, or settings that cannot work together.
    """
    names = set(config.choice.auto) | ({"init_from"} if config.model.init_from == AUTO else set())
    config_type = type(config)  # that of `show` has more flags
    unknown = sorted(names - set(configuration.fields_of(config_type)))
    if unknown:
        raise InputError(f"--auto={','.join(unknown)}: no such flag")
    settings = configuration.settings_of(config)
    for longer, other in (("train_steps", "train_epochs"), ("eval_every", "eval_epochs")):
        if settings[longer]:
            names.discard(other)
    given = {name: value for name, value in settings.items() if name not in names}
    if config.record.smoke and not config.data.data_dir and source is None:
        given["dataset"] = "synthetic"
    reasons, warnings = {}, []
    chosen = _Chosen(names, given, reasons)
    source, skipped = _divide(chosen, source)
    folder = _folder(chosen, config, source)
    if (folder / record.MANIFEST).exists():
        recorded = configuration.settings_of(record.open_run(folder, "--out=").config)
        chosen.values = {name: recorded[name] for name in names if name in recorded}
        chosen.reasons.clear()
    else:
        origin = _weights(chosen, devices.has_gpu(), warnings)
        facts = looking.of(source.splits["train"], len(given["gpus"]) or given["replicas"], origin)
        _fill(chosen, facts, source)
    values = chosen.given | chosen.values | {"auto": (), "out": str(folder)}
    return Choice(configuration.from_settings(config_type, values, "--auto"), source, skipped, reasons, warnings)


def described(reasons: dict[str, str]) -> list[str]:
    """Return the chosen settings as lines, without their reasons; no line if nothing was chosen."""
    if not reasons:
        return []
    fields = configuration.fields_of(TrainConfig)
    chosen = [(name, why.partition(": ")[0]) for name, why in reasons.items()]
    flags = [f"--{name}={value}" for name, value in chosen if value != _text(fields[name].default)]
    return [
        *textwrap.wrap(" ".join(flags), 111, initial_indent="chosen   ", subsequent_indent=" " * 9),
        "         (manifest.yaml has the reasons; a flag that you set is not chosen)",
    ]


@dataclasses.dataclass
class _Chosen:
    """The settings that are chosen so far: `set` ignores a setting that the user gave."""

    names: set
    given: dict
    reasons: dict
    values: dict = dataclasses.field(default_factory=dict)

    def set(self, name, value, reason):
        values = self.given | self.values
        if name in self.names and configuration.is_used(TrainConfig, name, values):
            self.values[name] = value
            self.reasons[name] = f"{_text(value)}: {reason}"

    def get(self, name):
        return self.values.get(name, self.given.get(name))

    def data(self):
        """Return the sections data and views so far, as `run_data.load` takes them."""
        values, sections = self.given | self.values, configuration.section_types(TrainConfig)
        parts = {}
        for name in ("data", "views"):
            fields = dataclasses.fields(sections[name])
            parts[name] = sections[name](**{one.name: values[one.name] for one in fields if one.name in values})
        configuration.check_data(parts["data"])
        return types.SimpleNamespace(**parts)


def _text(value):
    if isinstance(value, tuple):
        return configuration.listed(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _folder(chosen, config, source):
    """Return the run folder: --out, or a name from the data's, the settings and the images."""
    if config.record.out:
        return pathlib.Path(config.record.out)
    fields = configuration.fields_of(TrainConfig)
    settings = {name: value for name, value in chosen.given.items() if fields[name].metadata["changes_result"]}
    text = json.dumps([settings, source.checksum()], sort_keys=True, default=str)
    stem = pathlib.PurePath(config.data.data_dir or config.data.dataset).name.split(".")[0]
    return pathlib.Path("runs", f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}")


# --- Splits ----------------------------------------------------------------------------------------------------------


def _divide(chosen, source):
    """Choose which share of the images is held out, and load the data so."""
    if source is not None:
        return source, []
    whole, skipped = run_data.load(chosen.data())
    count, splits = len(whole.splits["train"]), set(whole.splits)
    if "validation" not in splits:
        is_small = count < _SMALL
        share, why = 0.2 if is_small else 0.1, f"{count:,} images" + f", fewer than {_SMALL:,}" * is_small
        chosen.set("validation_share", share, f"{why}, and the data have no validation split")
        if "test" not in splits and not is_small:
            chosen.set("test_share", share, f"{why}, and the data have no test split")
    if chosen.get("validation_share") or chosen.get("test_share"):
        return run_data.load(chosen.data())
    return whole, skipped


# --- Weights ---------------------------------------------------------------------------------------------------------


def _weights(chosen, on_gpu, warnings):
    """Return the weights to start from: those given, or published ones that can be had; "" for none."""
    if "init_from" not in chosen.names:
        return chosen.given["init_from"]
    if chosen.given.get("smoke"):
        chosen.set("init_from", "", "--smoke downloads nothing")
        return ""
    name = chosen.given["model"] if "model" not in chosen.names else network_for(on_gpu)
    try:
        looking.get_published(name)
    except InputError as error:
        warnings.append(
            f"no pretrained weights for {name} ({error}): training starts from scratch, which needs more images and "
            "time for the same accuracy. --init_from=MODEL:FILE takes a file of weights, such as one of timm"
        )
        chosen.set("init_from", "", "published weights cannot be had")
        return ""
    chosen.set("init_from", f"{name}:imagenet", "published ImageNet weights")
    return f"{name}:imagenet"


# --- Settings --------------------------------------------------------------------------------------------------------


def _fill(chosen, facts, source):
    """Choose by the first row of the table that fits, then by sizes and memory."""
    row = next(
        row for row in ROWS
        if (row.pretrained, row.on_gpu) == (bool(facts.weights), facts.on_gpu) and facts.images <= row.most
    )  # fmt: skip
    where = f"{'fine-tuning' if row.pretrained else 'from scratch'} on {'a GPU' if row.on_gpu else 'a CPU'}"
    reason = where if row.most == _ANY else f"{where}, up to {row.most:,} training images"
    for name, value in row.settings.items():
        chosen.set(name, value, reason)
    chosen.set("normalization", "imagenet", "that of published weights")
    theirs = _settings_of(facts.weights) if facts.weights else {}
    share = theirs.pop("crop", (7, 8))
    for name, value in theirs.items():
        chosen.set(name, value, "that of --init_from")
    if "image_size" not in theirs:
        _choose_sizes(chosen, facts, row, share)
    _choose_place(chosen, facts)
    chosen.set("precision", "float16" if facts.half else "float32", "the fastest of the device")
    _choose_batch(chosen, facts, row)
    _choose_rhythm(chosen, facts, "validation" in source.splits)


def _settings_of(origin):
    """Return the settings of the network whose weights --init_from names, and of its views if they are known."""
    kind = network.locate("init_from", origin)
    if kind == "weights":
        views = _view_of(network.expected_of("init_from", origin))
        return {"model": network.name_of("init_from", origin)} | views
    path = pathlib.Path(origin)
    theirs = record.open_run(path, "--init_from=").config if kind == "run" else None
    theirs = theirs or network.describe_exported("init_from", path)[0]
    settings = {name: getattr(theirs.model, name) for name in ("model", "shortcut", "graph")}
    settings |= {name: getattr(theirs.data, name) for name in ("image_size", "eval_size", "resize")}
    is_mean_image = theirs.data.normalization == "pixel"  # which no random view can be taken off
    return settings | ({} if is_mean_image else {"normalization": theirs.data.normalization})


def _view_of(expected):
    """Return the settings of views that travel with weights, and "crop", the sides of crop and image, if known."""
    if expected is None:
        return {}
    way, crop = expected.interpolation, (expected.size, expected.resize)
    return {"normalization": preprocessing.name_of(expected.mean), "interpolation": way, "crop": crop}


def _choose_sizes(chosen, facts, row, share):
    """Choose the sizes of views: no larger than the images, those of training in multiples of 32, the stride."""
    side = max(32, min(row.side, facts.side // 16 * 16))
    why = f"at most {row.side}, and the shorter sides of the images are about {facts.side} pixels"
    if "image_size" not in chosen.names:
        chosen.set("eval_size", 0, "--image_size, which is given")
        chosen.set("resize", 0, "the side of the crop")
    elif row.pretrained:
        chosen.set("image_size", side, why)
        chosen.set("eval_size", 0, "that of training")
        scaled = min(facts.side, side * share[1] // share[0])
        chosen.set("resize", scaled if facts.side > side else 0, "a margin around the crop")
    else:
        train = max(32, round(side * 5 / 6 / 32) * 32)
        chosen.set("image_size", train, f"5/6 of {side}: {why}; objects look larger in training crops (Touvron 2019)")
        chosen.set("eval_size", side if side != train else 0, why)
        chosen.set("resize", side if side != train else 0, "the side of the crop")


def _choose_place(chosen, facts):
    """Choose whether the images are held on the GPU, which saves decoding them in every epoch."""
    view = run_data.training_view(chosen.data())
    if view is None or not (facts.on_gpu and facts.size) or view.shrinks(*facts.size):
        return
    height, width = facts.size
    if facts.images * height * width * 3 < min(MAX_BYTES, facts.memory / 8):
        chosen.set("hold_images", True, f"all images have {height} x {width} pixels and fit on the GPU")


def _choose_batch(chosen, facts, row):
    """Choose the batch size that the memory and the number of images allow, and the learning rate in proportion."""
    batch, reason = row.settings["batch_size"], "the table"
    if facts.on_gpu:
        pixels = (chosen.get("image_size") / 224) ** 2
        bytes_each = _ACTIVATIONS.get(chosen.get("model"), max(_ACTIVATIONS.values())) * pixels
        bytes_each *= 1 if chosen.get("precision") in ("float16", "bfloat16") else 2
        while batch > 8 and batch / facts.replicas * bytes_each > 0.7 * facts.memory:
            batch, reason = batch // 2, f"{facts.memory / 2**30:.0f} GiB of memory"
    while batch > 2 and batch * 4 > facts.images:
        batch, reason = batch // 2, f"{facts.images} training images"
    batch = max(batch // facts.replicas, 2 if chosen.get("mixup") or chosen.get("cutmix") else 1) * facts.replicas
    batch = max(1, min(batch, facts.images // facts.replicas * facts.replicas))
    if batch // facts.replicas % 2:
        for name in ("mixup", "cutmix"):
            chosen.set(name, 0.0, "an odd batch, and they pair images")
    chosen.set("batch_size", batch, reason)
    lr = row.settings["lr"] * chosen.get("batch_size") / row.settings["batch_size"]
    chosen.set("lr", round(lr, 6), f"{row.settings['lr']:g} for a batch of {row.settings['batch_size']}, in proportion")


def _choose_rhythm(chosen, facts, has_validation):
    """Choose warm-up, evaluations, rows and checkpoints, and when to stop, from the number of epochs."""
    epochs, steps = chosen.get("train_epochs"), max(1, facts.images // chosen.get("batch_size"))
    if not epochs:  # --train_steps is given
        epochs = chosen.get("train_steps") / steps
    chosen.set("warmup_epochs", round(min(5.0, epochs / 10), 2), "a tenth of the training, at most 5 epochs")
    chosen.set("eval_epochs", 1.0, "each epoch")
    chosen.set("log_every", steps, "a row in each epoch")
    chosen.set("checkpoint_every", steps * max(1, round(epochs / 10)), "a tenth of the training")
    if has_validation:
        # From scratch the loss falls late, with the learning rate of the cosine.
        part, words = (3, "a third") if facts.weights else (2, "half")
        chosen.set("stop_after", max(5, round(epochs / part)), f"{words} of the training")
        chosen.set("finish_on", "best", "there is a validation split to choose on")
