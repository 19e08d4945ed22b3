"""Convert weights: `python -m resnet_tf.convert --model=resnet50_v1d --source=FILE --out=FILE`."""

import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError


def main(argv=None):
    """Run the command; returns its exit code."""
    description = "Convert weights of timm, torchvision or keras.applications to ours, or ours to timm's names."
    return command.launch(description, config.ConvertConfig, _run, argv)


def _run(settings, _):
    from resnet_tf.models import create_model, find, weights

    for name in ("model", "source", "out"):
        if not getattr(settings, name):
            raise InputError(f"--{name} is not set")
    row = find(settings.model)
    if not settings.out.endswith((".weights.h5", ".safetensors")):
        raise InputError(f"--out={settings.out}: ends neither in .weights.h5 (ours) nor in .safetensors (timm's names)")
    opened = weights.open_source(settings.model, settings.source, settings.ema)
    model = create_model(
        settings.model,
        num_classes=settings.num_classes or row.classes,
        shortcut=settings.shortcut,
        graph=settings.graph or weights.graph_of(settings.model, opened),
    )
    weights.load(model, opened, pad=settings.padding)
    weights.save(model, settings.out)
    return {"model": settings.model, "source": settings.source, "out": settings.out, "parameters": model.count_params()}


if __name__ == "__main__":
    sys.exit(main())
