"""The embedded broker with real servers and real kills; the answer of redis-py and kombu is the reference."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kombu
import psutil
import pytest
import redis

from service import broker as broker_module
from service.broker import BrokerError, EmbeddedBroker, find_binary

pytestmark = pytest.mark.skipif(find_binary() is None, reason="no Valkey or Redis server here")

OWNER = """
    import sys, time
    from pathlib import Path
    from service.broker import EmbeddedBroker
    broker = EmbeddedBroker(Path(sys.argv[1]))
    broker.start()
    print(broker.pid, flush=True)
    time.sleep(600)
"""


def connect(broker: EmbeddedBroker) -> redis.Redis:
    path = broker.url.removeprefix("redis+socket://").removesuffix("?virtual_host=0")
    return redis.Redis(unix_socket_path=path.replace("%20", " "))


def until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def other_owner(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A second process that owns the broker of tmp_path, and the broker's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("name", ["data", "with space ü", "deep/" * 30])
def test_a_message_survives_a_restart_and_celery_can_read_the_url(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    with EmbeddedBroker(folder) as broker, kombu.Connection(broker.url) as connection:
        queue = connection.SimpleQueue("jobs")
        queue.put({"job_id": "dj_1"})
        queue.close()
        pid = broker.pid
    assert pid is not None
    assert not psutil.pid_exists(pid)

    with EmbeddedBroker(folder) as broker, kombu.Connection(broker.url) as connection:
        queue = connection.SimpleQueue("jobs")
        message = queue.get(timeout=5)
        message.ack()
        queue.close()
        assert message.payload == {"job_id": "dj_1"}


def test_only_this_user_can_reach_it_and_it_refuses_rather_than_forgets(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker, connect(broker) as client:
        config = client.config_get("*")
        socket = Path(config["unixsocket"])
        assert config["port"] == "0"
        assert config["appendonly"] == "yes"
        assert config["maxmemory-policy"] == "noeviction"
        assert int(config["maxmemory"]) == 256 * 2**20
        assert len(os.fsencode(socket)) < 104
        assert socket.stat().st_mode & 0o077 == 0
        assert socket.parent.stat().st_mode & 0o077 == 0
        assert (tmp_path / "broker" / "broker.conf").stat().st_mode & 0o777 == 0o600


def test_ensure_brings_a_killed_and_a_frozen_server_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_PING_SECONDS", 0.5)
    with EmbeddedBroker(tmp_path) as broker:
        assert broker.ensure() is False
        for signum in (signal.SIGKILL, signal.SIGSTOP):
            assert broker.pid is not None
            os.kill(broker.pid, signum)
            if signum == signal.SIGKILL:
                until(lambda: psutil.Process(broker.pid).status() == psutil.STATUS_ZOMBIE)
            assert broker.ensure() is True
            with connect(broker) as client:
                assert client.ping()


def test_a_second_process_adopts_and_leaves_it_running(
    tmp_path: Path, other_owner: tuple[subprocess.Popen[str], int]
) -> None:
    with EmbeddedBroker(tmp_path) as broker, connect(broker) as client:
        assert not broker.owned
        assert broker.pid is None
        assert client.info("server")["process_id"] == other_owner[1]
    assert psutil.Process(other_owner[1]).is_running()


def test_the_adopter_takes_over_when_the_owner_is_killed(
    tmp_path: Path, other_owner: tuple[subprocess.Popen[str], int]
) -> None:
    owner, server = other_owner
    with EmbeddedBroker(tmp_path) as broker:
        owner.kill()
        owner.wait()
        if sys.platform.startswith("linux"):
            until(lambda: not psutil.pid_exists(server))
        else:
            os.kill(server, signal.SIGKILL)
        assert broker.ensure() is True
        assert broker.owned
        with connect(broker) as client:
            assert client.ping()


def test_a_server_without_an_owner_is_replaced_with_its_queue(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker, connect(broker) as client:
        client.set("kept", "1")
    binary = find_binary()
    assert binary is not None
    orphan = subprocess.Popen([binary, tmp_path / "broker" / "broker.conf"], stdout=subprocess.DEVNULL)
    try:
        until(lambda: broker_module.ping(tmp_path / "broker" / "broker.sock"))
        with EmbeddedBroker(tmp_path) as broker, connect(broker) as client:
            assert broker.owned
            assert broker.pid != orphan.pid
            assert client.get("kept") == b"1"
        assert orphan.wait(5) == 0
    finally:
        orphan.kill()
        orphan.wait()


def test_a_stale_socket_and_lock_file_do_not_matter(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker:
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
    assert (tmp_path / "broker.lock").exists()
    assert (tmp_path / "broker" / "broker.sock").exists()
    with EmbeddedBroker(tmp_path) as broker, connect(broker) as client:
        assert client.ping()


def test_an_unreadable_queue_file_is_set_aside(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker, connect(broker) as client:
        client.set("lost", "1")
    (tmp_path / "broker" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with EmbeddedBroker(tmp_path) as broker, connect(broker) as client:
        assert client.get("lost") is None
    assert (tmp_path / "broker" / "appendonlydir.unreadable").exists()


def test_the_server_dies_with_its_owner(other_owner: tuple[subprocess.Popen[str], int]) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs the kernel's parent-death signal")
    owner, server = other_owner
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    until(lambda: not psutil.pid_exists(server))


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "broker" / "broker.sock").mkdir(parents=True)
    with pytest.raises((BrokerError, OSError)):
        EmbeddedBroker(tmp_path).start()
    shutil.rmtree(tmp_path / "broker" / "broker.sock")
    with EmbeddedBroker(tmp_path) as broker:
        assert broker.ensure() is False


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # kombu's own tables
def test_without_any_server_messages_go_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "find_binary", lambda: None)
    with EmbeddedBroker(tmp_path) as broker:
        assert broker.url == f"sqla+sqlite:///{tmp_path / 'broker.db'}"
        assert broker.ensure() is False
        with kombu.Connection(broker.url) as connection:
            queue = connection.SimpleQueue("jobs")
            queue.put({"job_id": "dj_2"})
            assert queue.get(timeout=5).payload == {"job_id": "dj_2"}
            queue.close()
            connection.default_channel.session.close()
    assert (tmp_path / "broker.db").exists()
