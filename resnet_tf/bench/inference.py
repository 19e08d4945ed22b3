"""Benchmark of the latency and throughput of exported models beside peers, each system in a process of its own."""

import contextlib
import json
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time

import numpy as np

from resnet_tf import files
from resnet_tf.bench import inputs, measure, peers, timed
from resnet_tf.config import BenchmarkConfig
from resnet_tf.data import colour, geometry
from resnet_tf.errors import InputError
from resnet_tf.models import find
from resnet_tf.runs import network, record, versions
from resnet_tf.serving import convert, export, savedmodel

_IMAGES = 64  # images that calls go round: too many for a cache
_BESIDE = {"timm": ("savedmodel_pixels",), "timm_onnx": ("onnx", "tflite")}  # formats; the savedmodel for other peers


def benchmark_inference(config: BenchmarkConfig) -> dict:
    """Measure calls from Python values to probabilities, by batch size, for every format of a model.

    The formats savedmodel and savedmodel_frozen (whose weights become constants once it is loaded) start from encoded
    images. savedmodel_pixels and the single files start from decoded images; peers start from normalised ones. Systems
    take turns, --repeats times --steps calls each; percentiles are over all these calls.

    Args:
        config: a `config.BenchmarkConfig`; peers are those of `timed.PEERS`.

    Returns:
        {"benchmark", "model", "ours", "unit", "peers", "ratio", "spread"} as of `measure.summary`, in ms at the first
        of --batches. "ours" and "peers" are medians. "beside" names the format that each peer is compared with, "ratio"
        how many times faster than the peer this format is. "rows", one for each batch size and system, holds [{"batch",
        "format", "system", "p50_ms", "p95_ms", "p99_ms", "images_per_second", "ratio"}].

    Raises:
        InputError: there is no model or there are no images, or a peer is unknown, not installed or lacks the network.
    """
    settings = config.benchmark
    measure.check(config, timed.PEERS, record.INFERENCE_COLUMNS)
    if not settings.batches or min(settings.batches) < 1:
        raise InputError(f"--batches={','.join(map(str, settings.batches))}: no positive numbers")
    started = time.monotonic()
    encoded = inputs.read_images(settings.data_dir)[:_IMAGES]
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        model, card = _model(config, pathlib.Path(temporary))
        folder = _write_images(pathlib.Path(temporary) / "images", encoded, card)
        formats = [name for name, (_, file) in timed.OURS.items() if (model / file).exists()]
        if not formats:
            raise InputError(f"--model_dir={settings.model_dir}: no exported model is there")
        beside = {peer: _beside(peer, formats) for peer in settings.peers}
        processes = {}
        for name in (*formats, *settings.peers):
            command, environment, label = _command(name, model, folder, card["model"])
            processes[name] = peers.Process(label, command, environment)
            stack.callback(processes[name].close)
        software = {name: process.answer("versions")["versions"] for name, process in processes.items()}
        calls_by_batch = {batch: _measure(processes, batch, settings) for batch in settings.batches}
    rows = [row for batch, calls in calls_by_batch.items() for row in _rows(batch, calls, formats, beside)]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()), file=sys.stderr)
    if settings.results:
        common = record.provenance(0, time.monotonic() - started)
        common |= {"benchmark": "inference", "model": card["model"], "precision": card["precision"]}
        for row in rows:
            row = common | row | {"versions": software[_system(row)]}
            record.append_result(settings.results, record.INFERENCE_COLUMNS, row)
    return _result(card["model"], rows, calls_by_batch[settings.batches[0]], formats, beside)


def _system(row):
    """Return the key of a row's process: the format of ours, or the peer."""
    return row["format"] if row["system"] == "ours" else row["system"]


def _result(model, rows, calls, formats, beside):
    first = {_system(row): row for row in rows[: len(calls)]}
    medians = {name: [statistics.median(seconds) for seconds in rounds] for name, rounds in calls.items()}
    return {
        "benchmark": "inference", "model": model, "ours": first[formats[0]]["p50_ms"], "unit": "ms",
        "peers": {name: first[name]["p50_ms"] for name in beside},
        "ratio": {name: first[name]["ratio"] for name in beside},
        "spread": {
            name: round((max(values) - min(values)) / statistics.median(values), 3) for name, values in medians.items()
        },
        "beside": beside, "rows": rows,
    }  # fmt: skip


