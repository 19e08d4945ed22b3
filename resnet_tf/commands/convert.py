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

    section = settings.conversion
    for name in ("model", "source", "out"):
        if not getattr(section, name):
            raise InputError(f"--{name} is not set")
    row = find(section.model)
    if not section.out.endswith((".weights.h5", ".safetensors")):
        raise InputError(f"--out={section.out}: ends neither in .weights.h5 (ours) nor in .safetensors (timm's names)")
    opened = weights.open_source(section.model, section.source, section.ema)
    model = create_model(
        section.model,
        num_classes=section.num_classes or row.classes,
        shortcut=section.shortcut,
        graph=section.graph or weights.graph_of(section.model, opened),
    )
    weights.load(model, opened, pad=section.padding)
    weights.save(model, section.out)
    return {"model": section.model, "source": section.source, "out": section.out, "parameters": model.count_params()}


if __name__ == "__main__":
    sys.exit(main())
