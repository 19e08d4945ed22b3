"""List the networks and their costs: `python -m resnet_tf.models [PATTERN]`."""

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


def _run(settings, patterns):
    from resnet_tf.models import find, list_models

    if settings.diagram:
        return _draw(settings)
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


main = command.entry("List the networks and their costs.", config.ModelsConfig, _run, positional="[PATTERN]")

if __name__ == "__main__":
    sys.exit(main())
