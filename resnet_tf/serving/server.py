"""A web page and a REST interface like TensorFlow Serving's for one model, with FastAPI and uvicorn.

    GET  /                                    the page
    GET  /info                                what the page must know: a JSON object
    POST /classify                            pictures as multipart/form-data
    GET  /v1/models/NAME                      the state of the model
    GET  /v1/models/NAME/metadata             its signatures
    POST /v1/models/NAME:predict              images in JSON

NAME may be followed by /versions/NUMBER. Errors are {"error": "..."}.
"""

import asyncio
import base64
import concurrent.futures
import contextlib
import errno
import hashlib
import importlib.resources
import ipaddress
import logging
import re
import socket
import sys

import fastapi
import uvicorn
from fastapi import Request, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from resnet_tf import files
from resnet_tf.data import formats, images, processors
from resnet_tf.errors import InputError
from resnet_tf.serving import batching, gate, heat, rest, runtimes, servable

_log = logging.getLogger(__name__)
_SLACK = 100_000  # bytes of a request beside its images
_MOST_TOGETHER = 1000  # images of one request
_MOST_HELD = 4096  # images of all requests in flight: 600 MB of views of 224 pixels
_GRACE_SECONDS = 600  # longest wait for requests in flight when the server stops


class Service:
    """A model, its queue and its limits.

    Attributes:
        name: name of the model in URLs.
        model: a `servable.SavedModel` or `servable.Pixels`.
        images: number of images that were classified.
    """

    def __init__(self, settings, model, explainer: heat.Explainer | str):
        """Prepare the queue.

        Args:
            settings: a `config.ServeConfig`.
            model: a `servable.SavedModel` or `servable.Pixels`.
            explainer: what draws heat maps; or the reason why nothing does.
        """
        self.name, self.model, self.images = settings.model_name, model, 0
        self._explainer = explainer
        self._most_bytes, self._most_pixels = int(settings.max_megabytes * 1e6), settings.max_pixels
        most = min([settings.batch_size, *model.batch_sizes[-1:]])
        self.batcher = batching.Batcher(self._run, most, settings.batch_timeout_ms / 1000)
        self._readers = concurrent.futures.ThreadPoolExecutor(processors.count(), "reader")
        self._painter = concurrent.futures.ThreadPoolExecutor(1, "painter")
        self._alone, self._held = 0, 0

    @contextlib.asynccontextmanager
    async def working(self, _app):
        """Run the queue within this context."""
        worker = asyncio.ensure_future(self.batcher.work())
        try:
            yield
        finally:
            worker.cancel()
            self.batcher.close()

    def info(self) -> dict:
        """Return what the page must know."""
        can_explain = isinstance(self._explainer, heat.Explainer)
        return {
            "model": self.name,
            "version": self.model.version,
            "max_megabytes": self._most_bytes / 1e6,
            "suffixes": list(formats.ALL_SUFFIXES),
            "grad_cam": can_explain,
            "reason": "" if can_explain else self._explainer,
        }

    def _run(self, kind, items):
        return self.model.run(kind[0], items)

    async def _in(self, pool, function, *arguments):
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

    def _read(self, content, name):
        """Return an image as TensorFlow reads it, and the input of the model; runs in a thread."""
        if len(content) > self._most_bytes:
            raise TooLarge(f"{name}: {len(content):,} bytes; the limit is {self._most_bytes:,}")
        content = images.readable(content, name, self._most_pixels)
        images.check_header(content, name, self._most_pixels)
        return content, self.model.prepare(content, name)

    @contextlib.contextmanager
    def holding(self, count: int):
        """Hold so many images within this context.

        Raises:
            TooLarge: too many for one request.
            Busy: too many with those of other requests.
        """
        if count > _MOST_TOGETHER:
            raise TooLarge(f"{count:,} images in one request; the limit is {_MOST_TOGETHER:,}")
        if self._held + count > _MOST_HELD:
            raise Busy(f"busy: {self._held:,} images are waiting; try again")
        self._held += count
        try:
            yield
        finally:
            self._held -= count

    async def predict(self, body: bytes) -> dict:
        """Answer a request in TensorFlow Serving's JSON.

        Raises:
            InputError: see `rest.parse`; or an image is bad.
            runtimes.Refused: the model cannot use an input.
        """
        request = await self._in(self._readers, rest.parse, body, self.model.signatures)
        items, kind = request.items, (request.signature, 0)
        with self.holding(len(items)):
            if self.model.signatures[request.signature].takes_files:
                named = [(item, f"{servable.IMAGE_BYTES}[{place}]") for place, item in enumerate(items)]
                read = await self._all(self._in(self._readers, self._read, *one) for one in named)
                items = [item for _, item in read]
            else:  # arrays of one request have one shape, those of several may not
                self._alone += 1
                kind = (request.signature, self._alone)
            outputs = await self.batcher.submit(kind, items)
        self.images += len(items)
        return await self._in(self._readers, rest.response, outputs, request.in_rows)

    @staticmethod
    async def _all(calls):
        """Await all calls, then raise the first error, so that no call is left alone."""
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    async def classify(self, content: bytes, name: str, explain: bool, class_name: str) -> dict:
        """Classify one upload.

        Args:
            content: the file.
            name: its name.
            explain: whether to add a heat map.
            class_name: class to explain; "" for the likeliest.

        Returns:
            {"file", "classes": [{"class", "probability"}]}, and "grad_cam", a data URL, with "grad_cam_class".

        Raises:
            InputError: the image is bad; names it.
        """
        content, item = await self._in(self._readers, self._read, content, name)
        try:
            outputs = await self.batcher.submit((servable.DEFAULT, 0), [item])
        except runtimes.NoMemory:
            raise
        except runtimes.Refused:  # its header was good
            raise InputError(f"{name}: damaged or truncated image") from None
        self.images += 1
        names = [one.decode() for one in outputs["classes"][0]]
        scores = [round(float(score), 6) for score in outputs["scores"][0]]
        pairs = zip(names, scores, strict=True)
        answer = {"file": name, "classes": [{"class": one, "probability": score} for one, score in pairs]}
        if explain:
            explained = class_name or names[0]
            picture = await self._in(self._painter, self._explainer.picture, content, name, explained)
            url = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
            answer |= {"grad_cam": url, "grad_cam_class": explained}
        return answer

    def check_explained(self, class_name: str) -> None:
        """Refuse a heat map that cannot be drawn, with an `InputError`."""
        if not isinstance(self._explainer, heat.Explainer):
            raise InputError(f"grad_cam: {self._explainer}")
        if class_name and class_name not in self._explainer.classes:
            raise InputError(f"class_name: no class {class_name[:100]!r}")


