"""`limbeck serve`: the whole service on one machine with one command, and nothing left of it afterwards."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import typer
import uvicorn

from limbeck.children import Supervisor
from limbeck.errors import CommandError
from limbeck.instance import announce, only_instance
from service import database, logs
from service.broker import BrokerError
from service.settings import settings

_STREAM_GRACE = 2  # seconds that open event streams may go on after Ctrl-C
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(*, host: str | None = None, port: int | None = None, data_dir: Path | None = None) -> None:
    """Run API, worker and, unless another is configured, the broker, until told to stop.

    Args:
        host: a loopback address. port: 0 takes a free one. What is None comes from the settings.

    Raises:
        CommandError: another address (2), a taken port (2), a folder in use (3), or the API does not start (1).
    """
    chosen = settings()
    host, port = host or chosen.host, chosen.port if port is None else port
    folder = (data_dir or chosen.data_dir).expanduser().resolve()
    _refuse_strangers(host)
    with _Signals() as signals, only_instance(folder), _bind(host, port) as listener:
        url = _url(listener)
        _export(data_dir=folder, host=host, port=listener.getsockname()[1])
        logs.configure()
        database.migrate()
        embedded = not settings().broker_url
        supervisor = Supervisor(
            data_dir=folder if embedded else None,
            grace=settings().stop_grace_seconds + 5.0,
            on_broker=lambda broker_url: _export(broker_url=broker_url),
        )
        try:
            supervisor.begin()
            _serve_api(listener, signals, supervisor, on_ready=lambda: _say_ready(folder, url))
        except BrokerError as error:
            raise CommandError(str(error), exit_code=1) from error
        finally:
            signals.closing(supervisor.hurry)
            supervisor.finish()


def _serve_api(
    listener: socket.socket, signals: _Signals, supervisor: Supervisor, *, on_ready: Callable[[], None]
) -> None:
    from api.app import create_app  # not above: it reads the settings that were exported meanwhile

    config = uvicorn.Config(create_app(), log_config=None, access_log=False, timeout_graceful_shutdown=_STREAM_GRACE)
    server = _Server(config, on_ready=on_ready, on_shutdown=supervisor.stop_worker)
    signals.running(server)
    try:
        server.run(sockets=[listener])
    except SystemExit as error:
        raise CommandError("the API did not start; the lines above say why", exit_code=1) from error


class _Server(uvicorn.Server):
    """Uvicorn that says when it answers, and when it begins to stop."""

    def __init__(
        self, config: uvicorn.Config, *, on_ready: Callable[[], None], on_shutdown: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_shutdown = on_shutdown

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_shutdown()  # the worker writes its checkpoint while the streams end
        await super().shutdown(sockets)


class _Signals:
    """What a signal means: leave, while starting; stop, while serving; hurry up, while stopping."""

    def __init__(self) -> None:
        self._server: uvicorn.Server | None = None
        self._hurry: Callable[[], None] | None = None

    def __enter__(self) -> _Signals:
        self._before = {signum: signal.signal(signum, self._handle) for signum in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def running(self, server: uvicorn.Server) -> None:
        self._server = server

    def closing(self, hurry: Callable[[], None]) -> None:
        self._hurry = hurry

    def _handle(self, _signum: int, _frame: FrameType | None) -> None:
        if self._hurry:
            self._hurry()
        elif self._server:
            self._server.should_exit = True  # also reached by what uvicorn raises again at its end
        else:
            raise SystemExit(0)


def _refuse_strangers(host: str) -> None:
    try:
        inside = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise CommandError(
            f"refusing to listen on {host}: this version has no keys, so anyone who reaches the port could use "
            "the service; only loopback addresses such as 127.0.0.1 are served"
        )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)  # or two services could both bind, and the second would fail late
    except OSError as error:
        listener.close()
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise CommandError(f"port {port} on {host} {why}; choose another with --port or LIMBECK_PORT") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _export(**values: object) -> None:
    """Set what children and the API read: the environment, and through it the settings."""
    for name, value in values.items():
        os.environ[f"LIMBECK_{name.upper()}"] = str(value)
    settings.cache_clear()


def _say_ready(folder: Path, url: str) -> None:
    announce(folder, url)
    typer.echo(f"Limbeck is ready: {url} (open to everyone on this machine, without keys). Ctrl-C stops it.")
    typer.echo(f"Its data are in {folder}.")
