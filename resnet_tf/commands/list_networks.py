"""List the networks and their costs: `python -m resnet_tf.models [PATTERN]`; published weights with --pretrained."""

import dataclasses
import fnmatch
import sys

from resnet_tf import command, config


def _draw(settings):
    from resnet_tf.evaluation import pictures
    from resnet_tf.models import diagram

    for name in settings.diagram:
        diagram.row_of(name)
    out = pictures.check(settings.out or f"{'-'.join(settings.diagram).replace(':', '-')}.png", "--diagram")
    pictures.write(out, diagram.draw(settings.diagram), dpi=150)
    return {"models": list(settings.diagram), "out": str(out)}


def _row(name):
    from resnet_tf.models import cost_by_name, find

    size, cost = find(name).input_size, cost_by_name(name)
    return {
        "name": name,
        "trainable_parameters": cost.trainable_parameters,
        "gmacs": round(cost.gmacs, 4),
        "gflops_thop": round(cost.gflops_thop, 4),
        "mib_float32": round(cost.mib_float32, 2),
        "mib_float16": round(cost.mib_float16, 2),
        "activations": cost.activations,
        "input": [size, size, 3],
        "classes": find(name).classes,
    }


def _pretrained(settings, patterns):
    """List published weights by their tags, or by the network of this package that takes them, and those of the zoo."""
    from resnet_tf.models import published, zoo

    tags, own = {}, {}
    for pattern in patterns or ["*"]:
        found = [published.find(name) for name in published.names(pattern)] or published.of_row(pattern)
        ours = {name: row for name, row in zoo.table().items() if fnmatch.fnmatchcase(name, pattern)}
        if not found and not ours:
            published.find(pattern)  # raises an error that names the nearest tags
        tags |= {tag.tag: tag for tag in found}
        own |= ours
    rows = [dataclasses.asdict(tag) | {"best": published.best().get(tag.row) == tag} for tag in tags.values()]
    rows = [row | {"weights": "imagenet" if row["best"] else row["tag"]} for row in rows]
    rows += [_of_zoo(name, row) for name, row in own.items()]
    if settings.json:
        return {"pretrained": rows}
    print(
        f"{'tag':44} {'network':22} {'parameters':>11} {'GMACs':>8} {'train':>5} {'test':>5} {'crop':>5} "
        f"{'scaling':9} {'top-1':>6} {'licence':13} file"
    )
    for row in rows:
        numbers = [_cell(row["parameters"], ",", 11), _cell(row["gmacs"], ".3f", 8), _cell(row["size"], "d", 5),
                   _cell(row["test_size"], "d", 5), _cell(row["test_crop"], ".3g", 5)]  # fmt: skip
        where = f"{row['hub']}/{row['file']}" if row["hub"] else f"{row['file']} ({row['publisher']})"
        where = f"does not load: {row['reason']}" if row["reason"] else where
        best = f" (weights={row['weights']})" if row["weights"] != row["tag"] else ""
        top1 = _cell(row["top1"], ".2f", 6)
        print(f"{row['tag']:44} {row['row']:22} {' '.join(numbers)} {row['interpolation']:9} {top1} "
              f"{row['licence']:13} {where}{best}")  # fmt: skip
    return {"pretrained": len(rows)}


def _of_zoo(name, row):
    """Return a row of the zoo under the columns of published weights; its accuracy is of CIFAR-10, on its test images.

    Mean and deviation are those of `preprocessing_of`, a mean image perhaps, and are left out here.
    """
    from resnet_tf.models import cost_by_name, find, published, zoo

    size, cost = find(name).input_size, cost_by_name(name)
    facts = published.Tag(
        tag=f"{name}:{zoo.NAME}", publisher="resnet_tf", network=name, row=name, hub="", file=row["file"],
        parameters=cost.trainable_parameters, gmacs=cost.gmacs, size=size, test_size=size, crop=1.0, test_crop=1.0,
        crop_mode="center", interpolation="bilinear", mean=(), std=(), classes=len(zoo.CLASSES), licence="apache-2.0",
        top1=100 * float(row["top1"]), reason="",
    )  # fmt: skip
    return dataclasses.asdict(facts) | {"best": False, "weights": zoo.NAME}


def _cell(value, form, width):
    return f"{'' if value is None else format(value, form):>{width}}"


def _run(settings, patterns):
    from resnet_tf.models import find, list_models

    if settings.diagram:
        return _draw(settings)
    if settings.pretrained:
        return _pretrained(settings, patterns)
    names = []
    for pattern in patterns or ["*"]:
        # A name outside of the table is a CIFAR network of any valid depth, or `find` raises an error.
        matches = list_models(pattern) or ([pattern] if find(pattern) else [])
        names += [name for name in matches if name not in names]
    rows = [_row(name) for name in names]
    if settings.json:
        return {"models": rows}
    print(f"{'name':22} {'parameters':>12} {'GMACs':>8} {'GFLOPs (thop)':>14} {'MiB (32 bit)':>13}  input")
    for row in rows:
        numbers = f"{row['trainable_parameters']:12,} {row['gmacs']:8.3f} {row['gflops_thop']:14.3f}"
        print(f"{row['name']:22} {numbers} {row['mib_float32']:13.2f}  {'x'.join(map(str, row['input']))}")
    return {"models": len(rows)}


main = command.entry(
    "List the networks and their costs, or published weights.", config.ModelsConfig, _run, positional="[PATTERN]"
)

if __name__ == "__main__":
    sys.exit(main())
