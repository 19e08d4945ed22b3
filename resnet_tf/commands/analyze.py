"""Analyse networks: draw layer responses, gradients, feature maps or class activation maps.

`python -m resnet_tf.analyze responses runs/A runs/B --out=responses.png`
`python -m resnet_tf.analyze gradients cifar_plain56 cifar_resnet56_v1 --out=gradients.png`
`python -m resnet_tf.analyze activations photo.jpg --run=runs/A --out=activations.png`
`python -m resnet_tf.analyze grad_cam photo.jpg other.jpg --run=runs/A --out=grad_cam.png`
"""

import sys

from resnet_tf import command, config


def _run(settings, arguments):
    kind, *subjects = arguments or [""]
    config.check_kind(settings, kind)
    from resnet_tf.evaluation import attribution, responses

    analyse = getattr(responses if kind in ("responses", "gradients") else attribution, f"analyse_{kind}")
    return {"kind": kind, **analyse(settings, subjects)}


main = command.entry(
    "Draw layer responses of runs, gradients at initialisation, feature maps or Grad-CAM of images.",
    config.AnalyzeConfig,
    _run,
    positional="responses RUN... | gradients NETWORK... | activations FILE | grad_cam FILE...",
)

if __name__ == "__main__":
    sys.exit(main())
