"""Train, score, export and classify from Python: the commands as functions whose keywords are their flags.

api.pyi lists the flags for editors; `python tests/test_stub.py` writes it.

They are `fit`, `evaluate`, `export` and `predict` of the package; `python -m resnet_tf.COMMAND --help` lists their
flags. `preprocessing_of` is here too, since it reads runs and exported models. Bad input, which commands report with
exit code 1, raises an `InputError`.
"""

import functools
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from resnet_tf import tasks
from resnet_tf.config import (
    CLASSIFICATION,
    GIVEN,
    TASKS,
    EvaluateConfig,
    ExportConfig,
    evaluation_size,
    from_settings,
    recipes,
)
from resnet_tf.data import images, progress
from resnet_tf.data.splits import Source
from resnet_tf.errors import InputError
from resnet_tf.models import hub, preprocessing
from resnet_tf.runs import record, restore, versions
from resnet_tf.serving import predict as predicting
from resnet_tf.serving import runtimes
from resnet_tf.training import loop

Path = str | os.PathLike


def fit(
    source: Source | None = None,
    callbacks: Sequence[loop.Callback] = (),
    task: str = "classification",
    *,
    verbose: int = 1,
    **flags,
) -> "Fitted":
    """Train, evaluate and record a run; resume it if its folder exists.

        import resnet_tf
        fitted = resnet_tf.fit(model="cifar_resnet8_v1", dataset="digits", epochs=20, out="runs/digits", verbose=0)
        print(fitted["top1"], fitted.history["val_top1"])
        fitted.export("model")

    Args:
        source: data to train on, with splits "train", and "validation" or "test" or both; the run records
            dataset="given". None to read the data that `dataset` and `data_dir` name.
        callbacks: observers of the training; see `loop.Callback`.
        task: "classification", "segmentation" or "detection".
        verbose: 1 to say on stderr what is trained, and how it goes; 0 to say nothing, not even what --auto chose.
        **flags: flags of the training command of the task, or their other names (`epochs`, `batch`, `learning_rate`,
            ...); and `recipe`, the name of a recipe to start from.

    Returns:
        A `Fitted`: the last evaluation as a dict, with "run", the run folder, and "steps", see `loop.train`; and what
        is done with the run: `history`, `predict`, `evaluate`, `export`, and the Keras `model`.

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
    if verbose not in (0, 1):
        raise InputError(f"verbose={verbose}: not 0 or 1")
    with progress.quiet(not verbose):
        return Fitted(tasks.train(from_settings(config_type, flags, "fit"), source, callbacks), task)


class Fitted(dict):
    """A finished training: its last evaluation as a dict, and what is done with its run.

        fitted = resnet_tf.fit(model="cifar_resnet8_v1", dataset="digits", train_epochs=20, out="runs/digits")
        fitted.history["loss"], fitted.metrics, fitted.run_dir
        for file, classes, error in fitted.predict(["photo.jpg"]):
            print(file, error or classes[0])

    Attributes:
        task: "classification", "segmentation" or "detection".
    """

    def __init__(self, result: dict, task: str = "classification"):
        """Take the result of `loop.train`, whose "run" is the run folder."""
        super().__init__(result)
        self.task = task

    @property
    def run_dir(self) -> pathlib.Path:
        """The run folder."""
        return pathlib.Path(self["run"])

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last evaluation: {"top1", "top5", "loss"}, or those of another task."""
        return {name: self[name] for name in (*TASKS[self.task].columns, "loss") if name in self}

    @property
    def history(self) -> dict[str, list[float]]:
        """The columns of metrics.csv as lists, as `keras.callbacks.History.history`.

        "step", "epoch", "loss", "top1", "lr" and so on have a number for each row of training; with "val_" before the
        name one for each evaluation on the validation split, with "test_" on the test split. "val_step" and
        "val_epoch" say when it was. A column without any number is left out.
        """
        columns: dict[str, list[float]] = {}
        for row in record.read_metrics(self.run_dir / "metrics.csv"):
            prefix = "" if row["split"] == "train" else f"{row['split'].replace('validation', 'val')}_"
            for name, value in row.items():
                if name != "split" and value != "":
                    columns.setdefault(prefix + name, []).append(value)
        return columns

    @functools.cached_property
    def model(self):
        """The trained `keras.Model`, built when it is first asked for: from normalised images to logits.

        `resnet_tf.preprocessing_of(fitted.run_dir).layer()` normalises images for it.
        """
        if self.task != CLASSIFICATION:
            return tasks.load(self.run_dir)[1]
        run, values, _ = restore.load(self.run_dir)
        return restore.build_model(run, values, restore.resolved(run, ""))

    def predict(self, files, *, top_k: int = 0, batch_size: int = 32) -> list[tuple]:
        """Classify image files or images; see `predict`."""
        return predict(self.run_dir, files, top_k=top_k, batch_size=batch_size)

    def evaluate(self, **flags) -> dict:
        """Score the run on a split of its data, or on other data (`data_dir`); see `evaluate`."""
        return evaluate(self.run_dir, **flags)

    def export(self, out: Path, **flags) -> dict:
        """Write a new version of the model of the run; see `export`."""
        return export(self.run_dir, out, **flags)


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


