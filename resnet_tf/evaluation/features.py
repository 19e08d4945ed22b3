"""The vector before the classifier of every example."""

import numpy as np

from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.evaluation import pictures
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.models import inside
from resnet_tf.runs import devices, restore, run_data
from resnet_tf.runs.runner import Runner


def write(settings):
    """Write the features of a run's data.

    A .parquet file has a row an example: split, example (its number there, from 0), name, label, and features, a list
    of float32. An .npz file has for each split arrays SPLIT_features [n, d], SPLIT_labels [n], SPLIT_names [n].

    Args:
        settings: a `config.FeaturesConfig`.

    Returns:
        {"out", "run", "examples": {split: count}, "features": d}.

    Raises:
        InputError: no run, checkpoint or data; an unknown split; --out ends otherwise, or pyarrow is not installed.
    """
    out = pictures.check_data_file("out", settings.out, ".npz")
    if not settings.run:
        raise InputError("--run is not set: the folder of the run")
    found = of_run(settings.run, settings.splits, settings.data_dir, settings.weights)
    files.replace_atomically(out, lambda file: _WRITERS[out.suffix](file, found))
    return {
        "out": str(out),
        "run": settings.run,
        "examples": {name: len(part["label"]) for name, part in found.items()},
        "features": next(iter(found.values()))["features"].shape[1],
    }


def of_run(folder, splits=("train", "test"), data_dir="", weights="raw"):
    """The features of a run's data, of evaluation's view of each example.

    Args:
        folder: of the run.
        splits: of its data.
        data_dir: where the data are now; "" for where they were in training.
        weights: "raw", "ema" or "best", as in `restore`.

    Returns:
        {split: {"example": int [n], "name": [n], "label": int [n], "features": float32 [n, d]}}: what the network's
        global average pool gives.

    Raises:
        InputError: no run, no checkpoint, no such split, or data that are missing or have other classes.
    """
    run, values, normalization = restore.load(folder, weights)
    config, source = run_data.of_run(run, data_dir)
    for name in splits:
        if name not in source.splits:
            raise InputError(f"--splits={','.join(splits)}: the data have {', '.join(source.splits)}")
    devices.use_precision(config.device.precision)
    strategy = devices.make_strategy()
    with strategy.scope():
        model = restore.build_model(run, values, weights)
        runner = Runner(strategy, inside.with_outputs(model, model.get_layer("pool").output), normalization)
    found = {}
    for name in splits:
        split = source.splits[name]
        vectors = SplitLogits(runner, config.data, split, average="logits", threads=config.views.threads).logits()
        if len(vectors) != len(split):
            raise AssertionError(f"{len(vectors)} vectors of {len(split)} examples")
        found[name] = {
            "example": np.arange(len(split)), "name": split.names, "label": np.asarray(split.labels),
            "features": vectors,
        }  # fmt: skip
    return found


def _npz(file, found):
    arrays = {}
    for split, part in found.items():
        arrays |= {f"{split}_features": part["features"], f"{split}_labels": part["label"]}
        arrays[f"{split}_names"] = np.array(list(part["name"] if part["name"] is not None else []), dtype=str)
    np.savez(file, **arrays)


def _parquet(file, found):
    import pyarrow
    import pyarrow.parquet

    tables = []
    for split, part in found.items():
        count, width = part["features"].shape
        flat = pyarrow.array(part["features"].astype(np.float32).ravel())
        tables.append(
            pyarrow.table(
                {
                    "split": pyarrow.array([split] * count),
                    "example": pyarrow.array(part["example"]),
                    "name": pyarrow.array(
                        [""] * count if part["name"] is None else [str(name) for name in part["name"]]
                    ),
                    "label": pyarrow.array(part["label"]),
                    "features": pyarrow.FixedSizeListArray.from_arrays(flat, width),
                }
            )
        )
    pyarrow.parquet.write_table(pyarrow.concat_tables(tables), file)


_WRITERS = {".parquet": _parquet, ".npz": _npz}
