"""The HTTP interface: POST /translate, GET /health, and the page. Whatever comes in, an answer in words goes out."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pytorch_dl.serving.batcher import Batcher, ClosedError, QueueFullError
from pytorch_dl.serving.wish import Limits, Refused, Settings, parse

Answer = dict[str, Any]
LOG = logging.getLogger("pytorch_dl.serving")
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
GONE = Response(status_code=499)  # that nobody reads


def make_app(batcher: Batcher[Settings, Answer], *, served: dict[str, str], limits: Limits) -> ASGIApp:
    """The application; it closes the batcher at its end. `served` is what /health tells of the model."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(HTTPException, _of_http)
    for path, (file, kind) in PAGE.items():
        app.add_route(path, _page(file, kind), methods=["GET"])

    @app.get("/health")
    async def health() -> dict[str, object]:
        return {"status": "ok", **served, "waiting": batcher.waiting, "limits": asdict(limits)}

    @app.post("/translate")
    async def translate(request: Request) -> Response:
        try:
            wish = parse(await _body(request, limits), limits)
            future = _submit(batcher, wish.texts, wish.settings)
            found = await _result(request, future, limits.seconds)
        except Refused as refused:
            return _json({"error": refused.message}, refused.status, refused.headers)
        except ClientDisconnect:
            return GONE
        except Exception:
            LOG.exception("a request failed")
            return _json({"error": "the server failed at this request, and wrote down why"}, 500)
        return _json({"translations": found})

    return WithHeaders(app)


class WithHeaders:
    """Each answer carries the security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self.app(scope, receive, send_more)


def _submit(batcher: Batcher[Settings, Answer], texts: list[str], settings: Settings) -> "Future[list[Answer]]":
    try:
        return batcher.submit(texts, settings)
    except QueueFullError:
        raise Refused(503, "too much is waiting; try again soon", headers={"retry-after": "2"}) from None
    except ClosedError:
        raise _ending() from None


def _ending() -> Refused:
    return Refused(503, "the server is ending", headers={"retry-after": "10"})


async def _body(request: Request, limits: Limits) -> bytes:
    """The body, of which no more than is allowed is ever held."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page of another origin may send any other kind without asking
        raise Refused(415, "send the header Content-Type: application/json")
    too_large = Refused(413, f"the body is larger than {limits.body_bytes:,} bytes")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limits.body_bytes:
        raise too_large
    held = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                held += part
                if len(held) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise Refused(408, f"the body did not come within {limits.body_seconds:g} s") from None
    return bytes(held)


async def _result(request: Request, future: "Future[list[Answer]]", seconds: float) -> list[Answer]:
    """What the future brings, as long as the client stays and the time is not over; else it is cancelled."""
    waited: asyncio.Future[list[Answer]] = asyncio.wrap_future(future)
    gone: asyncio.Future[None] = asyncio.ensure_future(_disconnected(request))
    try:
        either: set[asyncio.Future[Any]] = {waited, gone}
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if waited.done():
            return waited.result()
        if gone.done():
            raise ClientDisconnect
        raise Refused(504, f"no translation within {seconds:g} s; send less at a time")
    except ClosedError:
        raise _ending() from None
    finally:
        gone.cancel()
        waited.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _of_http(_: Request, error: Exception) -> Response:
    """404 and 405, in the form of all errors."""
    assert isinstance(error, HTTPException)
    return _json({"error": f"{error.detail}: there are GET /, GET /health and POST /translate"}, error.status_code)


def _page(file: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = files("pytorch_dl.serving").joinpath(file).read_bytes()

    async def page(_: Request) -> Response:
        return Response(content, media_type=kind)

    return page


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode(), status, headers, "application/json")
