"""Several small trainings at once on one GPU, each in a thread and on a part of the GPU that has a stream of its own.

They share the GPU's time as processes would (docs/performance.md), but load their data once, and compile side by side.
"""

import dataclasses
import queue
import shlex
import threading
import time
import traceback

from resnet_tf.errors import InputError
from resnet_tf.training import devices, feed, loop, record, signals


class _Compiled(loop.Callback):
    """Calls a function when all of a training is compiled."""

    def __init__(self, then):
        self._then = then

    def on_compiled(self, score):
        """The step is; so let evaluation be."""
        score()
        self._then()


class Lanes:
    """Trains in threads, so many trainings at a time. Each is the run that `loop.train` makes of it alone.

    Data that several trainings read are loaded once.
    """

    def __init__(self, size, configs):
        """Divide the GPU, where there is one.

        Args:
            size: trainings at a time.
            configs: {name: `config.TrainConfig`} of all that will train here.

        Raises:
            InputError: precisions that differ, of which TensorFlow knows but one at a time, or several replicas.
        """
        precisions = sorted({config.device.precision for config in configs.values()})
        if len(precisions) > 1:
            raise InputError(f"--precision={' and '.join(precisions)}: trainings that share a GPU need the same")
        for name, config in configs.items():
            if config.device.gpus or config.device.replicas > 1:
                raise InputError(f"{name}: --gpus and --replicas are not used by trainings that share a GPU")
            if config.views.view != "pad_crop":
                raise InputError(f"{name}: trainings that share a GPU have their images there: --view=pad_crop")
        self._divided = devices.share_gpu(size)
        self._slots, self._running, self._over = list(range(size)), set(), queue.SimpleQueue()
        self._stop, self._sources, self._loading = signals.Stop(), {}, threading.Lock()
        # XLA times kernels to choose among them. For each it waits until no program runs on the GPU, and none may begin
        # meanwhile. So the first training is compiled alone, others find most of its choices, and none of those that
        # were started together trains on before all are compiled.
        self._first, self._first_compiled, self._compiling = None, threading.Event(), set()

    @property
    def free(self):
        """Whether another may be started."""
        return bool(self._slots)

    @property
    def busy(self):
        """Whether one runs."""
        return bool(self._running)

    def start(self, training):
        """Start a `grid.Training`."""
        self._running.add(training.name)
        self._compiling.add(training.name)
        self._first = self._first or training.name
        threading.Thread(target=self._train, args=(training, self._slots.pop(0)), daemon=True).start()

    def stop(self):
        """Ask all to save and end."""
        self._stop.name = "SIGTERM"

    def ended(self):
        """Those that have ended since: [(training, exit code as of a process, error in a line)]."""
        over = []
        while not self._over.empty():
            training, slot, code, said = self._over.get()
            self._running.remove(training.name)
            self._slots.insert(0, slot)
            over.append((training, code, said))
        return over

    def kill(self):
        """Threads end with the process."""

    def _train(self, training, slot):
        config = training.config
        if self._divided:
            config = dataclasses.replace(config, device=dataclasses.replace(config.device, gpus=(slot,)))
        record.typed_command.set(shlex.join(["python", "-m", "resnet_tf.train", *training.arguments]))
        try:
            if training.name != self._first:
                self._first_compiled.wait()
                self._stop.check()
            source = self._source(config)
            loop.train(config, source, [_Compiled(lambda: self._compiled(training.name))], self._stop)
            code, said = 0, ""
        except signals.Stopped as stopped:
            code, said = signals.EXIT_CODE, str(stopped)
        except Exception as error:  # one that fails must not end the others
            if not isinstance(error, InputError):
                traceback.print_exc()
            code, said = 1, " ".join(str(error).split())
        self._note(training.name)  # also where it has failed
        self._over.put((training, slot, code, said))

    def _note(self, name):
        self._compiling.discard(name)
        if name == self._first:
            self._first_compiled.set()

    def _compiled(self, name):
        """Hold a training that is compiled until the others are, or until all are to end."""
        self._note(name)
        while self._compiling and not self._stop.name:
            time.sleep(0.05)

    def _source(self, config):
        """Data in memory, loaded once for all that share them; None for a training that reads its own."""
        if config.record.smoke:
            return None
        with self._loading:
            if config.data not in self._sources:
                self._sources[config.data] = feed.load(config)[0]
            return self._sources[config.data]
