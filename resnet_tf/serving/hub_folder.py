"""Write a folder in the layout of the Hugging Face hub, which timm reads too; see `models.hub` for the layout."""

import os
import pathlib
import shutil

import keras
import numpy as np

from resnet_tf import files
from resnet_tf.config import ConvertConfig, evaluation_size
from resnet_tf.errors import InputError
from resnet_tf.models import create_model, find, hub, inside, preprocessing, weights
from resnet_tf.models.architectures import as_in_timm
from resnet_tf.runs import network, restore

_IMAGENET = preprocessing.Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def write(settings: ConvertConfig) -> dict:
    """Write the network of a run, or of a file of weights, completely or not at all.

    Args:
        settings: a `config.ConvertConfig` with `out`, and `run`, or `model` and `source`.

    Returns:
        {"model", "architecture": timm's name, "out", "files", "parameters"}.

    Raises:
        InputError: no such run or weights, the folder exists, or timm has no such network or preprocessing.
        OSError: the folder cannot be written.
    """
    out = pathlib.Path(settings.out)
    if out.exists():
        raise InputError(f"--out={out}: exists already")
    model, expected, labels, tag = _of_run(settings) if settings.run else _of_source(settings)
    config = describe(model, expected, labels, tag)
    partial = files.partial_path(out)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        weights.save(model, partial / hub.WEIGHTS)
        files.write_json(partial / hub.CONFIG, config)
        (partial / hub.README).write_text(_readme(config, expected, settings, model.name), "utf-8")
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {
        "model": model.name, "architecture": config["architecture"], "out": str(out),
        "files": sorted(path.name for path in out.iterdir()), "parameters": model.count_params(),
    }  # fmt: skip


def _of_run(settings):
    run, values, normalization = restore.load(settings.run, settings.weights)
    if np.ndim(normalization.mean) > 1:
        raise InputError(f"--run={settings.run}: subtracts a mean image (--normalization=pixel), which timm does not")
    model = restore.build_model(run, values, restore.resolved(run, settings.weights))
    data, size = run.config.data, evaluation_size(run.config.data)
    mean, std = (
        tuple(np.broadcast_to(getattr(normalization, name), 3).astype(float).tolist()) for name in ("mean", "std")
    )
    expected = preprocessing.Preprocessing(mean, std, size, data.resize or size, data.interpolation or "bilinear")
    return model, expected, tuple(run.manifest["classes"]), pathlib.Path(run.folder).name


def _of_source(settings):
    opened = weights.open_source(settings.model, settings.source, settings.ema)
    model = create_model(
        settings.model,
        num_classes=settings.num_classes or find(settings.model).classes,
        graph=settings.graph or weights.graph_of(settings.model, opened),
    )
    weights.load(model, opened)
    expected = network.expected_of("source", f"{settings.model}:{settings.source}") or _IMAGENET
    if expected.order == "BGR":
        raise InputError(f"--source={settings.source}: takes images as BGR, which timm's config.json cannot say")
    return model, expected, (), "resnet_tf"


def describe(
    model: keras.Model, expected: preprocessing.Preprocessing, labels: tuple[str, ...] = (), tag: str = ""
) -> dict:
    """Return the content of config.json under timm's keys.

    Args:
        model: a network of `create_model`.
        expected: its preprocessing.
        labels: names of its classes in the order of its outputs; () to leave them out.
        tag: name of the weights.

    Raises:
        InputError: timm has no such network.
    """
    architecture, row = hub.timm_name(model.name), inside.row_of(model)
    if row.graph not in (find(model.name).graph, as_in_timm(find(model.name)).graph):
        raise InputError(f"--format=hub: timm's {architecture} has shortcut {find(model.name).shortcut} alone")
    names = {kind: weights.source_names(model.name, path, {})[0].rpartition(".")[0] for kind, path in
             (("first", model.weights[0].path), ("classifier", "logits/kernel"))}  # fmt: skip
    features, classes = model.get_layer("logits").kernel.shape
    settings = {
        "tag": tag,
        "custom_load": False,
        "input_size": [3, expected.size, expected.size],
        "fixed_input_size": False,
        "interpolation": expected.interpolation,
        "crop_pct": expected.size / expected.resize,
        "crop_mode": "center",
        "mean": [round(value / 255, 6) for value in expected.mean],
        "std": [round(value / 255, 6) for value in expected.std],
        "num_classes": classes,
        "pool_size": [-(-expected.size // 32)] * 2,
        "first_conv": names["first"],
        "classifier": names["classifier"],
    }
    config = {"architecture": architecture, "num_classes": classes, "num_features": features}
    return config | ({"label_names": list(labels)} if labels else {}) | {"pretrained_cfg": settings}


_README = """---
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
- resnet_tf
{licence}---

# {architecture}

{classes} classes, trained with resnet_tf.

Images: the shorter side scaled to {resize} pixels, {interpolation} with antialiasing; the central {size} x {size};
mean {mean}, standard deviation {std} in levels of 0 to 255.

```python
import timm

model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True)
```

```python
import resnet_tf

model = resnet_tf.create_model("{name}", num_classes={classes}, weights="FOLDER")  # a download of this repository
```
"""


def _readme(config, expected, settings, name):
    """Return README.md: the hub's metadata, and how to load the weights."""
    mean, std = (", ".join(f"{value:.3f}" for value in values) for values in (expected.mean, expected.std))
    return _README.format(
        licence=f"license: {settings.licence}\n" if settings.licence else "", name=name, mean=mean, std=std,
        architecture=config["architecture"], classes=config["num_classes"], resize=expected.resize, size=expected.size,
        interpolation=expected.interpolation,
    )  # fmt: skip
