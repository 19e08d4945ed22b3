"""A training run from its task to its result; reads like the method section of a paper."""

import time
from collections.abc import Sequence

from resnet_tf.data.splits import Source
from resnet_tf.runs import cluster, run_data, signals
from resnet_tf.training import debug
from resnet_tf.training.borders import Borders
from resnet_tf.training.choices import Choice
from resnet_tf.training.recorder import Profile
from resnet_tf.training.session import prepare, run_folder


class Callback:
    """Hooks of a training. Override those that are needed; the others do nothing."""

    def on_start(self, run, engine):
        """Called before the first step, with the `record.Run` and the `engine.Engine`.

        `engine.request_stop("reason")`, called here or later, ends the training after the steps under way: it is
        evaluated, saved and finished there.
        """

    def on_row(self, row):
        """Called after each row of metrics.csv, with {column: value}; see `record.METRICS_COLUMNS`."""

    def on_checkpoint(self, path):
        """Called after each checkpoint, with its path."""

    def on_end(self, result):
        """Called after the last evaluation, with the result of `train`."""


def train(task, source: Source | None = None, callbacks: Sequence[Callback] = (), choice: Choice | None = None) -> dict:
    """Train, evaluate and record one run, or resume it if its folder exists.

    Args:
        task: a `tasks.task.Task` with the configuration of the run.
        source: a `data.Source` with splits "train", and "validation" or "test" or both; None to load the data of the
            configuration.
        callbacks: hooks of the training.
        choice: what was chosen for the user, with the data, where --auto chose.

    Returns:
        {"run", "steps", "split", "views", "weights", "examples", "top1", "top5", "loss", "best_top1",
        "images_per_second", "wall_seconds"} of the last evaluation, on the validation split if there is one, else on
        the test split; with --finish_on=best of the best weights, and "best_step". "best_top1" is the best of the
        curve. Where there are both splits, "test" has the metrics of the finished run on the test split, which is
        scored once. "ended" says why a training ended early. With --ema also "ema": {"top1", "top5", "loss"} of the
        averaged weights. Other tasks have other metrics.

    Raises:
        InputError: bad flags, files or data; or the loss is not finite.
        signals.Stopped: a signal came and the checkpoint is written; or another machine of the cluster is gone.
    """
    folder = run_folder(task.config)
    with cluster.together(folder):
        session = prepare(task, source, callbacks, choice)
    engine, supply, plan, run = session.engine, session.supply, session.plan, session.run
    settings, context = task.config.record, session.context
    if settings.debug_step:
        return debug.reproduce(engine, supply, run, settings.debug_step)
    stop = signals.Stop()
    borders = Borders(session, callbacks, stop)
    profile = Profile(run.folder, settings.profile_steps if context.is_chief else ())
    session.introduce()
    with stop.listening(), session.recorder:
        try:
            for callback in callbacks:
                callback.on_start(run, engine)
            borders.begin()
            while distance := borders.distance():
                step = borders.step
                count = min(distance, profile.steps_until_border(step))
                begun = time.monotonic()
                split, servers = session.source.splits["train"], task.config.device.data_service
                with cluster.together(folder), run_data.named_errors(split, servers), profile.step(step):
                    session.window.collect(engine.run(supply, step, step + count), step, begun)
                borders.reach(step + count)
            result = borders.finish()
        except signals.StopRequested as request:
            borders.save()  # also where its evaluation is not done: a resume sees by the rows what is missing
            raise signals.Stopped(
                f"{request} at step {borders.step} of {plan.total}, saved in {context.folder}; "
                "the same command goes on from there"
            ) from None
        except debug.NotFinite as failure:
            raise debug.explain(failure, engine, supply, run, context.is_chief, session.normalization) from None
        except cluster.ERRORS:
            if context.machines == 1:
                raise
            raise signals.Stopped(cluster.GONE.format("", folder)) from None
    for callback in callbacks:
        callback.on_end(result)
    return result
