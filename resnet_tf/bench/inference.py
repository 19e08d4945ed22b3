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
from resnet_tf.models import architectures, find
from resnet_tf.runs import network, record, versions
from resnet_tf.serving import convert, export, savedmodel

_IMAGES = 64  # images that calls go round: too many for a cache
_PIXELS = ("savedmodel_xla_pixels", "savedmodel_pixels")
# Formats with which a peer is compared, the first that there is; the first of all for other peers.
_BESIDE = {"timm_onnx": ("onnx", "tflite")} | dict.fromkeys(set(timed.TIMM) - {"timm_onnx"}, _PIXELS)
_FILES = {"tflite": convert.tflite, "onnx": convert.onnx, "keras": convert.keras_file}
_OPENVINO = ("onnx_openvino", "onnx_int8_openvino")
# Formats that --formats must name.
_ASKED = ("savedmodel_xla", "savedmodel_xla_pixels", "onnx_int8", *_OPENVINO, "decoding")


def benchmark_inference(config: BenchmarkConfig) -> dict:
    """Measure calls from Python values to probabilities, by batch size, for every format of a model.

    The formats savedmodel, savedmodel_frozen (whose weights become constants once it is loaded) and savedmodel_xla (an
    export with --compile=xla) start from encoded images, and decoding ends when they are decoded and cropped. Formats
    with pixels in their name start from decoded images that only need the central crop, the single files and the peers
    that torch compiles from crops, other peers from normalised crops. On a GPU, pixels are on it before a call starts.
    Systems take turns, --repeats times --steps calls each; percentiles are over all these calls.

    Args:
        config: a `config.BenchmarkConfig`; peers are those of `timed.PEERS`.

    Returns:
        {"benchmark", "model", "ours", "unit", "peers", "ratio", "spread"} as of `measure.summary`, in ms at the first
        of --batches. "ours" and "peers" are medians. "beside" names the format that each peer is compared with, "ratio"
        how many times faster than the peer this format is. "rows", one for each batch size and system, holds [{"batch",
        "format", "system", "p50_ms", "p95_ms", "p99_ms", "images_per_second", "ratio", "load_seconds",
        "first_seconds"}]. "load_seconds" is the time to load or build the network, "first_seconds" that of the first
        call of a batch size, with compilation.

    Raises:
        InputError: there is no model or there are no images, or a peer is unknown, not installed or lacks the network.
    """
    settings = config.benchmark
    measure.check(config, timed.PEERS, record.INFERENCE_COLUMNS)
    if not settings.batches or min(settings.batches) < 1:
        raise InputError(f"--batches={','.join(map(str, settings.batches))}: no positive numbers")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # for this process; see `_command`
    started = time.monotonic()
    encoded = inputs.read_images(settings.data_dir)[:_IMAGES]
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        model, card = _model(config, pathlib.Path(temporary), encoded)
        folder = _write_images(pathlib.Path(temporary) / "images", encoded, card)
        formats = _formats(settings, model)
        beside = {peer: _beside(peer, formats) for peer in settings.peers}
        processes = {}
        for name in (*formats, *settings.peers):
            command, environment, label = _command(name, model, folder, card)
            processes[name] = peers.Process(label, command, environment)
            stack.callback(processes[name].close)
        loaded = {name: process.answer("versions") for name, process in processes.items()}
        rows, calls_by_batch, first = [], {}, {}
        for batch in settings.batches:
            calls_by_batch[batch] = _measure(processes, batch, settings, first)
            found = list(_rows(batch, calls_by_batch[batch], formats, beside))
            for row in found:
                name = _system(row)
                row["load_seconds"] = round(loaded[name]["load_seconds"], 3)
                row["first_seconds"] = round(first[name, batch], 3)
                print("  ".join(f"{name} {value}" for name, value in row.items()), file=sys.stderr, flush=True)
            _append(settings.results, found, card, loaded, started)  # now, so that an interruption keeps them
            rows += found
    return _result(card["model"], rows, calls_by_batch[settings.batches[0]], formats, beside)


def _append(path, rows, card, loaded, started):
    if not path:
        return
    common = record.provenance(0, time.monotonic() - started)
    common |= {"benchmark": "inference", "model": card["model"], "precision": card["precision"]}
    for row in rows:
        row = common | row | {"versions": loaded[_system(row)]["versions"]}
        record.append_result(path, record.INFERENCE_COLUMNS, row)


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


