"""Admit the requests that a server can hold: bounded in size, in time and in number."""

import asyncio

from resnet_tf import files

_BODY_SECONDS = 60.0  # longest time for a request to arrive
_LAST_SECONDS = 0.3  # longest wait for the next part of a body once the server stops
_MOST_BYTES = 512_000_000  # of all bodies that are held at a time
RETRY_SECONDS = 1  # what a client is asked to wait
_DRAINED = 40  # times the limit of a body that is read and dropped, so that a client who sends it hears why


class _Turned(Exception):
    """A request that is not admitted: its status and the reason."""

    def __init__(self, code, reason):
        super().__init__(reason)
        self.code, self.reason = code, reason


class Gate:
    """An ASGI application in front of another, which reads the whole body of a request before it passes it on.

    Attributes:
        limit: most bytes of a body.
        stopping: an `asyncio.Event`; once it is set, bodies that are still arriving are given up.
    """

    def __init__(self, app, limit: int, most_waiting: int):
        """Guard an application.

        Args:
            app: an ASGI application.
            limit: most bytes of a body.
            most_waiting: most requests with a body that are answered at a time.
        """
        self.limit, self.stopping = limit, asyncio.Event()
        self._app, self._most_waiting = app, most_waiting
        self._waiting, self._held = 0, 0  # requests, bytes

    async def __call__(self, scope, receive, send):
        """Pass a request on, or answer it with 408, 413 or 503."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self._app(scope, receive, send)
        parts = []
        try:
            await asyncio.wait_for(self._read(scope, receive, parts), _BODY_SECONDS)
            if self._waiting >= self._most_waiting:
                raise _Turned(503, f"busy: {self._waiting} requests are waiting; try again")
        except TimeoutError:
            return await self._turn_away(send, parts, 408, f"the request did not arrive in {_BODY_SECONDS:g} s")
        except _Turned as turned:
            return await self._turn_away(send, parts, turned.code, turned.reason)
        except BaseException:
            self._release(parts)
            raise
        body, handed = b"".join(parts), False

        async def replay():
            nonlocal handed
            if handed:
                return await receive()
            handed = True
            return {"type": "http.request", "body": body, "more_body": False}

        self._waiting += 1
        try:
            await self._app(scope, replay, send)
        finally:
            self._waiting -= 1
            self._release(parts)

    async def _read(self, scope, receive, parts):
        """Read the body into `parts`."""
        declared = dict(scope["headers"]).get(b"content-length", b"")
        size = int(declared) if declared.isdigit() else 0
        reason = f"larger than {self.limit:,} bytes; send fewer or smaller images at a time"
        is_large = size > self.limit
        if size > _DRAINED * self.limit:
            raise _Turned(413, reason)
        seen = 0
        while True:
            message = await self._next(receive)
            if message["type"] == "http.disconnect":
                raise _Turned(400, "the client has left")
            part = message.get("body", b"")
            seen += len(part)
            is_large = is_large or seen > self.limit
            if seen > _DRAINED * self.limit:
                raise _Turned(413, reason)
            if not is_large:
                parts.append(part)
                self._held += len(part)
                if self._held > max(_MOST_BYTES, self.limit):
                    raise _Turned(503, "busy: no memory for this request; try again")
            if not message.get("more_body"):
                break
        if is_large:
            raise _Turned(413, reason)

    async def _next(self, receive):
        """Return the next part of a body, unless the server stops."""
        arriving, stopping = (asyncio.ensure_future(one) for one in (receive(), self.stopping.wait()))
        try:
            await asyncio.wait({arriving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not arriving.done():
                await asyncio.wait({arriving}, timeout=_LAST_SECONDS)
            if not arriving.done():
                raise _Turned(503, "the server stops")
            return arriving.result()
        finally:
            arriving.cancel()
            stopping.cancel()

    async def _turn_away(self, send, parts, code, reason):
        self._release(parts)
        content = files.to_json({"error": reason}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        headers += [(b"connection", b"close")]
        headers += [(b"retry-after", str(RETRY_SECONDS).encode())] if code == 503 else []
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _release(self, parts):
        self._held -= sum(map(len, parts))
        parts.clear()
