"""Load test of the server of `serve`: requests by REST from a few or many clients at once."""

import base64
import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Sequence

import numpy as np

from resnet_tf.bench import inputs
from resnet_tf.config import BenchmarkConfig
from resnet_tf.errors import InputError

_PATH = "/v1/models/model:predict"
_IMAGES = 64  # images that requests go round
_PATIENCE = 300.0  # seconds for the server to load the model and to run it once


def benchmark_serving(config: BenchmarkConfig) -> dict:
    """Start `serve` in a process of its own and measure it under clients that send one image at a time.

    A client sends its next request when the last one is answered, on a connection that stays open. Each number of
    clients is measured once, for --steps requests of each client, after two of each that are not counted. Clients are
    threads of this process on the same machine, and share its cores with the server.

    Args:
        config: a `config.BenchmarkConfig`.

    Returns:
        {"benchmark", "model", "unit": "requests/s", "rows": [{"clients", "requests", "refused", "requests_per_second",
        "p50_ms", "p95_ms", "p99_ms"}]}. Times are of answered requests; "refused" counts those with status 503.

    Raises:
        InputError: there is no model or there are no images, `serve` does not start, or it does not answer an image.
    """
    settings = config.benchmark
    if not settings.model_dir:
        raise InputError("--model_dir is not set: the exported model to serve")
    if not settings.clients or min(settings.clients) < 1:
        raise InputError(f"--clients={','.join(map(str, settings.clients))}: no positive numbers")
    images = inputs.read_images(settings.data_dir)[:_IMAGES]
    bodies = [json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode() for image in images]
    columns = ("clients", "requests", "refused", "requests_per_second", "p50_ms", "p95_ms", "p99_ms")
    rows = []
    with _served(settings.model_dir) as address:
        print("  ".join(columns), file=sys.stderr, flush=True)
        for clients in settings.clients:
            _measure(address, bodies, clients, 2)
            seconds, answered, refused = _measure(address, bodies, clients, settings.steps)
            percentiles = np.percentile(1000 * np.array(answered), (50, 95, 99)) if answered else [float("nan")] * 3
            speed = round(len(answered) / seconds, 2)
            values = (clients, len(answered), refused, speed, *percentiles.round(3).tolist())
            rows.append(dict(zip(columns, values, strict=True)))
            cells = (f"{value:>{len(name)}}" for name, value in rows[-1].items())
            print("  ".join(cells), file=sys.stderr, flush=True)
    return {"benchmark": "serving", "model": settings.model_dir, "unit": "requests/s", "rows": rows}


@contextlib.contextmanager
def _served(model: str) -> Iterator[str]:
    """Start `serve` and yield its address; end it afterwards."""
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-m", "resnet_tf.serve", f"--model={model}", "--port=0", "--max_waiting=4096"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=dict(os.environ), start_new_session=True
        )
        try:
            yield _address(process, errors)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process, errors):
    """Return the address that the server prints when it is ready."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        text = os.pread(errors.fileno(), 1_000_000, 0).decode(errors="replace")
        if found := re.search(r"^ready at (\S+)$", text, re.MULTILINE):
            return found[1]
        if ended:
            reason = re.findall(r"^error: (.*)$", text, re.MULTILINE) or text.split("\n")[-2:]
            raise InputError(f"serve did not start: {reason[-1]}")
        time.sleep(0.05)
    raise InputError(f"serve was not ready after {_PATIENCE:g} s")


def _measure(address: str, bodies: Sequence[bytes], clients: int, requests: int) -> tuple[float, list[float], int]:
    """Return the seconds of all requests, those of each answered one, and the number of refused ones."""
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        results = list(pool.map(lambda client: _client(address, bodies, client, requests), range(clients)))
        seconds = time.perf_counter() - started
    return seconds, [one for answered, _ in results for one in answered], sum(refused for _, refused in results)


def _client(address, bodies, first, requests):
    """Send requests one after the other, from an image of its own on."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=_PATIENCE)
    answered, refused = [], 0
    try:
        for body in itertools.islice(itertools.cycle(bodies), first, first + requests):
            started = time.perf_counter()
            connection.request("POST", _PATH, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            if response.status == 200:
                answered.append(time.perf_counter() - started)
            elif response.status == 503:
                refused += 1
            else:
                raise InputError(f"serve: status {response.status}: {content[:300].decode(errors='replace')}")
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"serve: a request was not answered ({error!r})") from None
    finally:
        connection.close()
    return answered, refused
