"""Write resnet_tf/models/published_tags.csv: every published ResNet weight, by its tag.

    python benchmarks/peers/make_tags.py RESULTS_CSV [PRESETS_PY]
    python benchmarks/peers/make_tags.py --rows [PRESETS_PY]

The second form, after networks or readers were added, only looks up again which of them takes which weights. The first
needs timm, torch and torchvision; TensorFlow is not imported. RESULTS_CSV is timm's results/results-imagenet.csv,
PRESETS_PY is keras-hub's keras_hub/src/models/resnet/resnet_presets.py. Without the latter the lines of keras-hub in
the table stay.

Of timm are the facts of default_cfgs, parameters and multiply-accumulates of the network (hooks on convolutions and
linear layers, on torch's device `meta`), and the top-1 accuracy at the test size. Of torchvision are the facts of its
`Weights` enumerations. A number that its source does not give stays empty.
"""

import ast
import csv
import dataclasses
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from resnet_tf.errors import InputError  # noqa: E402
from resnet_tf.models import architectures, published  # noqa: E402

_DECIMALS = 3
# Converted from weights of timm, with the classifier and the views: PRESET_MAP of its convert_resnet_checkpoints.py.
_OF_KERAS_HUB = {f"resnet_{depth}_imagenet": f"resnet{depth}.a1_in1k" for depth in (18, 50, 101, 152)}
_OF_KERAS_HUB |= {f"resnet_v2_{depth}_imagenet": f"resnetv2_{depth}.a1h_in1k" for depth in (50, 101)}


def main():
    """Write the table."""
    kept = [] if len(sys.argv) > 2 or not published.FILE.exists() else list(_of_publisher("keras_hub"))
    if sys.argv[1] == "--rows":
        tags = [with_row(tag) for publisher in ("timm", "torchvision") for tag in _of_publisher(publisher)]
    else:
        tags = [*of_timm(_results(sys.argv[1])), *of_torchvision()]
    views = {tag.tag: tag for tag in tags}
    tags += [*of_trunks(), *of_keras()]
    tags += of_keras_hub(pathlib.Path(sys.argv[2]), views) if len(sys.argv) > 2 else kept
    write(tags)


def with_row(tag):
    """Return a tag of timm or torchvision with the network of this package that takes it now."""
    if tag.publisher not in ("timm", "torchvision"):
        return tag
    row = row_of(tag.network)
    reason = "" if row else f"no network here has the graph of {tag.publisher}'s {tag.network}"
    if tag.network.endswith("_pruned"):
        reason = "its channels are pruned, by another number in each block"
    return dataclasses.replace(tag, row=row, reason=reason)


def write(tags):
    """Write the table."""
    with published.FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(published.Tag))
        for tag in tags:
            writer.writerow(published.as_text(value) for value in dataclasses.astuple(tag))
    print(f"{published.FILE}: {len(tags)} tags, {sum(not tag.reason for tag in tags)} of them load")


def _of_publisher(publisher):
    return (tag for tag in published.table().values() if tag.publisher == publisher)


def _results(path):
    """Return {(tag, image size): [(crop share, top-1 in percent), ...]}."""
    results = {}
    for line in csv.DictReader(pathlib.Path(path).read_text().splitlines()):
        key = line["model"], int(line["img_size"])
        results.setdefault(key, []).append((float(line["crop_pct"]), float(line["top1"])))
    return results


def of_timm(results):
    """Return the tags of resnet.py and resnetv2.py that have weights."""
    from timm.models import _registry

    modules = _registry._module_to_models
    networks = modules["resnet"] | modules["resnetv2"]
    tags = []
    for name, facts in _registry._model_pretrained_cfgs.items():
        network, _, tag = name.partition(".")
        if network in networks and tag not in ("", "untrained"):
            tags.append(_of_timm(network, name, facts, results))
    return sorted(tags, key=lambda tag: _by_number(tag.tag))


def _by_number(text):
    """Return the key that sorts resnet101 behind resnet50."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def _of_timm(network, name, facts, results):
    size, parameters, gmacs = facts.input_size[1], *_costs(network, facts)
    test_size = (facts.test_input_size or facts.input_size)[1]
    test_crop = facts.test_crop_pct or facts.crop_pct
    scores = dict(results.get((name, test_size), []))
    return with_row(published.Tag(
        tag=name, publisher="timm", network=network, row="", hub=facts.hf_hub_id, file="model.safetensors",
        parameters=parameters, gmacs=gmacs, size=size, test_size=test_size, crop=facts.crop_pct, test_crop=test_crop,
        crop_mode=facts.crop_mode, interpolation=facts.interpolation, mean=facts.mean, std=facts.std,
        classes=facts.num_classes, licence=facts.license or "", top1=scores.get(test_crop),
        reason="",
    ))  # fmt: skip


def row_of(network):
    """Return the name of this package's network that has the graph of timm's network; "" if none has it."""
    try:
        return architectures.of_timm(network)
    except InputError:
        return ""


def _costs(network, facts):
    """Return the parameters of a network of timm and its multiply-accumulates in billions at its input size."""
    import timm
    import torch

    with torch.device("meta"):
        model = timm.create_model(network, pretrained=False, num_classes=facts.num_classes).eval()
    macs = []

    def count(layer, _, output):
        positions = output.numel() // output.shape[1]
        macs.append(positions * layer.weight.numel())

    for layer in model.modules():
        if isinstance(layer, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, *facts.input_size, device="meta"))
    return sum(weight.numel() for weight in model.parameters()), round(sum(macs) / 1e9, _DECIMALS)


def of_torchvision():
    """Return the weights of torchvision's resnet.py; its newer ones are scored at the size that timm tests at."""
    from torchvision import models

    tags = []
    for name in models.list_models(module=models):
        if models.get_model_builder(name).__module__ != models.resnet.__name__:
            continue
        for weights in models.get_model_weights(name):
            facts, transform = weights.meta, weights.transforms()
            size, share = transform.crop_size[0], transform.crop_size[0] / transform.resize_size[0]
            tags.append(with_row(published.Tag(
                tag=f"torchvision/{name}.{weights.name}", publisher="torchvision", network=name, row="",
                hub="", file=weights.url.rpartition("/")[2], parameters=facts["num_params"], gmacs=facts["_ops"],
                size=size, test_size=size, crop=share, test_crop=share, crop_mode="center",
                interpolation=transform.interpolation.value, mean=tuple(transform.mean), std=tuple(transform.std),
                classes=len(facts["categories"]), licence="bsd-3-clause",
                top1=facts["_metrics"]["ImageNet-1K"]["acc@1"],
                reason="",
            )))  # fmt: skip
    return tags


