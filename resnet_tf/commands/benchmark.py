"""Measure speed in comparison with other libraries.

`python -m resnet_tf.benchmark train --model=resnet50_v1b --image_size=224 --peers=keras_fit,timm_compile`
`python -m resnet_tf.benchmark loop --model=cifar_resnet20_v1 --steps=100`
`python -m resnet_tf.benchmark build --model=resnet50_v1d --peers=keras_applications`
`python -m resnet_tf.benchmark input --data_dir=FOLDER_OR_TAR --image_size=224 --peers=pillow,opencv`
`python -m resnet_tf.benchmark evaluate --model=resnet50_v1b --data_dir=FOLDER_OR_TAR --image_size=224 --batch_size=32`
`python -m resnet_tf.benchmark inference --model_dir=model --data_dir=FOLDER_OR_TAR --peers=keras_applications,timm`
`python -m resnet_tf.benchmark serving --model_dir=model --data_dir=FOLDER_OR_TAR --clients=1,8,32`
`python -m resnet_tf.benchmark augment --model=resnet50_v1b --image_size=224 --batch_size=256`
"""

import contextlib
import importlib
import sys

from resnet_tf import command, config


def main(argv=None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if any("torchvision" in argument for argument in arguments):
        with contextlib.suppress(ImportError):
            import torchvision  # noqa: F401  (crashes the process if TensorFlow is imported first)
    description = "Measure speed in comparison with other libraries: in turn, after a warm-up, medians of repeats."
    return command.launch(description, config.BenchmarkConfig, _run, argv, positional="|".join(_KINDS))


_KINDS = {  # {kind: (module of `bench`, function)}
    "train": ("training", "benchmark_train"),
    "loop": ("training", "benchmark_loop"),
    "build": ("building", "benchmark_build"),
    "input": ("inputs", "benchmark_input"),
    "augment": ("inputs", "benchmark_augment"),
    "evaluate": ("evaluation", "benchmark_evaluate"),
    "inference": ("inference", "benchmark_inference"),
    "serving": ("serving", "benchmark_serving"),
}


def _run(settings, kinds):
    kind = " ".join(kinds)
    config.check_kind(settings, kind)
    module, function = _KINDS[kind]
    return getattr(importlib.import_module(f"resnet_tf.bench.{module}"), function)(settings)


if __name__ == "__main__":
    sys.exit(main())