def export(run: Path = "", out: Path = "", **flags) -> dict:
    """Write a new version of the model of a run, or of a network with published weights or those of a file.

        import resnet_tf
        exported = resnet_tf.export("runs/digits", "model", format=("savedmodel", "onnx"))
        print(exported["version"], exported["files"])
        resnet_tf.export(network="resnet50_v1d", init_from="imagenet", out="resnet50")

    Args:
        run: folder of a run of any task; "" to export `network` with the weights `init_from` instead.
        out: folder of the versions of the model.
        **flags: flags of the command `export`.

    Returns:
        "model", "version", "run", "classes" and "signatures"; for classification also "format", "files" and "bytes".

    Raises:
        InputError: no such run, no checkpoint, an existing version, or flags that the task does not use; or names of
            classes or a preprocessing that are not known.
    """
    for name, value in (("run", run or flags.get("network", "")), ("out", out)):
        if not str(value):
            raise InputError(f"{name} is not set")
    return tasks.export(from_settings(ExportConfig, {"run": str(run), "out": str(out)} | flags, "export"))


def predict(
    model: Path, files: Path | Sequence[Path] | np.ndarray, *, top_k: int = 0, batch_size: int = 32
) -> list[tuple]:
    """Classify image files or images with an exported model or the network of a run.

        import resnet_tf
        for file, classes, error in resnet_tf.predict("model", ["photo.jpg", "photos"]):
            print(file, error or classes[0])

    Args:
        model: a folder of versions, one version, a .tflite, .onnx or .keras file, or a run folder.
        files: image files, folders to search at any depth, or patterns such as "photos/**/*.jpg"; or images, uint8 [n,
            height, width, 3], or a list of images of several sizes.
        top_k: classes to return for each image. 0: `top_k` of the export for a SavedModel, 5 for other kinds.
        batch_size: images of a batch.

    Returns:
        (path, [(class name, probability), ...], None) for each image, most likely class first; (path, [], InputError)
        for a file that is not an image. Of images the index replaces the path.

    Raises:
        InputError: no such model, nothing to classify, or images of another type or shape.
    """
    names = [files] if isinstance(files, Path) else files
    if isinstance(files, np.ndarray) or any(isinstance(name, np.ndarray) for name in names):
        return _predict_images(runtimes.load(str(model), top_k), list(names), batch_size)
    paths = predicting.find_images([str(name) for name in names])
    return list(predicting.classify_files(runtimes.load(str(model), top_k), paths, batch_size))


def _predict_images(model, pictures, batch_size):
    """Classify a list of images in memory as `predict` does files; PNG keeps every pixel."""
    for index, image in enumerate(pictures):
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise InputError(f"files: image {index} is not uint8 [height, width, 3]")
    if not pictures:
        raise InputError("files: no image to classify")
    found = []
    for start in range(0, len(pictures), batch_size):
        part = enumerate(pictures[start : start + batch_size], start)
        prepared = [model.prepare(images.encode_png(image), f"image {index}") for index, image in part]
        found += model.classify(prepared)
    return [(index, best, None) for index, best in enumerate(found)]


def preprocessing_of(source: Path) -> preprocessing.Preprocessing:
    """Return what images a network expects: mean, standard deviation, size, and how the crop is made.

        import resnet_tf
        expected = resnet_tf.preprocessing_of("resnet50_v1d")
        inputs = expected.layer()(pixels)  # uint8 [batch, 224, 224, 3] -> float32 of the same shape

    Args:
        source: a network with published weights or weights="cifar10", or a tag, see `preprocessing.of_published`; a
            file of weights that says it, see `models.zoo`; a folder in the layout of the Hugging Face hub; a run
            folder of classification; or an exported model: a folder of versions, one version, or a file in it.

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
        if expected := hub.read(path).expected:
            return expected
        raise InputError(f"{path}: does not say what images it expects")
    if expected := preprocessing.of_file(path):
        return expected
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