# Of hubconf.py and LICENSE of these repositories of facebookresearch; the views of evaluation are those of their linear
# evaluation: the file, the scaling, the licence, and why it does not load.
_TRUNKS = {
    "dino": ("dino_resnet50_pretrain.pth", "bicubic", "apache-2.0", ""),
    "vicreg": ("resnet50.pth", "bilinear", "mit", ""),
    "barlowtwins": ("resnet50.pth", "bilinear", "mit", ""),
    "swav": ("swav_800ep_pretrain.pth.tar", "bilinear", "cc-by-nc-4.0", ""),
}


def of_trunks():
    """Return the trunks of ResNet-50 without a head that self-supervised training made; their top-1 needs a head."""
    return [
        published.Tag(
            tag=f"{name}/resnet50", publisher="trunk", network="resnet50", row=row_of("resnet50"),
            hub=f"facebookresearch/{name}", file=file, parameters=None, gmacs=None, size=224, test_size=224, crop=0.875,
            test_crop=0.875, crop_mode="center", interpolation=scaling, mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225), classes=0, licence=licence, top1=None, reason=reason,
        )
        for name, (file, scaling, licence, reason) in _TRUNKS.items()
    ]  # fmt: skip


def of_keras():
    """Return the ResNets of keras.applications; their sizes and crops are those of the authors of the v1 weights."""
    caffe = (123.68 / 255, 116.779 / 255, 103.939 / 255)
    tags = []
    for depth in (50, 101, 152):
        row = architectures.find(f"resnet{depth}_v1")
        assert row.bottleneck and row.stride_in == "1x1"
        tags.append(published.Tag(
            tag=f"ResNet{depth}", publisher="keras", network=f"ResNet{depth}", row=f"resnet{depth}_v1", hub="",
            file=f"resnet{depth}_weights_tf_dim_ordering_tf_kernels.h5", parameters=None, gmacs=None, size=224,
            test_size=224, crop=0.875, test_crop=0.875, crop_mode="center", interpolation="bilinear", mean=caffe,
            std=(1 / 255,) * 3, classes=1000, licence="", top1=None, reason="",
        ))  # fmt: skip
    for depth in (50, 101, 152):
        tags.append(published.Tag(
            tag=f"ResNet{depth}V2", publisher="keras", network=f"ResNet{depth}V2", row="", hub="",
            file=f"resnet{depth}v2_weights_tf_dim_ordering_tf_kernels.h5", parameters=None, gmacs=None, size=224,
            test_size=224, crop=None, test_crop=None, crop_mode="center", interpolation="bilinear", mean=(0.5,) * 3,
            std=(0.5,) * 3, classes=1000, licence="", top1=None,
            reason="its graph has the stride in the last block of a stage and biases in convolutions",
        ))  # fmt: skip
    return tags


def of_keras_hub(path, views):
    """Return the presets of keras-hub: names and handles of its table, and the views of the weights they come from.

    Args:
        path: its resnet_presets.py.
        views: {tag: the facts of timm's weights}.
    """
    presets = ast.literal_eval(path.read_text().partition("backbone_presets =")[2].strip())
    return [_of_preset(name, facts, views) for name, facts in presets.items()]


def _of_preset(name, facts, views):
    depth, reason = int(re.search(r"\d+", name)[0]), ""
    if name in _OF_KERAS_HUB:
        source = views[_OF_KERAS_HUB[name]]
    else:  # PaddleClas, of whose views convert_resnet_vd_checkpoints.py gives size, mean and deviation
        source = dataclasses.replace(
            views["resnet50d.ra2_in1k"], row=f"resnet{depth}_v1d", interpolation="bilinear", size=224
        )
        if depth not in (50, 101, 152):  # by the parameters of the presets, which count moving statistics
            source = dataclasses.replace(source, row="")
            reason = (
                "its stages have other depths than those of resnet200_v1d" if depth == 200
                else f"the shortcut of its first block is a projection, which resnet{depth}_v1d does not have"
            )  # fmt: skip
    return published.Tag(
        tag=f"keras_hub/{name}", publisher="keras_hub", network=name, row=source.row,
        hub=facts["kaggle_handle"].partition("://")[2], file="model.weights.h5", parameters=None, gmacs=None,
        size=source.size, test_size=source.size, crop=1.0, test_crop=1.0, crop_mode="center",
        interpolation=source.interpolation, mean=source.mean, std=source.std, classes=1000, licence="", top1=None,
        reason=reason,
    )  # fmt: skip


if __name__ == "__main__":
    main()
