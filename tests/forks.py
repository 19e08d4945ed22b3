"""Commands as processes, forked from one that has TensorFlow imported, which takes longer than a short training."""

import atexit
import json
import multiprocessing
import os
import pathlib
import runpy
import socket
import sys
import tempfile
import time

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["resnet_tf.training.loop", "resnet_tf.data.service"])


class Process:
    """A command of the package, run as `python -m` does; it has what the tests use of subprocess.Popen.

    Args:
        module: of the package.
        flags: list of the command's arguments.
        environment: dict, besides this process's.
        folder: that takes what it prints.
    """

    def __init__(self, module, flags, environment, folder):
        own = pathlib.Path(tempfile.mkdtemp(dir=folder))
        self._printed = [own / "output", own / "errors"]
        for file in self._printed:
            file.touch()
        arguments = (f"resnet_tf.{module}", flags, environment, *self._printed)
        self._process = _SERVER.Process(target=_run, args=arguments, daemon=True)  # ended with the tests at the latest
        self._process.start()
        self.stderr = self._printed[1].open()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def send_signal(self, sent):
        if self.returncode is None:
            os.kill(self._process.pid, sent)

    def terminate(self):
        self._process.terminate()

    def kill(self):
        self._process.kill()

    def communicate(self, timeout=None):
        self._process.join(timeout)
        assert self.returncode is not None, "it has not ended"
        return [file.read_text() for file in self._printed]


def _run(module, flags, environment, output, errors):
    for number, name in ((1, output), (2, errors)):
        os.dup2(os.open(name, os.O_WRONLY), number)
    os.environ.update(environment)
    sys.argv[1:] = flags
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_cluster(start, folder, *flags, count=2):
    """Trainings of `count` processes that train together, started by the fixture `start`."""
    workers = [f"localhost:{port}" for port in free_ports(count)]
    return [
        start(
            *flags, f"--out={folder}",
            TF_CONFIG=json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}),
        )
        for index in range(count)
    ]  # fmt: skip


def wait_for(condition, process, seconds=300):
    begun = time.monotonic()
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - begun < seconds, "nothing happened"
        time.sleep(0.02)


def ends(process, code, seconds=300):
    """What it printed to stderr, once it has ended as it should."""
    _, errors = process.communicate(timeout=seconds)
    assert process.returncode == code, errors
    return errors
