"""Look into networks: pictures of what a layer answers, how gradients reach it, and what of an image counts.

`python -m resnet_tf.analyze responses runs/A runs/B --out=responses.png`
`python -m resnet_tf.analyze gradients cifar_plain56 cifar_resnet56_v1 --out=gradients.png`
`python -m resnet_tf.analyze activations photo.jpg --run=runs/A --out=activations.png`
`python -m resnet_tf.analyze grad_cam photo.jpg other.jpg --run=runs/A --out=grad_cam.png`
"""

import sys

from resnet_tf import command, config


def main(argv=None):
    """Run the command; returns its exit code."""
    description = "Draw layer responses of runs, gradients at initialisation, feature maps or Grad-CAM of images."
    positional = "responses RUN... | gradients NETWORK... | activations FILE | grad_cam FILE..."
    return command.launch(description, config.AnalyzeConfig, _run, argv, positional)


def _run(settings, arguments):
    kind, *subjects = arguments or [""]
    config.check_kind(settings, kind)
    if kind in ("responses", "gradients"):
        from resnet_tf.evaluation import responses

        analyse = responses.analyse_responses if kind == "responses" else responses.analyse_gradients
    else:
        from resnet_tf.evaluation import attribution

        analyse = attribution.analyse_activations if kind == "activations" else attribution.analyse_grad_cam
    return {"kind": kind, **analyse(settings, subjects)}


if __name__ == "__main__":
    sys.exit(main())
