"""The tf.data service: other machines decode images."""

import signal
import socket
import sys
import threading

import tensorflow as tf

from resnet_tf.errors import InputError

_SECONDS = 5.0  # timeout of a connection


def serve(settings):
    """Run a dispatcher and a worker until SIGTERM or SIGINT.

    Args:
        settings: a `config.DataServerConfig`.

    Returns:
        {"address": host:port for the flag --data_service of a training}.

    Raises:
        InputError: the port is in use.
    """
    service = tf.data.experimental.service
    try:
        dispatcher = service.DispatchServer(service.DispatcherConfig(port=settings.port))
        worker = service.WorkerServer(
            service.WorkerConfig(
                dispatcher_address=f"localhost:{settings.port}",
                worker_address=f"{settings.host}:{settings.port + 1}",
                port=settings.port + 1,
            )
        )
    except tf.errors.OpError as error:
        raise InputError(f"--port={settings.port}: cannot listen on it and the next ({error.message})") from None
    address = f"{settings.host}:{settings.port}"
    print(f"serves at {address}", file=sys.stderr, flush=True)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(0.5):  # short waits, so that signals are handled
        pass
    del worker, dispatcher
    return {"address": address}


def check(servers) -> None:
    """Check that a server answers at each address; TensorFlow would wait forever.

    Raises:
        InputError: no server answers; names the address.
    """
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=_SECONDS).close()
        except (OSError, ValueError) as error:
            raise InputError(f"--data_service={server}: no data server answers there ({error})") from None
