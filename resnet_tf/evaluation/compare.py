"""Comparison of trained runs: the flags in which they differ, groups of seeds, and a table of metrics and cost."""

import dataclasses
import os
import re
import statistics

import numpy as np

from resnet_tf import config as configuration
from resnet_tf.evaluation.trained import Trained

_OUTPUTS = ("out", "results")  # flags that name outputs and do not change a run


def differing_flags(runs: list[Trained]) -> list[dict]:
    """Return the flags that differ between runs, except those that name outputs.

    Returns:
        List of {"flag", "changes_result": bool, "values": [text on the command line, for each run]}.
    """
    fields = configuration.fields_of(type(runs[0].config))
    settings = [configuration.settings_of(run.config) for run in runs]
    rows = []
    for name, field in fields.items():
        values = [_flag_text(each[name]) for each in settings]
        if name not in _OUTPUTS and len(set(values)) > 1:
            rows.append({"flag": name, "changes_result": field.metadata["changes_result"], "values": values})
    return rows


def _flag_text(value):
    """Return a setting as text on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(_flag_text, value))
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone; an unfinished run is a group by itself.

    Attributes:
        name: common beginning of the names of the runs, or the name of the only run.
        runs: list of `Trained`.
    """

    name: str
    runs: list[Trained]

    def mean_curve(self, split: str, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Average a column of metrics.csv over the runs, at the steps that all of them have.

        Returns:
            Epochs, means and sample standard deviations (0 for one run): arrays of one length.
        """
        curves = [run.curve(split, column) for run in self.runs]
        common = set.intersection(*(set(steps.tolist()) for steps, _, _ in curves))
        kept = [np.isin(steps, list(common)) for steps, _, _ in curves]
        values = np.array([values[keep] for (_, _, values), keep in zip(curves, kept, strict=True)])
        spread = values.std(axis=0, ddof=1) if len(self.runs) > 1 else np.zeros(values.shape[1])
        return curves[0][1][kept[0]], values.mean(axis=0), spread


def key_without_seed(run: Trained) -> str:
    """Return a key of all settings that change the metrics of a run, except its seed: equal for runs of one group."""
    fields, settings = configuration.fields_of(type(run.config)), configuration.settings_of(run.config)
    # Images of these data sets are no files with orientation tags.
    idle = {"seed", "exif"} if run.config.data.dataset in configuration.SMALL_DATASETS else {"seed"}
    same = [settings[name] for name, field in fields.items() if field.metadata["changes_result"] and name not in idle]
    return repr((same, run.evaluated))


def groups(runs: list[Trained]) -> list[Group]:
    """Group runs whose evaluation and flags that change results are equal, except for the seed.

    Returns:
        List of `Group` in the order of their first runs. Two runs of one seed are two groups, so that n counts seeds.
    """
    runs_by_key = {}
    for run in runs:
        key = repr((key_without_seed(run), run.finished or run.name))
        if any(run.seed == other.seed for other in runs_by_key.get(key, ())):
            key = repr((key, run.name))
        runs_by_key.setdefault(key, []).append(run)
    taken = {run.name for run in runs}
    groups = []
    for members in runs_by_key.values():
        name = members[0].name
        if len(members) > 1:
            shared = re.sub(r"[-_. ]+(seed|s)?[-_. =]*$", "", os.path.commonprefix([run.name for run in members]))
            name = shared if shared and shared not in taken else f"{name} and {len(members) - 1} more"
            taken.add(name)
        groups.append(Group(name, members))
    return groups


def table(groups: list[Group], price_per_hour: float = 0.0) -> list[dict]:
    """Return one row for each run, and a row of means before the runs of each group of several seeds.

    Args:
        groups: list of `Group`.
        price_per_hour: price of one GPU, or of a machine without a GPU, for an hour; 0 if unknown.

    Returns:
        List of dicts. "kind": "run" or "seeds"; "group"; "run": its name; "seed": the seed or seeds; "runs": number of
        runs; "architecture"; "precision", "precision_bits"; "parameters_mib": trainable parameters at 4 bytes; "gmacs",
        "gflops" (2 for each MAC) and "gflops_thop" (see `Cost`) of one image forward; "evaluated"; "examples"; the
        metrics of the task, such as "top1": fractions; "loss_nats"; "top1_sd" and so on: sample standard deviations
        over seeds; "best_top1" and so on: maxima of the curve; "steps", "planned_steps"; "finished"; "epochs";
        "wall_seconds"; "images_per_second" of the training; "gpu_hours"; "price"; "hardware"; "commit"; "published" and
        "source", filled by `references.beside`. A value is None if unknown. Rows of seeds hold means of numbers, and
        "several" for other values that differ.
    """
    rows = []
    for group in groups:
        single = [_row(run, group, price_per_hour) for run in group.runs]
        if len(single) > 1:
            rows.append(_mean_row(group, single))
        rows += single
    return rows


_MEANS = ("loss_nats", "wall_seconds", "images_per_second", "gpu_hours", "price")  # averaged beside the metrics


def _row(run, group, price_per_hour):
    precision = run.config.device.precision
    parameters = run.manifest["model"].get("trainable_parameters") if run.cost is None else None
    hours = run.wall_seconds / 3600 / run.sharing
    best = {name: run.curve(run.held_out, name)[2].max(initial=-1) for name in run.metrics}
    return {
        "kind": "run", "group": group.name, "run": run.name, "seed": run.seed, "runs": 1,
        "architecture": run.config.network, "precision": precision,
        "precision_bits": configuration.PRECISIONS[precision].bits,
        "parameters_mib": run.cost.mib_float32 if run.cost else parameters and 4 * parameters / 2**20,
        "gmacs": run.cost and run.cost.gmacs, "gflops": run.cost and 2 * run.cost.gmacs,
        "gflops_thop": run.cost and run.cost.gflops_thop, "evaluated": run.evaluated,
        "examples": run.evaluation.get("examples", run.manifest["data"]["examples"].get(run.evaluation["split"])),
        **{name: run.evaluation[name] for name in run.metrics}, "loss_nats": run.evaluation.get("loss"),
        **dict.fromkeys((*(f"{name}_sd" for name in run.metrics), "loss_nats_sd")),
        **{f"best_{name}": float(value) if value >= 0 else None for name, value in best.items()},
        "steps": run.steps, "planned_steps": run.planned, "finished": run.finished,
        "epochs": run.steps / (run.manifest["data"]["examples"]["train"] / run.config.optimizer.batch_size),
        "wall_seconds": run.wall_seconds,
        "images_per_second": run.images_per_second, "gpu_hours": hours * run.gpus if run.gpus else None,
        "price": hours * max(1, run.gpus) * price_per_hour if price_per_hour else None,
        "hardware": run.manifest["hardware"], "commit": run.manifest["commit"], "published": None, "source": None,
    }  # fmt: skip


def _mean_row(group, rows):
    row = {name: rows[0][name] if len({each[name] for each in rows}) == 1 else "several" for name in rows[0]}
    row |= {"kind": "seeds", "run": group.name, "runs": len(rows), "seed": " ".join(str(each["seed"]) for each in rows)}
    metrics = group.runs[0].metrics
    for name in (*_MEANS, *metrics, *(f"best_{name}" for name in metrics)):
        values = [each[name] for each in rows]
        row[name] = None if None in values else statistics.fmean(values)
    for name in (*metrics, "loss_nats"):
        row[f"{name}_sd"] = None if row[name] is None else float(np.std([each[name] for each in rows], ddof=1))
    return row
