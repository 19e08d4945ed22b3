"""Feature vectors of every example, taken before the classifier, and their files."""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from resnet_tf import config, files
from resnet_tf.errors import InputError
from resnet_tf.evaluation import pictures
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.models import inside
from resnet_tf.runs import devices, restore, run_data
from resnet_tf.runs.runner import Runner
from resnet_tf.serving import sharding


def write(settings: config.FeaturesConfig) -> dict:
    """Compute the features of a run's data and write them to --out.

    A .parquet file has one row for each example: split, example (its position in the split, from 0), name, label, and
    features, a list of float32. An .npz file has three arrays for each split: SPLIT_features [n, d], SPLIT_labels [n]
    and SPLIT_names [n].

    With --shard=I/N the file has every N-th example of each split, from the I-th on, and a name of `sharding`; a part
    that is done stays as it is.

    Returns:
        {"out", "run", "examples": {split: count}, "features": d}; for a part also what `Shard.finish` adds.

    Raises:
        InputError: the run, a checkpoint, data or a split is missing, pyarrow is missing, --out has another ending, or
            a split has fewer examples than there are parts.
    """
    out = pictures.check_data_file("out", settings.out, ".npz")
    if not settings.run:
        raise InputError("--run is not set: the folder of the run")
    shard = sharding.parse(settings.shard, out) if settings.shard else None
    read = _read(settings.run, settings.splits, settings.data_dir, settings.weights)
    model = f"{settings.run} {settings.weights}".strip()
    if shard:
        read, names = _part(read, shard)
        done = shard.finished(model, names)
        if done:
            print(f"{shard.manifest}: this part is done", file=sys.stderr, flush=True)
            return done
        out = shard.out
    tables = _tables(*read)
    (_write_npz if out.suffix == ".npz" else _write_parquet)(out, tables)
    result = {
        "out": str(out), "run": settings.run,
        "examples": {split: len(table["label"]) for split, table in tables.items()},
        "features": next(iter(tables.values()))["features"].shape[1],
    }  # fmt: skip
    return shard.finish(names, {"model": model, **result}) if shard else result


def _part(read, shard):
    """Return what `_read` returned with the examples of a part alone, and their names."""
    *rest, splits = read
    parts, names = {}, []
    for name, (split, indices) in splits.items():
        if len(split) < shard.count:
            raise InputError(f"--shard={shard.index}/{shard.count}: {name} has {len(split)} examples, fewer than parts")
        indices = np.array(shard.files_of(indices))
        split = split.take(indices)
        parts[name] = split, indices
        names += [f"{name}/{one}" for one in (indices if split.names is None else split.names)]
    return (*rest, parts), names


def of_run(
    folder: str | pathlib.Path, splits: Sequence[str] = (), data_dir: str = "", weights: str = ""
) -> dict[str, dict]:
    """Compute the output of the network's global average pool for the evaluation view of each example.

    Args:
        folder: folder of the run.
        splits: names of splits of its data; () for "train" and `run_data.scored`.
        data_dir: where the data are now; "" if they are where they were in training.
        weights: "raw", "ema" or "best", as in `restore`.

    Returns:
        {split: {"example": int [n], "name": [n] or None, "label": int [n], "features": float32 [n, d]}}.

    Raises:
        InputError: the run, its checkpoint or a split are missing, or data are missing or have other classes.
    """
    return _tables(*_read(folder, splits, data_dir, weights))


def _read(folder, splits, data_dir, weights):
    """Return the run, its weights and data: the arguments of `_tables`."""
    run, values, normalization = restore.load(folder, weights)
    recipe, source = run_data.of_run(run, data_dir)
    splits = splits or ("train", run_data.scored(source.splits))
    for name in splits:
        if name not in source.splits:
            raise InputError(f"--splits={','.join(splits)}: the data have {', '.join(source.splits)}")
    parts = {name: (source.splits[name], np.arange(len(source.splits[name]))) for name in splits}
    return run, values, normalization, recipe, weights, parts


def _tables(run, values, normalization, recipe, weights, splits):
    devices.use_precision(recipe.device.precision)
    strategy = devices.make_strategy()
    with strategy.scope():
        model = restore.build_model(run, values, weights)
        runner = Runner(strategy, inside.with_outputs(model, model.get_layer("pool").output), normalization)
    tables = {}
    for name, (split, indices) in splits.items():
        vectors = SplitLogits(runner, recipe.data, split, average="logits", threads=recipe.views.threads).logits()
        if len(vectors) != len(split):
            raise AssertionError(f"{len(vectors)} vectors of {len(split)} examples")
        tables[name] = {
            "example": indices, "name": split.names, "label": np.asarray(split.labels), "features": vectors,
        }  # fmt: skip
    return tables


def _write_npz(path, tables):
    arrays = {}
    for split, table in tables.items():
        arrays |= {f"{split}_features": table["features"], f"{split}_labels": table["label"]}
        arrays[f"{split}_names"] = np.array(list(table["name"] if table["name"] is not None else []), dtype=str)
    files.replace_atomically(path, lambda file: np.savez(file, **arrays))


def _write_parquet(path, tables):
    import pyarrow

    parts = []
    for split, table in tables.items():
        count, width = table["features"].shape
        names = [""] * count if table["name"] is None else [str(name) for name in table["name"]]
        flat = pyarrow.array(table["features"].astype(np.float32).ravel())
        features = pyarrow.FixedSizeListArray.from_arrays(flat, width)
        columns = {"split": [split] * count, "example": table["example"], "name": names, "label": table["label"]}
        arrays = {name: pyarrow.array(values) for name, values in columns.items()}
        parts.append(pyarrow.table(arrays | {"features": features}))
    pictures.write_parquet(path, pyarrow.concat_tables(parts))
