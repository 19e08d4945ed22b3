"""The machines, or processes, that train together: who they are, their meeting before the start, and whether they live.

They are named by TF_CONFIG, as TensorFlow has it, or by RESNET_TF_CLUSTER:

    slurm               the tasks of a SLURM job step, one of which `srun` made this process
    HOST:PORT,...       the addresses of all of them; JOB_COMPLETION_INDEX, which Kubernetes sets in the pods of an
                        indexed job, or RESNET_TF_MACHINE is the index of this one

TensorFlow alone would wait for the others without a word, and SIGTERM would not end it. NCCL waits for ever for a
machine that is gone. Hence `meet` and `together`.
"""

import contextlib
import json
import logging
import os
import select
import socket
import threading
import time
from typing import NamedTuple

import tensorflow as tf
from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as slurm

from resnet_tf.errors import InputError
from resnet_tf.runs import signals

VARIABLE = "RESNET_TF_CLUSTER"
_INDEX = ("JOB_COMPLETION_INDEX", "RESNET_TF_MACHINE")
_PORT, _PORTS = 20000, 10000  # of a SLURM job: so that two jobs on a machine seldom have the same
_RETRY, _FIRST_WORD, _NEXT_WORD = 0.2, 5.0, 60.0  # seconds while machines meet
_LOOK, _LOOK_TIMEOUT, _MISSES = 1.0, 5.0, 3  # seconds between looks at the others, and looks that find one gone
_GO = b"go\n"
ERRORS = (  # of TensorFlow, where another machine is gone
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError, tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)  # fmt: skip
GONE = "another machine of the cluster is gone; {}start all of them again to go on in {}"
_log = logging.getLogger(__name__)
_watch = None  # of this process, once it has met the others


class Cluster(NamedTuple):
    """The machines of a training.

    Attributes:
        addresses: host:port of each, in the order of their indices; () for one machine alone.
        index: of this machine.
    """

    addresses: tuple[str, ...] = ()
    index: int = 0


def configure() -> str:
    """Return TF_CONFIG, set from RESNET_TF_CLUSTER where that names the machines; "" for one machine alone.

    Raises:
        InputError: a variable is missing or invalid.
    """
    named = os.environ.get(VARIABLE, "")
    if named and not os.environ.get("TF_CONFIG"):
        cluster = _of_slurm(os.environ) if named == "slurm" else _of_addresses(named, os.environ)
        if len(cluster.addresses) > 1:
            task = {"type": "worker", "index": cluster.index}
            os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": list(cluster.addresses)}, "task": task})
    return os.environ.get("TF_CONFIG", "")


def parse(tf_config: str) -> Cluster:
    """Return the machines that a TF_CONFIG names, chief first.

    Raises:
        InputError: not JSON with a cluster and a task.
    """
    if not tf_config:
        return Cluster()
    try:
        parsed = json.loads(tf_config)
        chiefs, workers = (tuple(parsed["cluster"].get(name, ())) for name in ("chief", "worker"))
        if len(chiefs + workers) < 2:
            return Cluster()
        index = int(parsed["task"]["index"]) + (len(chiefs) if parsed["task"]["type"] == "worker" else 0)
        cluster = Cluster(chiefs + workers, index)
        [_split(address) for address in cluster.addresses]
        cluster.addresses[index]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InputError(f"TF_CONFIG={tf_config}: not JSON with a cluster and a task") from None
    return cluster


def _of_slurm(environment):
    def read(name):
        if f"SLURM_{name}" not in environment:
            raise InputError(f"{VARIABLE}=slurm: SLURM_{name} is not set: start the training by srun")
        return environment[f"SLURM_{name}"]

    # TensorFlow's SlurmClusterResolver sorts hosts by name: n10 before n2, which have the ranks of n2 and n10.
    try:
        hosts = slurm.expand_hostlist(read("STEP_NODELIST"))
        counts = slurm.expand_tasks_per_node(read("STEP_TASKS_PER_NODE"))
        rank, first = int(read("PROCID")), _PORT + int(read("JOB_ID")) % _PORTS
        places = [(node, local) for node, count in enumerate(counts) for local in range(count)]
        mine = tuple(
            int(environment.get(f"SLURM_{name}", places[rank][at])) for at, name in enumerate(("NODEID", "LOCALID"))
        )
        addresses = tuple(f"{hosts[node]}:{first + local}" for node, local in places)
    except (ValueError, IndexError) as error:
        raise InputError(f"{VARIABLE}=slurm: {error}") from None
    if places[rank] != mine:
        raise InputError(
            f"{VARIABLE}=slurm: task {rank} has place {mine} of (node, task on it), not {places[rank]}: start the "
            "training by srun --distribution=block"
        )
    return Cluster(addresses, rank)


