"""Callbacks that send a training to Weights & Biases or MLflow.

    from resnet_tf.training.logging_callbacks import MLflow, WandB
    resnet_tf.fit(callbacks=[MLflow(experiment="digits"), WandB(project="digits")], dataset="digits", ...)

Both send the flags, every row of metrics.csv as metrics "SPLIT/COLUMN" at its step, and the result as "result/KEY". The
run folder keeps the id of the run there, so that a resumed training goes on in the same run, after rows that are
missing there. A training that stops or fails leaves its run there unfinished, until the same training goes on.
"""

import json
import logging
import numbers
import time
import uuid

from resnet_tf import config as configuration
from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.runs import devices, record
from resnet_tf.training import loop

_log = logging.getLogger(__name__)
_BATCH = 100  # what MLflow's servers take at a time of parameters; of metrics they take more
_LONGEST = 500  # characters of a parameter that every MLflow server takes


def flatten(values: dict, prefix: str) -> dict:
    """Return {"PREFIX/KEY": value} of nested dicts, without empty values."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}/{name}")
        elif value not in ("", None):
            flat[f"{prefix}/{name}"] = value
    return flat


def metrics_of(row: dict) -> dict[str, float]:
    """Return the metrics of a row of metrics.csv: {"SPLIT/COLUMN": number}, without empty cells."""
    return flatten({name: value for name, value in row.items() if name not in ("step", "split")}, row["split"])


def _line(error):
    """Return the message of an error in one line that is not too long."""
    return " ".join(str(error).split())[:300]


class _Logger(loop.Callback):
    """What both have in common. A subclass has `_file`, `_begin`, `_send` and `_end`."""

    _file = ""  # in the run folder; holds the id

    def __init__(self):
        self._folder = None  # of the run; None where this machine does not write

    def on_start(self, run, engine):
        """Create the run there, or go on with it, and send rows that it lacks."""
        if devices.worker(engine.strategy):
            return
        self._folder = run.folder
        try:
            kept = json.loads((run.folder / self._file).read_text())
        except FileNotFoundError:
            kept = {}
        except ValueError:
            raise InputError(f"{run.folder / self._file}: damaged") from None
        kept = self._begin(run, kept, configuration.settings_of(run.config))
        files.write_json(run.folder / self._file, kept)
        for row in record.read_metrics(run.folder / "metrics.csv"):
            self.on_row(row)

    def on_row(self, row):
        """Send the metrics of a row."""
        self._send(metrics_of(row), row["step"])

    def on_end(self, result):
        """Send the result and end the run there."""
        if self._folder is not None:
            self._end(flatten(result, "result"), result["steps"])


class WandB(_Logger):
    """Sends a training to Weights & Biases; needs `pip install 'resnet_tf[wandb]'`."""

    _file = "wandb.json"

    def __init__(self, project: str, **init):
        """Prepare; nothing is sent before the training begins.

        Args:
            project: name of the project.
            **init: further arguments of `wandb.init`, such as entity, name, tags, or mode="offline".

        Raises:
            InputError: wandb is not installed.
        """
        super().__init__()
        try:
            import wandb
        except ImportError:
            raise InputError("WandB needs wandb: pip install 'resnet_tf[wandb]'") from None
        self._wandb, self._init, self._run = wandb, {"project": project} | init, None

    def _begin(self, run, kept, settings):
        kept = {"id": kept.get("id") or uuid.uuid4().hex[:12]}
        options = {"name": run.folder.name, "dir": str(run.folder), "config": settings} | self._init
        try:
            self._run = self._wandb.init(**options, id=kept["id"], resume="allow")
        except self._wandb.Error as error:  # no key, or no network
            raise InputError(f"WandB(project={self._init['project']}): {_line(error)}") from None
        self._first = self._run.step  # above 0 where the run goes on
        return kept

    def _send(self, metrics, step):
        if step >= self._first:  # W&B takes rising steps only
            self._run.log(metrics, step=step)

    def _end(self, result, step):
        self._run.summary.update(result)
        self._run.finish()


class MLflow(_Logger):
    """Sends a training to MLflow; needs `pip install 'resnet_tf[mlflow]'`, which has MLflow's client alone.

    If the server cannot be reached during the training, a warning is logged, the training goes on, and the metrics are
    sent with the next ones. How long MLflow's client tries itself is set by MLFLOW_HTTP_REQUEST_MAX_RETRIES.
    """

    _file = "mlflow.json"

    def __init__(self, experiment: str = "resnet_tf", uri: str | None = None):
        """Prepare; nothing is sent before the training begins.

        Args:
            experiment: name of the experiment, created if it does not exist.
            uri: tracking server, such as "http://host:5000"; None for $MLFLOW_TRACKING_URI or MLflow's default. A local
                folder, "file:///path", needs MLFLOW_ALLOW_FILE_STORE=true since MLflow 3.

        Raises:
            InputError: mlflow is not installed.
        """
        super().__init__()
        try:
            import mlflow.entities
            import mlflow.exceptions
        except ImportError:
            raise InputError("MLflow needs mlflow: pip install 'resnet_tf[mlflow]'") from None
        self._mlflow, self._experiment, self._uri = mlflow, experiment, uri
        self._waiting, self._last, self._id, self._client = [], {}, None, None

    def _begin(self, run, kept, settings):
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri=self._uri)
            self._id = self._known(kept.get("run_id")) or self._create(run, settings)
        except Exception as error:  # of MLflow's client, of its stores and of the network
            raise InputError(f"MLflow(uri={self._uri}): {_line(error)}") from None
        return {"run_id": self._id, "experiment": self._experiment}

    def _known(self, run_id):
        """Return the id of a run that goes on there; None if there is none."""
        if run_id is None:
            return None
        try:
            self._client.update_run(run_id, status="RUNNING")
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            _log.warning("MLflow has no run %s any more; a new one is created", run_id)
            return None
        return run_id

    def _create(self, run, settings):
        found = self._client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self._experiment)
        tags = {"resnet_tf.commit": str(run.manifest.get("commit")), "resnet_tf.folder": str(run.folder)}
        run_id = self._client.create_run(experiment, run_name=run.folder.name, tags=tags).info.run_id
        params = [self._mlflow.entities.Param(name, str(value)[:_LONGEST]) for name, value in settings.items()]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(run_id, params=params[start : start + _BATCH])
        return run_id

    def _send(self, metrics, step):
        now = int(1000 * time.time())
        self._waiting += [
            self._mlflow.entities.Metric(name, float(value), now, step) for name, value in metrics.items()
        ]
        try:
            self._flush()
        except Exception as error:  # a training is worth more than its log
            _log.warning("MLflow: %s; %d metrics wait", _line(error), len(self._waiting))

    def _last_step(self, name):
        """Return the last step at which a metric is there; -1 if there is none."""
        if name not in self._last:
            history = self._client.get_metric_history(self._id, name)
            self._last[name] = max((metric.step for metric in history), default=-1)
        return self._last[name]

    def _flush(self):
        while self._waiting:
            batch = self._waiting[:_BATCH]
            fresh = [metric for metric in batch if metric.step > self._last_step(metric.key)]
            if fresh:
                self._client.log_batch(self._id, metrics=fresh)
            self._last |= {metric.key: metric.step for metric in fresh}
            del self._waiting[:_BATCH]

    def _end(self, result, step):
        numbers_of = {name: value for name, value in result.items() if isinstance(value, numbers.Real)}
        self._send(numbers_of, step)
        try:
            for name, value in result.items():
                if name not in numbers_of:
                    self._client.set_tag(self._id, name, str(value))
            self._client.set_terminated(self._id)
        except Exception as error:
            _log.warning("MLflow: %s; the run is not marked as finished", _line(error))
