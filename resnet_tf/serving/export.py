"""A run -> a new version of an exported model, in every format that is asked for, with its card."""

import contextlib
import dataclasses
import logging
import pathlib

from resnet_tf import config as configuration
from resnet_tf.config import evaluation_size
from resnet_tf.runs import restore, run_data, versions
from resnet_tf.serving import card, convert, savedmodel


def export(config):
    """Write a version of a run's network, whole or not at all.

    Activations are float32 in whatever precision the run was trained: half precision is slower on CPUs and not in
    every runtime. `--activations` changes that for SavedModels that are for GPUs.

    Args:
        config: a `config.ExportConfig` with a run and a folder.

    Returns:
        {"model": the folder, "version", "run", "classes": how many, "signatures": their names, "format", "files":
        their names in the version's folder, "bytes": of all of them}.

    Raises:
        InputError: no such run, one without a checkpoint, or the version exists.
        OSError: the folder cannot be written.
    """
    section = config.export
    version = versions.choose(section.out, section.version)
    run, values, normalization = restore.load(section.run, section.weights)
    if section.ten_crop:
        configuration.check_ten_crop(run.config, "--ten_crop", section.run)
    model = restore.build_model(run, values, section.weights, section.activations)
    described = card.describe(section, run, values, normalization, version)
    calibration = _calibration(section, run) if section.precision == "int8" else ()
    out = pathlib.Path(section.out)
    with versions.writing(out, version) as folder, quiet():
        network = (model, normalization, evaluation_size(run.config.data))
        signatures = []
        if "savedmodel" in section.format:
            signatures = _write_savedmodel(folder, section, run, model, normalization)
        if "tflite" in section.format:
            convert.tflite(folder / "model.tflite", *network, section.precision, calibration)
        if "onnx" in section.format:
            convert.onnx(folder / "model.onnx", *network, section.precision)
        if "keras" in section.format:
            convert.keras_file(folder / "model.keras", *network)
        card.write(folder, described | {"signatures": signatures, "files": _sizes(folder)})
        files = _sizes(folder)
    return {
        "model": str(out),
        "version": version,
        "run": str(run.folder),
        "classes": len(described["classes"]),
        "signatures": signatures,
        "format": list(section.format),
        "files": list(files),
        "bytes": sum(files.values()),
    }


def _sizes(folder):
    """{name in the folder: bytes} of all files beneath it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _write_savedmodel(folder, section, run, model, normalization):
    data = run.config.data
    description = {
        "flags": run.manifest["flags"],
        "classes": run.manifest["classes"],
        "normalization": {name: getattr(normalization, name).tolist() for name in ("mean", "std")},
    }
    served = savedmodel.Served(model, normalization, section.precision)
    return savedmodel.write(
        folder, served, description, evaluation_size(data), data.resize, section.top_k, section.ten_crop, data.exif
    )


def _calibration(section, run):
    """Images of the training split, as evaluation sees them: uint8 [n, size, size, 3]."""
    settings = run.config
    if section.data_dir:
        settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, data_dir=section.data_dir))
    split = run_data.load(settings)[0].splits["train"]
    return run_data.sample(split, section.calibration_examples, evaluation_size(settings.data), settings.data.resize)


@contextlib.contextmanager
def quiet():
    """Keep notes and warnings of TensorFlow's and ONNX's writers away, of names that they give to weights and such."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