def _of_addresses(named, environment):
    addresses = tuple(named.split(","))
    variable = next((name for name in _INDEX if name in environment), "")
    if not variable:
        raise InputError(f"{VARIABLE}={named}: neither {' nor '.join(_INDEX)} says which of them this machine is")
    try:
        [_split(address) for address in addresses]
    except ValueError:
        raise InputError(f"{VARIABLE}={named}: not slurm, and not addresses HOST:PORT,HOST:PORT") from None
    index = environment[variable]
    if not index.isdigit() or int(index) >= len(addresses):
        raise InputError(f"{variable}={index}: not an index of the {len(addresses)} machines of {VARIABLE}")
    return Cluster(addresses, int(index))


def _split(address):
    host, _, port = address.rpartition(":")
    if not host:
        raise ValueError(address)
    return host.strip("[]"), int(port)


# --- The meeting -----------------------------------------------------------------------------------------------------


def meet(cluster: Cluster) -> None:
    """Wait until all machines of a cluster are here, and say for whom; then watch them, see `together`.

    Machine 0 listens at its own address, which TensorFlow's server takes over afterwards.

    Raises:
        InputError: the port of machine 0 is taken.
    """
    global _watch
    clock = _Clock()
    _welcome(cluster, clock) if cluster.index == 0 else _arrive(cluster, clock)
    _watch = _Watch([address for index, address in enumerate(cluster.addresses) if index != cluster.index])


class _Clock:
    """Says now and then that this machine waits."""

    def __init__(self):
        self._next = time.monotonic() + _FIRST_WORD

    def tick(self, text):
        if time.monotonic() > self._next:
            _log.warning("waiting for %s; start the same command there", text())
            self._next = time.monotonic() + _NEXT_WORD


def _welcome(cluster, clock):
    """Take the calls of all others, then tell them to go."""
    _, port = _split(cluster.addresses[0])
    here = {}  # {index: connection}
    with contextlib.ExitStack() as stack:
        try:
            door = stack.enter_context(socket.create_server(("", port), backlog=len(cluster.addresses)))
        except OSError as error:
            raise InputError(f"port {port} of this machine, {cluster.addresses[0]}: {error.strerror}") from None

        def missing():
            return ", ".join(one for at, one in enumerate(cluster.addresses) if at and at not in here)

        while len(here) < len(cluster.addresses) - 1:
            ready, _, _ = select.select([door, *here.values()], [], [], _RETRY)
            for one in ready:
                if one is door:
                    caller = stack.enter_context(door.accept()[0])
                    caller.settimeout(_LOOK_TIMEOUT)
                    if (index := _name(caller)) in range(1, len(cluster.addresses)):
                        here[index] = caller
                else:  # it has hung up: it is gone, and may come again
                    here = {index: other for index, other in here.items() if other is not one}
            clock.tick(missing)
        for caller in here.values():
            caller.sendall(_GO)


def _name(caller):
    with contextlib.suppress(OSError, ValueError):
        return int(caller.recv(16))
    return None


def _arrive(cluster, clock):
    """Call machine 0 until it answers that all are here."""
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(_split(cluster.addresses[0]), _LOOK_TIMEOUT) as call,
        ):
            call.sendall(f"{cluster.index}\n".encode())
            while not select.select([call], [], [], _RETRY)[0]:
                clock.tick(lambda: "the machines that machine 0 waits for")
            if call.recv(len(_GO)) == _GO:
                return
        clock.tick(lambda: f"machine 0, {cluster.addresses[0]}")
        time.sleep(_RETRY)


# --- Whether the others live -----------------------------------------------------------------------------------------


class _Watch:
    """Looks whether the servers of the other machines answer, while this machine waits for them."""

    def __init__(self, addresses):
        self._misses = dict.fromkeys(addresses)  # None until it has answered once
        self._folder = None  # of the run, while this machine waits for the others
        threading.Thread(target=self._look, daemon=True).start()

    @contextlib.contextmanager
    def waiting(self, folder):
        self._folder = folder
        try:
            yield
        finally:
            self._folder = None

    def _look(self):
        while True:
            time.sleep(_LOOK)
            for address, misses in self._misses.items():
                folder = self._folder
                if folder is None:
                    continue
                try:
                    socket.create_connection(_split(address), _LOOK_TIMEOUT).close()
                    self._misses[address] = 0
                except OSError:
                    self._misses[address] = misses if misses is None else misses + 1
                if (self._misses[address] or 0) >= _MISSES and self._folder is not None:
                    os.write(2, f"stopped: {GONE.format(f'{address} does not answer; ', folder)}\n".encode())
                    os._exit(signals.EXIT_CODE)  # the main thread may hang in a driver, which nothing else ends


@contextlib.contextmanager
def together(folder):
    """Do what needs the other machines within this context; end with one line where one of them is gone.

    TensorFlow raises an error where it sums by itself. Under NCCL a GPU waits for ever; a thread then ends the process.

    Args:
        folder: of the run, for the message.

    Raises:
        signals.Stopped: another machine is gone.
    """
    if _watch is None:
        yield
        return
    try:
        with _watch.waiting(folder):
            yield
    except ERRORS:
        raise signals.Stopped(GONE.format("", folder)) from None