def _model(config, temporary):
    """Return the folder of the model and its card; for --model, first write every format, with initial weights."""
    settings = config.benchmark
    if settings.model_dir:
        folder = versions.locate(settings.model_dir)
        try:
            return folder, json.loads((folder / versions.CARD).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"--model_dir={settings.model_dir}: no model with {versions.CARD} ({error})") from None
    size, folder = settings.image_size, temporary / "model"
    folder.mkdir()
    classes = [f"class{index}" for index in range(find(config.model.model).classes)]
    model = network.create(config.model, len(classes), None, "float32")
    _draw_vectors(model)
    card = {"model": config.model.model, "classes": classes, "image_size": size, "resize": round(size * inputs.RESIZE)}
    card |= {"input": "float32", "precision": "float32"}
    (folder / versions.CARD).write_text(files.to_json(card))
    description = {"flags": {}, "classes": classes, "normalization": {}}
    with export.quiet():
        served = savedmodel.Served(model, colour.IMAGENET)
        savedmodel.write(folder, served, description, size, card["resize"], 5, False)
        for suffix, write in {"tflite": convert.tflite, "onnx": convert.onnx, "keras": convert.keras_file}.items():
            try:
                write(folder / f"model.{suffix}", model, colour.IMAGENET, size)
            except InputError as error:  # tf2onnx is not installed
                print(f"warning: {error}", file=sys.stderr)
    return folder, card


def _draw_vectors(model):
    """Draw biases and variables of BN, whose zeros in a new network would let additions be optimised away."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if len(variable.shape) == 1:
            centre = 1 if variable.path.endswith(("gamma", "moving_variance")) else 0
            variable.assign(centre + rng.uniform(-0.2, 0.2, variable.shape))


def _write_images(folder, encoded, card):
    folder.mkdir()
    for index, data in enumerate(encoded):
        (folder / str(index)).write_bytes(data)
    views = [
        geometry.center(data, card["image_size"], card["resize"], None, card.get("interpolation", "")).numpy()
        for data in encoded
    ]
    np.save(folder / "pixels.npy", np.stack(views))
    return folder


def _beside(peer, formats):
    """Return the format that a peer is compared with: the first of `_BESIDE` that exists, or else the savedmodel."""
    return next((name for name in _BESIDE.get(peer, ()) if name in formats), formats[0])


def _command(name, model, folder, network_name):
    """Return the command and environment of a system's process, and its name in errors."""
    ours = name in timed.OURS
    source, label = (str(model), name) if ours else (_name_of(name, network_name), f"--peers={name}")
    if name in ("timm", "timm_onnx"):
        return [peers.other_python(), timed.__file__, name, source, str(folder)], peers.other_environment(), label
    root = str(pathlib.Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "resnet_tf.bench.timed", name, source, str(folder)]
    return command, {**os.environ, "PYTHONPATH": path}, label


def _name_of(peer, model):
    """Return a peer's name for a network; raise InputError if it has none."""
    match = re.fullmatch(r"resnet(\d+)_(\w+)", model)
    if peer in ("timm", "timm_onnx"):
        name = match and peers.TIMM_NAMES.get(match[2], "").format(match[1])
    else:
        name = match and match[1] in ("50", "101", "152") and {"v1": "", "v1b": "", "v2": "V2"}.get(match[2])
        name = f"ResNet{match[1]}{name}" if isinstance(name, str) else None
    if not name:
        raise InputError(f"--peers={peer}: it has no network like {model}")
    return name


def _measure(processes, batch, settings):
    """Return {system: one list for each round, the seconds of its calls}."""
    calls = {name: [] for name in processes}

    def timing(name, process):
        def run():
            calls[name].append(process.ask("seconds", f"{batch} {settings.steps}")["seconds"])
            return sum(calls[name][-1])

        return run

    measure.in_turn({name: timing(name, process) for name, process in processes.items()}, settings.repeats)
    return {name: rounds[1:] for name, rounds in calls.items()}  # the first warms up


def _rows(batch, calls, formats, beside):
    for name, rounds in calls.items():
        milliseconds = 1000 * np.concatenate(rounds)
        p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99))
        row = {"batch": batch, "format": beside.get(name, name), "system": "ours" if name in formats else name}
        row |= {"p50_ms": round(p50, 3), "p95_ms": round(p95, 3), "p99_ms": round(p99, 3)}
        yield row | {"images_per_second": round(1000 * batch / p50, 2), "ratio": _ratio(name, calls, beside)}


def _ratio(name, calls, beside):
    """Return how many times faster ours is than a peer: the median over rounds of the ratio of medians."""
    if name not in beside:
        return ""
    pairs = zip(calls[name], calls[beside[name]], strict=True)
    return round(statistics.median(statistics.median(theirs) / statistics.median(ours) for theirs, ours in pairs), 3)
