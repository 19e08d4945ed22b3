"""Measure speed against peers in one run.

`python -m resnet_tf.benchmark train --model=resnet50_v1b --image_size=224 --peers=keras_fit,timm_compile`
`python -m resnet_tf.benchmark loop --model=cifar_resnet20_v1 --steps=100`
`python -m resnet_tf.benchmark build --model=resnet50_v1d --peers=keras_applications`
`python -m resnet_tf.benchmark input --data_dir=FOLDER_OR_TAR --image_size=224 --peers=pillow,opencv`
`python -m resnet_tf.benchmark evaluate --model=resnet50_v1b --data_dir=FOLDER_OR_TAR --image_size=224 --batch_size=32`
`python -m resnet_tf.benchmark inference --model_dir=model --data_dir=FOLDER_OR_TAR --peers=keras_applications,timm`
`python -m resnet_tf.benchmark augment --model=resnet50_v1b --image_size=224 --batch_size=256`
"""

import contextlib
import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError


def main(argv=None):
    """Run the command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if any("torchvision" in argument for argument in arguments):
        with contextlib.suppress(ImportError):
            import torchvision  # noqa: F401  (crashes the process where TensorFlow is imported before it)
    description = "Measure speed against peers: alternating, warm, median of several."
    kinds = "train|loop|build|input|augment|evaluate|inference"
    return command.launch(description, config.BenchmarkConfig, _run, argv, positional=kinds)


def _run(settings, kinds):
    if kinds in (["train"], ["loop"]):
        from resnet_tf.training import benchmark

        return (benchmark.benchmark_train if kinds == ["train"] else benchmark.benchmark_loop)(settings)
    if kinds == ["build"]:
        from resnet_tf.models import benchmark

        return benchmark.benchmark_build(settings)
    if kinds in (["input"], ["augment"]):
        from resnet_tf.training import benchmark_input as benchmark

        return (benchmark.benchmark_input if kinds == ["input"] else benchmark.benchmark_augment)(settings)
    if kinds == ["evaluate"]:
        from resnet_tf.evaluation import benchmark

        return benchmark.benchmark_evaluate(settings)
    if kinds == ["inference"]:
        from resnet_tf.serving import benchmark

        return benchmark.benchmark_inference(settings)
    others = "loop, input, augment, evaluate or inference"
    raise InputError(f"{' '.join(kinds) or 'nothing'} to measure: say train or build, {others}")


if __name__ == "__main__":
    sys.exit(main())
