"""Write the card of an exported model: model.json for programs, model.md for people."""

import json
import pathlib

import numpy as np

from resnet_tf import files
from resnet_tf.config import ExportConfig, evaluation_size
from resnet_tf.data import images
from resnet_tf.data.colour import Normalization
from resnet_tf.errors import InputError
from resnet_tf.models import cost_by_name
from resnet_tf.runs import record, versions

READABLE = "model.md"
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


def describe(
    section: ExportConfig, run: record.Run, steps: int | None, normalization: Normalization, version: int
) -> dict:
    """Return the content of the card of a model, without "signatures", "files" and, of `export`, "temperature".

    Args:
        section: a `config.ExportConfig`.
        run: the `record.Run`.
        steps: training steps of its checkpoint; None for imported weights.
        normalization: a `colour.Normalization`.
        version: number of the version.

    Returns:
        A dict of plain values. "accuracy" is None if evaluation.json belongs to other weights.
    """
    settings, model = run.config, run.config.model
    size, classes = evaluation_size(settings.data), list(run.manifest["classes"])
    cost = cost_by_name(model.model, model.shortcut, size, len(classes), model.graph)
    return {
        "model": settings.model.model,
        "version": version,
        "classes": classes,
        "input": section.input,
        "image_size": size,
        "resize": settings.data.resize,
        "exif": settings.data.exif,
        "interpolation": settings.data.interpolation,
        "preprocessing": {
            "words": _preprocessing(size, settings.data, normalization),
            "mean": np.asarray(normalization.mean).tolist(),
            "std": np.asarray(normalization.std).tolist(),
        },
        "limits": {"image_formats": ["JPEG", "PNG", "BMP", "GIF", "WebP"], "max_pixels": images.MAX_PIXELS},
        "formats": list(section.format),
        "precision": section.precision,
        "activations": section.activations,
        "compile": section.compile,
        "batch_sizes": list(section.batch_sizes) if section.compile == "xla" else [],
        "cost": {
            "parameters": cost.trainable_parameters,
            "parameters_mib": round(cost.trainable_parameters * _BYTES[section.precision] / 2**20, 3),
            "gmacs": round(cost.gmacs, 4),
            "gflops": round(2 * cost.gmacs, 4),
        },
        "weights": section.weights if steps is not None else run.manifest["weights"],
        "steps": steps,
        "accuracy": None if steps is None else _accuracy(run, section.weights, steps),
        "data": {"dataset": settings.data.dataset, **run.manifest["data"]},
        "licence": section.licence or "not stated",
        "intended_use": section.intended_use or "not stated",
        "command": record.command(),
        "commit": record.commit(),
        "manifest": run.manifest,
    }


def _preprocessing(size, data, normalization):
    shorter = data.resize or size
    scaling = f"{data.interpolation or 'bilinear'} with antialiasing"
    if data.interpolation:
        scaling += " as Pillow has it, with the longer side rounded down as torchvision does"
    tag = "turn it upright as its orientation tag says" if data.exif == "apply" else "an orientation tag is not applied"
    kind = "the mean of its place and channel" if np.ndim(normalization.mean) == 3 else "the mean of its channel"
    return [
        f"decode to 8-bit RGB: grey becomes RGB, alpha is dropped; {tag}",
        f"scale the shorter side to {shorter} pixels, {scaling}, and round to whole levels",
        f"crop the central {size} x {size} pixels",
        f"subtract from each value, 0 to 255, {kind}, and divide by the standard deviation",
    ]


def _accuracy(run, weights, steps):
    """Return the metrics in evaluation.json; None if it is missing or belongs to other weights."""
    path = run.folder / "evaluation.json"
    try:
        metrics = json.loads(path.read_text())
        # A training that finished on its best weights records both their step and its own last one.
        is_same = (metrics.get("weights"), metrics.get("best_step", metrics.get("steps"))) == (weights, steps)
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError):
        raise InputError(f"{path}: damaged") from None
    keys = ("split", "views", "scales", "examples", "top1", "top5", "loss", "ece", "test", "command", "commit")
    return {name: metrics[name] for name in keys if name in metrics} if is_same else None


def write(folder: pathlib.Path, card: dict) -> None:
    """Write model.json and model.md into the folder of a version."""
    folder = pathlib.Path(folder)
    files.write_json(folder / versions.CARD, card)
    text = _markdown(card)
    files.replace_atomically(folder / READABLE, lambda file: file.write(text.encode()))


