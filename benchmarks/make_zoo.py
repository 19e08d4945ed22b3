"""Write weights for `create_model(NAME, weights="cifar10")` from runs of CIFAR-10, and their rows of results/zoo.csv.

    python benchmarks/make_zoo.py runs/cifar_resnet20_v1-seed4 runs/cifar_resnet32_v1-seed4 --data_dir=cifar10

A run has a checkpoint, is finished, and has the seed --seed: the zoo has one seed, chosen before the results are known.
Its newest weights, or those that the run finished on, become resnet_tf/models/cifar10/NAME.safetensors: kernels in
float16, vectors in float32. `resnet_tf.evaluate` scores what is stored, in float32, on the test images; the row has
this accuracy beside that of the run. A network that has a row gets a new one. Prints one JSON line.
"""

import argparse
import csv
import dataclasses
import io
import json
import logging
import pathlib
import sys
import tempfile

import numpy as np
from safetensors.numpy import save_file

import resnet_tf
from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.models import create_model, find, inside, weight_files, weights, zoo
from resnet_tf.runs import devices, record, restore

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "zoo.csv"
FIRST = 1000  # test images by which tests check a file quickly
COLUMNS = (
    *record.RESULT_COLUMNS, "model", "steps", "file", "bytes", "sha256", "dtype", "examples", "top1_run", "top1",
    "top5", f"right_of_first_{FIRST}", "run", "made_by", "made_on",
)  # fmt: skip


def stored(model) -> dict[str, np.ndarray]:
    """Return the arrays of a file: kernels float16, vectors float32.

    Raises:
        InputError: a kernel leaves the range of float16.
    """
    arrays = {}
    for name, value in weights.state_dict(model).items():
        arrays[name] = value if value.ndim == 1 else value.astype(np.float16)
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"{model.name}: {name} has values beyond float16's, up to {np.abs(value).max():g}")
    return arrays


def opened(folder: str, seed: int) -> tuple:
    """Return a run, its network in float32, and the `zoo.Training` of its file, not scored yet.

    Raises:
        InputError: not a finished run of CIFAR-10 with this seed, or a network that differs from its name's.
    """
    run, values, normalization = restore.load(folder)
    config, steps = run.config, restore.step_of(values)
    name = config.model.model
    wrong = {
        f"its data are {config.data.dataset}": config.data.dataset != zoo.NAME,
        f"its seed is {config.optimizer.seed}, not {seed}": config.optimizer.seed != seed,
        "it has no evaluation.json, so is not finished": not (run.folder / "evaluation.json").is_file(),
        "its classes are others": tuple(run.manifest["classes"]) != zoo.CLASSES,
    }
    for reason, is_so in wrong.items():
        if is_so:
            raise InputError(f"{folder}: {reason}")
    model = restore.build_model(run, values, restore.resolved(run, ""), precision="float32")
    if inside.row_of(model).graph != find(name).graph:
        raise InputError(f"{folder}: another graph than {name} has by default (--shortcut, --graph)")
    mean, std = shortest(normalization.mean), shortest(np.broadcast_to(normalization.std, 3))
    training = zoo.Training(
        zoo.NAME, zoo.CLASSES, config.data.image_size, mean, std, config.optimizer.seed, steps,
        run.manifest["command"], run.manifest["commit"],
    )  # fmt: skip
    return run, model, training


def shortest(values: np.ndarray) -> list:
    """Return float32 as nested lists of the numbers with the fewest digits that are these float32."""
    return np.vectorize(lambda value: float(str(value)), otypes=[float])(np.asarray(values, np.float32)).tolist()


def write(path: pathlib.Path, model, training: zoo.Training) -> None:
    """Write a file of the zoo, completely or not at all."""
    description = weight_files.describe(model.name, inside.row_of(model))
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.writing(path) as partial:
        save_file(stored(model), partial, training.metadata(description))
        partial.chmod(0o644)  # safetensors writes for the owner alone


def make(folder: str, data_dir: str, seed: int, log: str) -> dict:
    """Write the file and return the row of one run."""
    run, model, training = opened(folder, seed)
    with tempfile.TemporaryDirectory() as scratch:
        unscored = pathlib.Path(scratch) / f"{model.name}.safetensors"
        write(unscored, model, training)
        answers = pathlib.Path(scratch) / "examples.csv"
        scores = resnet_tf.evaluate(
            network=model.name, init_from=str(unscored), dataset=zoo.NAME, data_dir=data_dir, examples=str(answers)
        )
        with answers.open(newline="") as lines:
            first = [row["class"] == row["class_1"] for row in csv.DictReader(lines)][:FIRST]
    training = dataclasses.replace(training, top1=scores["top1"], examples=scores["examples"])
    path = zoo.FOLDER / f"{model.name}.safetensors"
    write(path, model, training)
    create_model(model.name, weights=path)  # reads as any other file
    ours = json.loads((run.folder / "evaluation.json").read_text())
    manifest = run.manifest
    return {
        "date": manifest["created"], **{key: manifest[key] for key in ("commit", "command", "hardware", "versions")},
        "seed": training.seed, "wall_seconds": ours.get("wall_seconds", ""), "model": model.name,
        "steps": training.steps, "file": f"resnet_tf/models/cifar10/{path.name}", "bytes": path.stat().st_size,
        "sha256": zoo.sha256(path), "dtype": "float16", "examples": scores["examples"], "top1_run": ours["top1"],
        "top1": scores["top1"], "top5": scores["top5"], f"right_of_first_{FIRST}": sum(first),
        "run": f"{log.rstrip('/')}/{run.folder.name}",
        "made_by": f"{record.command()} at {record.commit()}", "made_on": devices.hardware(),
    }  # fmt: skip


def add(row: dict, table: pathlib.Path) -> None:
    """Write a row into the table, in the place of one of the same network, in the order of the networks' depth."""
    record.check_results(table, COLUMNS)
    rows = {}
    if table.is_file():
        with table.open(newline="") as file:
            rows = {each["model"]: each for each in csv.DictReader(file)}
    rows[row["model"]] = row

    def place(name):
        return "plain" in name, name.endswith("_v2"), sum(find(name).blocks)

    def written(file):
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows, key=place))
        file.write(text.getvalue().encode())

    files.replace_atomically(table, written)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, write files and rows, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders with checkpoints")
    parser.add_argument("--data_dir", required=True, help="folder of CIFAR-10's original files")
    parser.add_argument("--seed", type=int, default=4, help="seed that all runs must have")
    parser.add_argument(
        "--log", default="results/cifar10_originals/runs", help="folder of the repository that has their logs"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    made = {}
    try:
        for folder in given.runs:
            row = make(folder, given.data_dir, given.seed, given.log)
            add(row, RESULTS)
            made[row["model"]] = {key: row[key] for key in ("bytes", "sha256", "top1_run", "top1")}
    except InputError as error:
        sys.exit(str(error))
    print(json.dumps({"made": made}))


if __name__ == "__main__":
    main()