def _model(config, temporary, encoded):
    """Return the folder of the model and its card; for --model, first write every format, with initial weights.

    The ranges of integer activations are those of the central crops of `encoded`, a list of encoded images.
    """
    settings = config.benchmark
    if settings.model_dir:
        folder = versions.locate(settings.model_dir)
        try:
            return folder, json.loads((folder / versions.CARD).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"--model_dir={settings.model_dir}: no model with {versions.CARD} ({error})") from None
    size, folder, precision = settings.image_size, temporary / "model", settings.activations
    folder.mkdir()
    classes = [f"class{index}" for index in range(find(config.model.model).classes)]
    model = network.create(config.model, len(classes), None, precision)
    _draw_vectors(model)
    card = {"model": config.model.model, "classes": classes, "image_size": size, "resize": round(size * inputs.RESIZE)}
    card |= {"input": "float32", "precision": precision}
    with export.quiet():
        _write_saved_model(folder, model, card, ())
        if any("xla" in name for name in settings.formats):
            (folder / "xla").mkdir()
            _write_saved_model(folder / "xla", model, card, settings.batches)
        wanted = {name.removesuffix("_openvino") for name in settings.formats} or set(_FILES)
        for suffix in [name for name in _FILES if precision == "float32" and name in wanted]:
            try:
                _FILES[suffix](folder / f"model.{suffix}", model, colour.IMAGENET, size)
            except InputError as error:  # tf2onnx is not installed
                print(f"warning: {error}", file=sys.stderr)
        if "onnx_int8" in wanted and precision == "float32":
            views = [geometry.center(data, size, card["resize"]).numpy() for data in encoded]
            path = folder / "model_int8.onnx"
            convert.onnx(path, model, colour.IMAGENET, size, "int8", calibration=views)
    return folder, card


def _write_saved_model(folder, model, card, batch_sizes):
    (folder / versions.CARD).write_text(files.to_json(card | {"batch_sizes": list(batch_sizes)}))
    view = {"size": card["image_size"], "batch_sizes": batch_sizes, "resize": card["resize"]}
    served = savedmodel.Served(model, colour.IMAGENET, **view)
    description = {"flags": {}, "classes": card["classes"], "normalization": {}}
    savedmodel.write(folder, served, description, card["image_size"], card["resize"], False)


def _formats(settings, model):
    """Return the formats to measure.

    Raises:
        InputError: the model does not have one that --formats names, or has none.
    """
    there = [name for name, (_, file) in timed.OURS.items() if (model / file).exists()]
    missing = set(settings.formats) - set(there)
    if missing:
        raise InputError(f"--formats={','.join(sorted(missing))}: not one of {', '.join(there)}, which the model has")
    formats = list(settings.formats) or [name for name in there if name not in _ASKED]
    if not formats:
        raise InputError(f"--model_dir={settings.model_dir}: no exported model is there")
    return formats


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
    size, resize = card["image_size"], card["resize"] or card["image_size"]
    for name, side in {"pixels": size, "squares": resize}.items():
        views = [geometry.center(data, side, resize, None, card.get("interpolation", "")).numpy() for data in encoded]
        np.save(folder / f"{name}.npy", np.stack(views))
    return folder


def _beside(peer, formats):
    """Return the format that a peer is compared with: the first of `_BESIDE` that exists, or else the savedmodel."""
    return next((name for name in _BESIDE.get(peer, ()) if name in formats), formats[0])


def _command(name, model, folder, card):
    """Return the command and environment of a system's process, and its name in errors."""
    ours = name in timed.OURS
    source, label = (str(model), name) if ours else (_name_of(name, card["model"]), f"--peers={name}")
    arguments = [name, source, str(folder), card.get("activations", card["precision"])]
    if name in timed.TIMM:
        return [peers.other_python(), timed.__file__, *arguments], peers.other_environment(), label
    root = str(pathlib.Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "resnet_tf.bench.timed", *arguments]
    # TensorFlow would take all memory of a GPU, which the processes share.
    return command, {**os.environ, "PYTHONPATH": path, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}, label


def _name_of(peer, model):
    """Return a peer's name for a network; raise InputError if it has none."""
    if peer in timed.TIMM:
        name = architectures.name_in_timm(model)
    else:
        match = re.fullmatch(r"resnet(\d+)_(\w+)", model)
        name = match and match[1] in ("50", "101", "152") and {"v1": "", "v1b": "", "v2": "V2"}.get(match[2])
        name = f"ResNet{match[1]}{name}" if isinstance(name, str) else None
    if not name:
        raise InputError(f"--peers={peer}: it has no network like {model}")
    return name


def _measure(processes, batch, settings, first):
    """Return {system: one list for each round, the seconds of its calls}; add to {(system, batch): first seconds}."""
    calls = {name: [] for name in processes}

    def timing(name, process):
        def run():
            answer = process.ask("seconds", f"{batch} {settings.steps}")
            first.setdefault((name, batch), answer["first_seconds"])
            calls[name].append(answer["seconds"])
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