def _markdown(card):
    cost, data, accuracy = card["cost"], card["data"], card["accuracy"]
    mean, std = (np.asarray(card["preprocessing"][name]) for name in ("mean", "std"))
    rows = {
        "network": card["model"],
        "classes": len(card["classes"]),
        "parameters": f"{cost['parameters']:,}, {cost['parameters_mib']:.2f} MiB in {card['precision']}",
        "cost of one image": f"{cost['gmacs']:g} GMACs, {cost['gflops']:g} GFLOPs",
        "activations": card["activations"],
        "batches": f"compiled for {', '.join(map(str, card['batch_sizes']))}" if card["batch_sizes"] else "any",
        "formats": ", ".join(card["formats"]),
        "signatures": ", ".join(card["signatures"]) or "none",
        "weights": card["weights"] + ("" if card["steps"] is None else f", after {card['steps']:,} steps"),
        "licence": card["licence"],
        "intended use": card["intended_use"],
    }
    if "temperature" in card:
        rows["probabilities"] = (
            f"calibrated: logits are divided by the temperature {card['temperature']:.4g}, fitted on the validation "
            "split, before the softmax"
        )
    lines = [f"# {card['model']}, version {card['version']}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    lines += ["", "## Accuracy", ""]
    if accuracy is None:
        lines.append("These weights were not evaluated.")
    else:
        where, views = f"of the split {accuracy['split']} of {data['dataset']}", f"views {accuracy['views']}"
        chosen = "; the weights were chosen on them" if _is_chosen(card) else ""
        lines.append(f"{_metrics(accuracy, len(card['classes']))} examples {where}, {views}{chosen}.")
        if "test" in accuracy:
            lines.append(f"{_metrics(accuracy['test'], len(card['classes']))} examples of the split test.")
        if "command" in accuracy:
            lines += ["", f"Commit {accuracy['commit']}:", "", f"    {accuracy['command']}"]
    lines += ["", "## Data", ""]
    counts = ", ".join(f"{count:,} {name}" for name, count in data["examples"].items())
    known = f"{data['dataset']}: {counts}. Checksum of images and labels: {data['checksum']}."
    lines.append(known if counts else "The weights were imported; the data of their training are not recorded here.")
    lines += ["", "## Preprocessing", ""]
    lines += [f"{number}. {words}" for number, words in enumerate(card["preprocessing"]["words"], start=1)]
    if mean.ndim == 1:
        lines += ["", f"Mean {_numbers(mean)}, standard deviation {_numbers(std)}, in levels of 0 to 255."]
    else:
        lines += ["", f"The mean image is in {versions.CARD}; standard deviation {_numbers(std)} levels of 0 to 255."]
    lines += [
        "",
        f"All of it is in the SavedModel. Files of the other formats take images after step 3, {card['input']} "
        f"[batch, {card['image_size']}, {card['image_size']}, 3] in 0 to 255, and return probabilities.",
        "",
        f"Images are {', '.join(card['limits']['image_formats'])} of at most {card['limits']['max_pixels']:,} pixels; "
        "of a GIF or WebP the first frame counts.",
        "",
        "## Classes",
        "",
        ", ".join(_cell(name) for name in card["classes"]),
        "",
        "## Origin",
        "",
        f"Exported at commit {card['commit']}:",
        "",
        f"    {card['command']}",
    ]
    if "commit" in card["manifest"]:
        lines += ["", f"Trained at commit {card['manifest']['commit']}:", "", f"    {card['manifest']['command']}"]
    return "\n".join(lines) + "\n"


def _is_chosen(card):
    return (card["accuracy"]["split"], card["weights"]) == ("validation", "best")


def _metrics(scores, classes):
    """Return accuracy and loss in words, without top-5 where there are fewer than ten classes."""
    top5 = f"top-5 {scores['top5']:.4f}, " if classes >= 10 else ""
    loss = "loss not finite" if scores["loss"] is None else f"loss {scores['loss']:.4f} nats"
    return f"Top-1 {scores['top1']:.4f}, {top5}{loss} on {scores['examples']:,}"


def _cell(value):
    return " ".join(str(value).split()).replace("|", "\\|")


def _numbers(values):
    return ", ".join(f"{value:.3f}" for value in np.atleast_1d(values))