class TooLarge(InputError):
    """More than a request may have; status 413."""


class Busy(Exception):
    """More than the server holds; status 503."""


# --- Requests and responses ------------------------------------------------------------------------------------------


def make_app(service: Service) -> fastapi.FastAPI:
    """Return the ASGI application of a service."""
    app = fastapi.FastAPI(lifespan=service.working, openapi_url=None, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_page(app, service)
    _add_rest(app, service)
    return app


def _json(content, code=200):
    return Response(files.to_json(content), code, media_type="application/json")


def _add_errors(app):
    """Answer every error with {"error": one line}."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException):
        path = request.url.path
        code = 404 if error.status_code == 405 and path.startswith("/v1/") else error.status_code
        unknown = f"Malformed request: {request.method} {path[:200]}"
        return _json({"error": unknown if error.detail in ("Not Found", "Method Not Allowed") else error.detail}, code)

    @app.exception_handler(InputError)
    @app.exception_handler(runtimes.Refused)
    async def bad(request: Request, error: Exception):
        codes = {TooLarge: 413, runtimes.NoMemory: 503}
        return _json({"error": " ".join(str(error).split())}, codes.get(type(error), 400))

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy):
        response = _json({"error": str(error)}, 503)
        response.headers["Retry-After"] = str(gate.RETRY_SECONDS)
        return response

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception):
        return _json({"error": f"internal error: {type(error).__name__}"}, 500)


def _add_page(app, service):
    """Add the page, and what it calls."""
    page = (importlib.resources.files("resnet_tf.serving") / "web" / "index.html").read_text("utf-8")
    headers = {
        "Content-Security-Policy": _policy(page),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    @app.get("/")
    async def show():
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    @app.get("/info")
    async def info():
        return _json(service.info())

    @app.post("/classify")
    async def classify(request: Request):
        explain = request.query_params.get("grad_cam", "0") not in ("", "0", "false")
        class_name = request.query_params.get("class_name", "")
        if explain:
            service.check_explained(class_name)
        async with request.form(max_files=_MOST_TOGETHER, max_part_size=_SLACK) as form:
            uploads = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
            named = [(await one.read(), _name(one.filename)) for one in uploads]
        if not named:
            raise InputError("no file: send one or more as multipart/form-data")
        with service.holding(len(named)):
            calls = [service.classify(content, name, explain, class_name) for content, name in named]
            results = await asyncio.gather(*calls, return_exceptions=True)
        codes, answers = set(), []
        for (_, name), result in zip(named, results, strict=True):
            if isinstance(result, InputError):
                codes.add(413 if isinstance(result, TooLarge) else 400)
                answers.append({"file": name, "error": " ".join(str(result).split())})
            elif isinstance(result, BaseException):
                raise result
            else:
                answers.append(result)
        if all("error" in answer for answer in answers):
            return _json({"error": answers[0]["error"], "results": answers}, min(codes))
        return _json({"results": answers})


def _name(filename):
    return " ".join((filename or "image").split())[:200] or "image"


def _policy(page):
    """Return the content security policy of the page: nothing from elsewhere, and only its own script and style."""
    hashes = {}
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes[tag] = f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _add_rest(app, service):
    """Add TensorFlow Serving's interface."""

    def check(name, version, what):
        if name != service.name:
            raise HTTPException(404, f"{what} {name[:100]}")
        if version is not None and version != str(service.model.version):
            raise HTTPException(404, f"{what} {name}, version {version[:20]}")

    for versioned in ("", "/versions/{version}"):
        path = f"/v1/models/{{name}}{versioned}"

        @app.get(path)
        async def status(name: str, version: str | None = None):
            check(name, version, "Could not find any versions of model")
            return _json(rest.status(service.model.version))

        @app.get(f"{path}/metadata")
        async def metadata(name: str, version: str | None = None):
            check(name, version, "Could not find any versions of model")
            return _json(rest.metadata(name, service.model.version, service.model.signatures))

        @app.post(f"{path}:predict")
        async def predict(request: Request, name: str, version: str | None = None):
            check(name, version, "Servable not found for request: model")
            return _json(await service.predict(await request.body()))


# --- The process -----------------------------------------------------------------------------------------------------


def bind(host: str, port: int) -> tuple[socket.socket, str]:
    """Take a port, without listening yet.

    Returns:
        The socket; the address of the server, such as "http://127.0.0.1:8501".

    Raises:
        InputError: the port is in use or not allowed, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(f"--host={host}: {error.strerror}") from None
    # asyncio sends without delay (TCP_NODELAY) only if the protocol is named; a client that keeps its connection open
    # would otherwise wait 40 ms for the second packet of each answer.
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        flag = f"--port={port}" if error.errno in (errno.EADDRINUSE, errno.EACCES) else f"--host={host}"
        raise InputError(f"{flag}: {error.strerror}") from None
    named, taken = bound.getsockname()[:2]
    if not ipaddress.ip_address(named.split("%")[0]).is_loopback:
        print(f"warning: --host={host}: anyone who reaches port {taken} can use the model", file=sys.stderr, flush=True)
    return bound, f"http://[{named}]:{taken}" if ":" in named else f"http://{named}:{taken}"


class Server(uvicorn.Server):
    """A uvicorn server that says when it is ready."""

    def __init__(self, service: Service, bound: socket.socket, address: str, most_waiting: int):
        """Prepare; `serve_until_stopped` runs it.

        Args:
            service: a `Service`.
            bound: the socket that `bind` returned.
            address: the address that it returned.
            most_waiting: requests that are answered at a time.
        """
        body = service.info()["max_megabytes"] * 1e6 * 4 / 3 + _SLACK  # of an image in base64
        self._gate = gate.Gate(make_app(service), int(body), most_waiting)
        self._bound, self._address = bound, address
        super().__init__(uvicorn.Config(
            self._gate, lifespan="on", ws="none", log_config=None, log_level="warning", access_log=False,
            server_header=False, timeout_graceful_shutdown=_GRACE_SECONDS,
        ))  # fmt: skip

    async def startup(self, sockets=None):
        """Begin to listen, and say so."""
        await super().startup(sockets)
        print(f"ready at {self._address}", file=sys.stderr, flush=True)

    async def shutdown(self, sockets=None):
        """Stop listening, and answer the requests that have arrived."""
        self._gate.stopping.set()
        await super().shutdown(sockets)

    def serve_until_stopped(self) -> None:
        """Serve until SIGINT, SIGTERM or `should_exit`; then answer what has arrived and return.

        Raises:
            InputError: another process listens on the port by now.
        """
        try:
            self.run(sockets=[self._bound])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise InputError(f"--port: {self._address} is in use by another process") from None
