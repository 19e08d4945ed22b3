"""Several small trainings at once on one GPU, each in a thread and on a part of the GPU that has a stream of its own.

A network for images of 32x32 pixels runs some 450 small kernels a step, one after another, and leaves most of a large
GPU idle; processes that share a GPU only take turns, while streams of one process run side by side.
"""

import dataclasses
import queue
import threading

from resnet_tf.data import sources  # noqa: F401  (what threads import first, they would import at once)
from resnet_tf.errors import InputError
from resnet_tf.training import devices, feed, loop, record, signals


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: what to call it.
        config: its `config.TrainConfig`.
        command: the command line that does it alone, for manifest and results.
    """

    name: str
    config: object
    command: str


def train(jobs, lanes, on_start=lambda job: None, on_end=lambda job, outcome: None):
    """Train all jobs, so many at a time; in their order, each lane taking the next as it gets free.

    Each is the run that `loop.train` makes of it alone, but for its wall time. Signals stop all of them, saved. Data
    that several trainings read are loaded once.

    Args:
        jobs: list of `Job`, all of the same --precision, which TensorFlow knows but one of at a time.
        lanes: trainings at a time.
        on_start: called with a job before it begins.
        on_end: called with a job and what came of it: what `loop.train` returns, or the exception that ended it.

    Raises:
        InputError: precisions that differ, or --gpus.
        signals.Stopped: a signal came; every run under way is saved.
    """
    precisions = sorted({job.config.device.precision for job in jobs})
    if len(precisions) > 1:
        raise InputError(f"--precision={' and '.join(precisions)}: trainings that share a GPU need the same")
    for job in jobs:
        if job.config.device.gpus or job.config.device.replicas > 1:
            raise InputError(f"{job.name}: --gpus and --replicas are not used by trainings that share a GPU")
    lanes = min(lanes, len(jobs))
    shared = devices.share_gpu(lanes)
    waiting = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    stop, loaded, told = signals.Stop(), _Loaded(), threading.Lock()

    def work(lane):
        while not stop.name:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            with told:
                on_start(job)
            config = job.config
            if shared:
                config = dataclasses.replace(config, device=dataclasses.replace(config.device, gpus=(lane,)))
            record.typed_command.set(job.command)
            try:
                outcome = loop.train(config, loaded.source(config), stop=stop)
            except Exception as error:  # one that fails must not end the others
                outcome = error
            with told:
                on_end(job, outcome)

    threads = [threading.Thread(target=work, args=(lane,), name=f"lane {lane}") for lane in range(lanes)]
    with stop.listening():
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # in short waits, between which Python hears signals
                thread.join(0.2)
    stop.check()


class _Loaded:
    """Sources by the settings that they are made of, each loaded once; streamed ones are not kept."""

    def __init__(self):
        self._lock, self._sources = threading.Lock(), {}

    def source(self, config):
        if config.views.view != "pad_crop" or config.record.smoke:
            return None
        key = (config.data, config.views.view)
        with self._lock:
            if key not in self._sources:
                self._sources[key] = feed.load(config)[0]
            return self._sources[key]
