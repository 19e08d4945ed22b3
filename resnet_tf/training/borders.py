"""The work between calls into the compiled program: evaluate, save, agree with the other machines."""

import math

import numpy as np

from resnet_tf.runs import checkpoint, cluster, record, signals
from resnet_tf.training import schedule
from resnet_tf.training.precise_bn import precise_bn


class Borders:
    """The borders of one training: the points between two calls into the compiled program.

    Attributes:
        step: number of steps done at the last border.
    """

    def __init__(self, session, callbacks, stop):
        """Start at the step of the engine.

        Args:
            session: a `session.Session`.
            callbacks: of `loop.Callback`.
            stop: a `signals.Stop`.
        """
        self._session, self._callbacks, self._stop = session, callbacks, stop
        self._record = session.task.config.record
        self.step = session.engine.step
        self._metrics = None  # {split: metrics} of the last evaluation
        self._answers = None  # of the weights as they are, in the last evaluation
        self._best = None  # state of the best evaluation, until it is saved
        name = session.held_out
        # On all machines, which must agree; only the first one writes rows. [(step, row of the held-out split)]
        self._curve = [(row["step"], row) for row in session.recorder.rows if row["split"] == name]
        self._ended = ""  # why the training ends before its last step
        self._is_finishing = False

    # --- Where they lie ----------------------------------------------------------------------------------------------

    def distance(self) -> int:
        """Return the number of steps to the next border, on which all machines agree; 0 at the end of the training.

        Raises:
            signals.StopRequested: a signal came to any of the machines.
        """
        session, total, stop = self._session, self._session.plan.total, self._stop
        if self._ended or self.step >= total:
            return 0
        wanted = min(session.window.steps_ahead(), session.plan.steps_per_call)
        reason = session.engine.stop_reason
        with cluster.together(session.context.folder):
            ahead, halt, ends = session.engine.sum_over_machines([wanted, bool(stop.name), bool(reason)])
        if halt:
            raise signals.StopRequested(stop.name or "a signal to another machine")
        if ends:
            self._end(reason or "another machine asked for it")
            return 0
        every = (session.plan.eval_every, self._record.checkpoint_every)
        return min(int(ahead / session.context.machines), total - self.step, *(n - self.step % n for n in every if n))

    def _end(self, reason):
        """End the training here: evaluate and save, unless that is done."""
        self._ended = reason
        if not self._curve or self._curve[-1][0] != self.step:
            self.evaluate()
        self.save()

    def begin(self) -> None:
        """Do the evaluation that a stop cut off, if there was one."""
        is_scored = any(step == self.step for step, _ in self._curve)
        if self.step and self._due(self._session.plan.eval_every) and not is_scored:
            self.evaluate()
            self.save()
        self._ended = self._ended_before() or self._has_stalled()

    def reach(self, step: int) -> None:
        """Move to the border at `step`; evaluate and save there if it is time.

        Raises:
            signals.StopRequested: a signal came.
        """
        self.step = step
        if self._due(self._session.plan.eval_every):
            self.evaluate()
            self._ended = self._has_stalled()
        if self._due(self._record.checkpoint_every) or self._ended:
            self.save()

    def _has_stalled(self):
        """Return why --stop_after ends the training; "" if it does not."""
        patience, steps_per_epoch = self._record.stop_after, self._session.plan.steps_per_epoch
        if not patience or not self._curve or self.step >= self._session.plan.total:
            return ""
        best = min(self._curve, key=lambda one: _loss(one[1]))[0]
        if self._curve[-1][0] - best < patience * steps_per_epoch:
            return ""
        return f"no lower validation loss for {patience} epochs, since epoch {best / steps_per_epoch:.3g}"

    def _ended_before(self):
        """Return why the run ended early when it was finished; "" where it did not, or goes on by --extend."""
        ended = self._session.run.ended
        is_here = ended.get("step") == self.step < self._session.plan.total
        return ended["reason"] if is_here and not self._record.extend else ""

    def _due(self, every):
        return self.step == self._session.plan.total or bool(every and self.step % every == 0)

    # --- What happens there ------------------------------------------------------------------------------------------

    def evaluate(self) -> None:
        """Score the held-out split, write rows, advance a plateau schedule, and keep the best weights."""
        session, config, step = self._session, self._session.task.config, self.step
        if step == session.plan.total and config.optimizer.precise_bn:
            with cluster.together(session.context.folder):
                precise_bn(session.engine, session.supply, step, config.optimizer.precise_bn)
        self._score()
        for split, metrics in self._metrics.items():
            session.recorder.write(step, step / session.plan.steps_per_epoch, split, **_without_count(metrics))
        self._curve.append((step, _as_written(self._metrics[session.held_out])))
        if config.record.histograms:
            session.recorder.histograms(step, session.engine)
        if session.engine.recipe.schedule.kind == "plateau":
            self._advance_plateau()
        if session.held_out == "validation":
            *before, last = (_rank(row, session.task.metric) for _, row in self._curve)
            if last > max(before, default=(-1.0, 0.0)):
                self._best = self._arrays()

    def _score(self):
        session, task = self._session, self._session.task
        split = session.source.splits[session.held_out]
        # Machines stop together, at the border of a call; a single one need not end its evaluation before.
        check = self._stop.check if session.context.machines == 1 else lambda: None
        self._metrics = {}
        for name, ema in (("", False), ("_ema", True))[: 2 if task.config.optimizer.ema else 1]:
            metrics, answers = task.score(session.evaluation, split, ema, check)
            if metrics["examples"] != len(split):
                raise AssertionError(f"{metrics['examples']} of {len(split)} examples were scored")
            self._metrics[session.held_out + name] = metrics
            if not ema:
                self._answers = answers

    def _advance_plateau(self):
        """Advance the schedule by the error of validation or of the training batches, never of the test split."""
        session, state = self._session, self._session.engine.state
        if session.held_out == "validation":
            error = 1 - self._metrics["validation"][session.task.metric]
        else:
            error = session.window.error_since_evaluation()
        before = {name: float(state.get(f"state/{name}")) for name in ("falls", "best_error", "waited")}
        after = schedule.after_plateau(before, error, session.task.config.schedule.patience)
        state.set({f"state/{name}": np.float32(value) for name, value in after.items()})

    def save(self) -> None:
        """Write a checkpoint, unless the last step has one: the state is then perhaps that of the best step."""
        if self._session.context.is_chief and not self._is_finishing:
            if self._best is not None:  # before the checkpoint: a run that resumes from it finds the best until then
                checkpoint.save_best(self._session.run.checkpoints, self._best)
                self._best = None
            path = checkpoint.save(self._session.run.checkpoints, self.step, self._arrays())
            for callback in self._callbacks:
                callback.on_checkpoint(path)

    def _arrays(self):
        session = self._session
        values = session.engine.state.get_all() | session.window.get_state()
        return values | {
            "normalization/mean": session.normalization.mean,
            "normalization/std": session.normalization.std,
        }

    # --- The end -----------------------------------------------------------------------------------------------------

    def finish(self) -> dict:
        """Write the result of the run, and return it; see `loop.train`."""
        session, task, run = self._session, self._session.task, self._session.run
        is_trained = self._metrics is not None
        is_new = is_trained or not run.finished  # also where it was killed after its last checkpoint
        steps = self.step
        takes_best = self._record.finish_on == "best"
        self._is_finishing = True
        if takes_best:  # machines that do not write may be here before the file is
            best = self._best or checkpoint.load(checkpoint.best_path(run.checkpoints))
            session.engine.state.set_all(best)
        if takes_best or not is_trained:
            self._score()
        held_out, recorder, name = session.held_out, session.recorder, task.metric
        metrics = self._metrics[held_out]
        seconds = recorder.wall_seconds if is_trained else recorder.rows[-1]["wall_seconds"]
        result = {
            "run": str(session.context.folder),
            "steps": steps,
            "split": held_out,
            "views": task.test_view,
            "weights": "best" if takes_best else "raw",
            **({"best_step": session.engine.step} if takes_best else {}),
            **metrics,
            f"best_{name}": max([*(row[name] for _, row in self._curve), metrics[name]]),
            "images_per_second": session.window.images_per_second,
            "wall_seconds": round(seconds, 1),
        }
        if task.config.optimizer.ema:
            result["ema"] = _without_count(self._metrics[f"{held_out}_ema"])
        if held_out == "validation" and "test" in session.source.splits:
            result["test"] = self._score_test()
        if self._ended:
            result["ended"] = self._ended
        if session.context.is_chief:
            task.keep(run.folder, session.source.splits[held_out], session.source.classes, self._answers)
            run.finish(result)
            if self._ended:
                run.end(steps, self._ended)
            if self._record.results and is_new:
                row = record.provenance(task.config.optimizer.seed, result["wall_seconds"])
                row |= task.row(steps, steps / session.plan.steps_per_epoch, result.get("test", metrics))
                record.append_result(self._record.results, task.columns, row)
        return result

    def _score_test(self):
        """Score the test split, once: it has no part in any choice."""
        session = self._session
        split = session.source.splits["test"]
        evaluation = session.task.evaluation(session.engine, split, session.normalization)
        check = self._stop.check if session.context.machines == 1 else lambda: None
        return session.task.score(evaluation, split, False, check)[0]


def _rank(row, name):
    """Return the key by which the best row is found: the metric, then the negative loss, if there is one."""
    return row[name], -_loss(row)


def _loss(row):
    """Return the loss of a row; infinite if there is none, or it is not finite."""
    loss = row.get("loss")
    return loss if isinstance(loss, float) and math.isfinite(loss) else math.inf


def _as_written(metrics):
    """Return metrics with the digits that metrics.csv has, so that a resumed run compares what this one does."""
    return {name: float(f"{value:.6g}") for name, value in metrics.items()}


def _without_count(metrics):
    return {name: value for name, value in metrics.items() if name != "examples"}
