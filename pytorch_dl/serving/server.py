"""The process that serves: its socket, its signals, and connections that never say anything."""

import asyncio
import contextlib
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pytorch_dl import __version__
from pytorch_dl.errors import ConfigError, ResourceError
from pytorch_dl.serving.answers import Answers
from pytorch_dl.serving.app import make_app
from pytorch_dl.serving.batcher import Batcher
from pytorch_dl.serving.wish import Limits
from pytorch_dl.translator import load

SILENCE = 15.0  # seconds for the head of a request
CONNECTIONS = 500


def serve_run(run: Path, limits: Limits, *, host: str, port: int, device: str, precision: str) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    with _listening(host, port) as listening:  # before the model is loaded: a port in use shows at once
        translator = load(run, device=device, precision=precision)
        served = {
            "model": run.resolve().name,
            "version": __version__,
            "device": next(translator.model.parameters()).device.type,
            "precision": precision,
        }
        app = make_app(Batcher(Answers(translator), most=limits.waiting_lines), served=served, limits=limits)
        config = uvicorn.Config(
            app,
            http=ImpatientProtocol,
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has shut down, and gives the signal on
            Server(config, run).run(sockets=[listening])


class Server(uvicorn.Server):
    """Says where it is when it is there."""

    def __init__(self, config: uvicorn.Config, run: Path) -> None:
        super().__init__(config)
        self.served = run

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening."""
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        print(f"{self.served}: http://{address}:{port} (Ctrl-C ends it)", file=sys.stderr, flush=True)


class ImpatientProtocol(H11Protocol):
    """Closes a connection that does not get to the end of a request's head."""

    _silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Wait on."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._silence is None:
            self._silence = self.loop.call_later(SILENCE, self._end)

    def _end(self) -> None:
        self._silence = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()

    def _forget(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"--host {host}: no such address", fix="give one of this machine, as 127.0.0.1") from None
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise ResourceError(
            f"cannot listen at {host}:{port}: {error.strerror}", fix="give another --port, or another --host"
        ) from None
    return listening
