"""Train, score, export and classify from Python: the commands as functions whose keywords are their flags.

They are `fit`, `evaluate`, `export` and `predict` of the package; `python -m resnet_tf.COMMAND --help` lists their
flags. `preprocessing_of` is here too, since it reads runs and exported models. Bad input, which commands report with
exit code 1, raises an `InputError`.
"""

import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from resnet_tf import tasks
from resnet_tf.config import GIVEN, TASKS, EvaluateConfig, ExportConfig, evaluation_size, from_settings, recipes
from resnet_tf.data.splits import Source
from resnet_tf.errors import InputError
from resnet_tf.models import hub, preprocessing
from resnet_tf.runs import record, restore, versions
from resnet_tf.serving import predict as predicting
from resnet_tf.serving import runtimes
from resnet_tf.training import loop

Path = str | os.PathLike


def fit(
    source: Source | None = None, callbacks: Sequence[loop.Callback] = (), task: str = "classification", **flags
) -> dict:
    """Train, evaluate and record a run; resume it if its folder exists.

        import resnet_tf
        result = resnet_tf.fit(model="cifar_resnet8_v1", dataset="digits", train_epochs=20, out="runs/digits")
        print(result["top1"])

    Args:
        source: data to train on, with splits "train", and "validation" or "test" or both; the run records
            dataset="given". None to read the data that `dataset` and `data_dir` name.
        callbacks: observers of the training; see `loop.Callback`.
        task: "classification", "segmentation" or "detection".
        **flags: flags of the training command of the task, and `recipe`, the name of a recipe to start from.

    Returns:
        The last evaluation, with "run", the run folder, and "steps"; see `loop.train`.

    Raises:
        InputError: bad flags, files or data; or the loss is not finite.
        signals.Stopped: a signal was received; everything is saved, and the same call resumes.
    """
    if task not in TASKS:
        raise InputError(f"task={task}: not one of {', '.join(TASKS)}")
    if source is not None:
        flags = {"dataset": GIVEN} | flags  # lets runs of earlier releases resume with the name they recorded
    config_type = TASKS[task].config_type
    if "recipe" in flags:
        name = flags.pop("recipe")
        flags = recipes.settings(config_type, name) | flags
    return tasks.train(from_settings(config_type, flags, "fit"), source, callbacks)


def evaluate(run: Path | Sequence[Path] = "", **flags) -> dict:
    """Score a run of any task on a split of its data, every example once.

        import resnet_tf
        scores = resnet_tf.evaluate("runs/digits", split="test", report="report")
        print(scores["top1"], scores["ece"])

    Args:
        run: run folder; several folders of classification form an ensemble. "" to score `model` or `network` instead.
        **flags: flags of the command `evaluate`.

    Returns:
        "run", "split", "views", "weights", "steps", "examples" and the metrics of the task.

    Raises:
        InputError: nothing to score, no such split, or flags that do not apply.
    """
    runs = [run] if isinstance(run, Path) else run
    return tasks.evaluate(from_settings(EvaluateConfig, {"run": ",".join(map(str, runs))} | flags, "evaluate"))


def export(run: Path, out: Path, **flags) -> dict:
    """Write a new version of the model of a run.

        import resnet_tf
        exported = resnet_tf.export("runs/digits", "model", format=("savedmodel", "onnx"))
        print(exported["version"], exported["files"])

    Args:
        run: folder of a run of any task.
        out: folder of the versions of the model.
        **flags: flags of the command `export`.

    Returns:
        "model", "version", "run", "classes" and "signatures"; for classification also "format", "files" and "bytes".

    Raises:
        InputError: no such run, no checkpoint, an existing version, or flags that the task does not use.
    """
    return tasks.export(from_settings(ExportConfig, {"run": str(run), "out": str(out)} | flags, "export"))


def predict(model: Path, files: Path | Sequence[Path], *, top_k: int = 0, batch_size: int = 32) -> list[tuple]:
    """Classify image files with an exported model or the network of a run.

        import resnet_tf
        for file, classes, error in resnet_tf.predict("model", ["photo.jpg", "photos"]):
            print(file, error or classes[0])

    Args:
        model: a folder of versions, one version, a .tflite, .onnx or .keras file, or a run folder.
        files: image files, folders to search at any depth, or patterns such as "photos/**/*.jpg".
        top_k: classes to return for each image. 0: `top_k` of the export for a SavedModel, 5 for other kinds.
        batch_size: images of a batch.

    Returns:
        (path, [(class name, probability), ...], None) for each image, most likely class first; (path, [], InputError)
        for a file that is not an image.

    Raises:
        InputError: no such model, or nothing to classify.
    """
    names = [files] if isinstance(files, Path) else files
    paths = predicting.find_images([str(name) for name in names])
    return list(predicting.classify_files(runtimes.load(str(model), top_k), paths, batch_size))


def preprocessing_of(source: Path) -> preprocessing.Preprocessing:
    """Return what images a network expects: mean, standard deviation, size, and how the crop is made.

        import resnet_tf
        expected = resnet_tf.preprocessing_of("resnet50_v1d")
        inputs = expected.layer()(pixels)  # uint8 [batch, 224, 224, 3] -> float32 of the same shape

    Args:
        source: a network with published weights, or their tag, see `preprocessing.of_published`; a folder in the layout
            of the Hugging Face hub; a run folder of classification; or an exported model: a folder of versions, one
            version, or a file in it.

    Returns:
        A frozen dataclass; its `layer` normalises images. An exported .tflite, .onnx or .keras file normalises by
        itself.

    Raises:
        InputError: no such network, a run without a checkpoint, or a damaged description of an exported model.
    """
    path = pathlib.Path(source)
    if (path / record.MANIFEST).exists():
        run, _, normalization = restore.load(path)
        statistics = [np.asarray(getattr(normalization, name)).tolist() for name in ("mean", "std")]
        data = run.config.data
        return _of_data(*statistics, evaluation_size(data), data.resize, data.interpolation)
    if hub.is_folder(path):
        return hub.read(path).expected
    card = (versions.locate(path) if path.is_dir() else path.parent) / versions.CARD
    if not path.exists() or not card.exists():
        return preprocessing.of_published(str(source))
    try:
        told = json.loads(card.read_text())
        statistics = [told["preprocessing"][name] for name in ("mean", "std")]
        return _of_data(*statistics, int(told["image_size"]), int(told["resize"]), told.get("interpolation", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{card}: damaged ({error!r})") from None


def _of_data(mean, std, size, resize, interpolation):
    """Return the preprocessing of this package's evaluation; `std` is one number where a mean image is subtracted."""
    std = tuple(std) if isinstance(std, list) else (std,) * 3
    return preprocessing.Preprocessing(_as_tuple(mean), std, size, resize or size, interpolation or "bilinear")


def _as_tuple(values):
    return tuple(map(_as_tuple, values)) if isinstance(values, list) else values
