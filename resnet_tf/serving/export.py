"""Export a run as a new version of a model, in the requested formats, with its card."""

import contextlib
import dataclasses
import logging
import pathlib

from resnet_tf import config as configuration
from resnet_tf.config import evaluation_size
from resnet_tf.runs import restore, run_data, temperature, versions
from resnet_tf.serving import card, convert, imported, savedmodel


def export(settings: configuration.ExportConfig) -> dict:
    """Write a version of the network of a run, or of a network with imported weights, completely or not at all.

    Activations are float32 in any training precision, since half precision is slower on CPUs and not available in every
    runtime. `--activations` changes this for SavedModels for GPUs.

    Args:
        settings: a `config.ExportConfig` with a run, or a network and its weights, and a folder.

    Returns:
        {"model": the folder, "version", "run", "classes": their number, "signatures": their names, "format", "files":
        their names in the folder of the version, "bytes": size of all files}; for imported weights "network" and
        "init_from" in place of "run".

    Raises:
        InputError: there is no such run, it has no checkpoint, the version exists, --calibrated is set and the run has
            no temperature of these weights, or see `imported.load`.
        OSError: the folder cannot be written.
    """
    version = versions.choose(settings.out, settings.version)
    if settings.network:
        run, model, normalization = imported.load(settings)
        steps, origin = None, {"network": settings.network, "init_from": settings.init_from}
    else:
        run, values, normalization = restore.load(settings.run, settings.weights)
        settings = dataclasses.replace(settings, weights=restore.resolved(run, settings.weights))
        model = restore.build_model(run, values, settings.weights, settings.activations)
        steps, origin = restore.step_of(values), {"run": str(run.folder)}
    if settings.ten_crop:
        configuration.check_ten_crop(run.config, "--ten_crop", settings.run or settings.network)
    divisor = temperature.read(run, settings.weights, steps) if settings.calibrated else 1.0
    described = card.describe(settings, run, steps, normalization, version)
    described |= {"temperature": divisor} if settings.calibrated else {}
    calibration = _calibration(settings, run) if settings.precision == "int8" else ()
    out = pathlib.Path(settings.out)
    with versions.writing(out, version) as folder, quiet():
        network = (model, normalization, evaluation_size(run.config.data))
        signatures = []
        if "savedmodel" in settings.format:
            signatures = _write_savedmodel(folder, settings, run, model, normalization, divisor)
        if "tflite" in settings.format:
            convert.tflite(folder / "model.tflite", *network, settings.precision, calibration, divisor, settings.input)
        if "onnx" in settings.format:
            convert.onnx(folder / "model.onnx", *network, settings.precision, divisor, calibration, settings.input)
        if "keras" in settings.format:
            convert.keras_file(folder / "model.keras", *network, divisor)
        card.write(folder, described | {"signatures": signatures, "files": _sizes(folder)})
        files = _sizes(folder)
    return {
        "model": str(out),
        "version": version,
        **origin,
        "classes": len(described["classes"]),
        "signatures": signatures,
        "format": list(settings.format),
        "files": list(files),
        "bytes": sum(files.values()),
    }


def _sizes(folder):
    """Return {relative path: bytes} of all files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _write_savedmodel(folder, section, run, model, normalization, divisor):
    data = run.config.data
    description = {
        "flags": run.manifest["flags"],
        "classes": run.manifest["classes"],
        "normalization": {name: getattr(normalization, name).tolist() for name in ("mean", "std")},
    }
    batch_sizes = section.batch_sizes if section.compile == "xla" else ()
    size, options = evaluation_size(data), (section.ten_crop, data.exif, data.interpolation)
    view = (size, batch_sizes, data.resize, data.interpolation, section.top_k)
    served = savedmodel.Served(model, normalization, section.precision, divisor, *view)
    return savedmodel.write(folder, served, description, size, data.resize, *options)


def _calibration(section, run):
    """Return images of the training split, cropped as in evaluation: uint8 [n, size, size, 3]."""
    settings = run.config
    if section.data_dir:
        settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, data_dir=section.data_dir))
    split = run_data.load(settings)[0].splits["train"]
    size, data = evaluation_size(settings.data), settings.data
    return run_data.sample(split, section.calibration_examples, size, data.resize, data.interpolation)


@contextlib.contextmanager
def quiet():
    """Silence messages of TensorFlow's and ONNX's writers about names of weights and the like."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
