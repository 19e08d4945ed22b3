"""Analyse networks: draw layer responses, gradients, feature maps or class activation maps, or list label errors.

`python -m resnet_tf.analyze responses runs/A runs/B --out=responses.png`
`python -m resnet_tf.analyze responses cifar_resnet20_v1:cifar10 --data_dir=DIR --out=responses.png`
`python -m resnet_tf.analyze gradients cifar_plain56 cifar_resnet56_v1 --out=gradients.png`
`python -m resnet_tf.analyze activations photo.jpg --run=runs/A --out=activations.png`
`python -m resnet_tf.analyze grad_cam photo.jpg other.jpg --run=runs/A --out=grad_cam.png`
`python -m resnet_tf.analyze label_errors runs/fold1 runs/fold2 --out=label_errors.csv`
"""

import sys

from resnet_tf import command, config


def _run(settings, arguments):
    kind, *subjects = arguments or [""]
    config.check_kind(settings, kind)
    from resnet_tf.evaluation import attribution, cross_validation, responses

    modules = {"responses": responses, "gradients": responses, "label_errors": cross_validation}
    analyse = getattr(modules.get(kind, attribution), f"analyse_{kind}")
    return {"kind": kind, **analyse(settings, subjects)}


main = command.entry(
    "Draw layer responses of runs, gradients at initialisation, feature maps or Grad-CAM of images; or list the "
    "probable label errors of runs that held out other images each.",
    config.AnalyzeConfig,
    _run,
    positional="responses RUN|NETWORK:cifar10... | gradients NETWORK... | activations FILE | grad_cam FILE... | "
    "label_errors RUN...",
)

if __name__ == "__main__":
    sys.exit(main())
