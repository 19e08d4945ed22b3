"""Convert weights: `python -m resnet_tf.convert --model=resnet50_v1d --source=FILE --out=FILE`.

`--run=runs/NAME --out=FOLDER --format=hub` writes a folder for the Hugging Face hub.
"""

import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError


def _run(settings, _):
    command.require(settings, *(("out",) if settings.run else ("model", "source", "out")))
    if settings.format == "hub":
        from resnet_tf.serving import hub_folder

        return hub_folder.write(settings)
    from resnet_tf.models import create_model, find, weights

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


main = command.entry(
    "Convert weights of timm, torchvision or keras.applications to resnet_tf, or resnet_tf's to timm's names.",
    config.ConvertConfig,
    _run,
)

if __name__ == "__main__":
    sys.exit(main())
