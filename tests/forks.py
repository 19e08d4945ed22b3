"""Commands as processes, forked from one that has TensorFlow imported: to import it takes longer than a short training.

A fork runs a module as `python -m` does, to the end of its interpreter. This file is also the script that forks.
"""

import contextlib
import json
import os
import pathlib
import runpy
import select
import signal
import subprocess
import sys
import time


class Process:
    """What the tests use of subprocess.Popen. `files` has what it printed, and its exit code once it has ended."""

    def __init__(self, pid, files):
        self.pid, self.files = pid, files
        self.stderr = files["errors"].open()

    def poll(self):
        return self.returncode

    @property
    def returncode(self):
        return int(self.files["code"].read_text()) if self.files["code"].exists() else None

    def send_signal(self, sent):
        if self.returncode is None:
            os.kill(self.pid, sent)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def communicate(self, timeout=300):
        begun = time.monotonic()
        while self.returncode is None:
            assert time.monotonic() - begun < timeout, "it has not ended"
            time.sleep(0.02)
        return self.files["output"].read_text(), self.files["errors"].read_text()


@contextlib.contextmanager
def starter(folder):
    """Function(module, flags, environment) that starts a command of the package; `folder` takes what they print."""
    parent = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    count = 0

    def start(module, flags, environment):
        nonlocal count
        count += 1
        files = {name: folder / f"{count}-{name}" for name in ("output", "errors", "code")}
        asked = {"module": module, "flags": flags, "environment": environment} | {k: str(v) for k, v in files.items()}
        print(json.dumps(asked), file=parent.stdin, flush=True)
        return Process(int(parent.stdout.readline()), files)

    try:
        yield start
    finally:
        parent.communicate()


def _forks():
    """Fork for each line of stdin, and note how forks end. Returns in each fork, with what it is to run."""
    codes = {}
    while True:
        if select.select([sys.stdin], [], [], 0.02)[0]:
            line = sys.stdin.readline()
            if not line:
                os._exit(0)
            asked = json.loads(line)
            for name in ("output", "errors"):
                pathlib.Path(asked[name]).touch()
            pid = os.fork()
            if not pid:
                return asked
            codes[pid] = pathlib.Path(asked["code"])
            print(pid, flush=True)
        while codes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            code = codes.pop(pid)
            code.with_suffix(".partial").write_text(str(os.waitstatus_to_exitcode(status)))
            code.with_suffix(".partial").rename(code)


def _main():
    import resnet_tf.data.service
    import resnet_tf.training.loop  # noqa: F401

    asked = _forks()
    for number, name in enumerate((os.devnull, asked["output"], asked["errors"])):
        os.dup2(os.open(name, os.O_WRONLY if number else os.O_RDONLY), number)
    os.environ.update(asked["environment"])
    sys.argv[1:] = asked["flags"]
    runpy.run_module(f"resnet_tf.{asked['module']}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
