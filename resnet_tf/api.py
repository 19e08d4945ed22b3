"""Train, score, export and classify from Python: what the commands do, as functions whose keywords are their flags.

They are the attributes `fit`, `evaluate`, `export` and `predict` of the package; `python -m resnet_tf.COMMAND --help`
lists the flags of each. What a command says in one line and exit code 1 is an `InputError` here.
"""

import os
from collections.abc import Iterable, Sequence

from resnet_tf import tasks
from resnet_tf.config import GIVEN, TASKS, EvaluateConfig, ExportConfig, from_settings
from resnet_tf.data.splits import Source
from resnet_tf.errors import InputError
from resnet_tf.serving import predict as predicting
from resnet_tf.serving import runtimes
from resnet_tf.training import loop

Path = str | os.PathLike


def fit(
    source: Source | None = None, callbacks: Iterable[loop.Callback] = (), task: str = "classification", **flags
) -> dict:
    """Train, evaluate and record a run; go on where it was if its folder is there.

        import resnet_tf
        result = resnet_tf.fit(model="cifar_resnet8_v1", dataset="digits", train_epochs=20, out="runs/digits")
        print(result["top1"])

    Args:
        source: data of one's own, with splits "train" and "test", and perhaps "validation". None for those that
            `dataset` and `data_dir` name; with a source neither is needed, and the run records dataset="given".
        callbacks: that look on.
        task: "classification", "segmentation" or "detection".
        **flags: of the command that trains the task, by name.

    Returns:
        What `loop.train` returns: the last evaluation, with "run", the folder, and "steps".

    Raises:
        InputError: flags, files or data that cannot be trained with; or the loss is no longer a number.
        signals.Stopped: a signal came; all is saved, and the same call goes on.
    """
    if task not in TASKS:
        raise InputError(f"task={task}: not one of {', '.join(TASKS)}")
    if source is not None:
        flags = {"dataset": GIVEN} | flags  # a run of an earlier release goes on with the name that it recorded
    config = from_settings(TASKS[task].config_type, flags, "fit")
    return loop.train(tasks.of(config), source, callbacks)


def evaluate(run: Path | Sequence[Path] = "", **flags) -> dict:
    """Score a run of any task on a split of its data, every example once.

        import resnet_tf
        scores = resnet_tf.evaluate("runs/digits", split="test", report="report")
        print(scores["top1"], scores["ece"])

    Args:
        run: its folder; several of classification are an ensemble. "" where `model` or `network` is given instead.
        **flags: of the command `evaluate`, by name.

    Returns:
        What `tasks.evaluate` returns: "run", "split", "views", "weights", "steps", "examples" and the task's metrics.

    Raises:
        InputError: nothing there to score, no such split, or flags that what is scored does not use.
    """
    runs = [run] if isinstance(run, Path) else run
    return tasks.evaluate(from_settings(EvaluateConfig, {"run": ",".join(map(str, runs))} | flags, "evaluate"))


def export(run: Path, out: Path, **flags) -> dict:
    """Write a version of a run's model, whole or not at all.

        import resnet_tf
        exported = resnet_tf.export("runs/digits", "model", format=("savedmodel", "onnx"))
        print(exported["version"], exported["files"])

    Args:
        run: folder of a run of any task.
        out: folder of the model's versions.
        **flags: of the command `export`, by name.

    Returns:
        What `tasks.export` returns: "model", "version", "run", "classes" and "signatures"; of classification "format",
        "files" and "bytes" too.

    Raises:
        InputError: no such run, one without a checkpoint, a version that exists, or flags that its task does not use.
    """
    return tasks.export(from_settings(ExportConfig, {"run": str(run), "out": str(out)} | flags, "export"))


def predict(model: Path, files: Path | Sequence[Path], *, top_k: int = 0, batch_size: int = 32) -> list[tuple]:
    """Classify image files by an exported model.

        import resnet_tf
        for file, classes, error in resnet_tf.predict("model", ["photo.jpg", "photos"]):
            print(file, error or classes[0])

    Args:
        model: a folder of versions, the folder of one, or a .tflite, .onnx or .keras file.
        files: image files, folders of them at any depth, or patterns such as "photos/**/*.jpg".
        top_k: classes of each image. 0: as many as a SavedModel was exported to name; 5 of a file's.
        batch_size: images at a time.

    Returns:
        For each image (path, [(class name, probability), ...], None), best first; or (path, [], InputError) where it is
        no image, and the others go on.

    Raises:
        InputError: no such model, or nothing to classify.
    """
    names = [files] if isinstance(files, Path) else files
    paths = predicting.find_images([str(name) for name in names])
    return list(predicting.classify_files(runtimes.load(str(model), top_k), paths, batch_size))
