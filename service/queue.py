"""The one Celery app, the bell, and the relay that rings it. Messages hold a job id and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.signals import worker_shutting_down
from sqlalchemy import delete, select

from models import OutboxMessage
from service import database
from service.settings import settings

RUN_JOB = "limbeck.run_job"
QUEUE = "limbeck"
_SOCKET_SECONDS = 5.0

celery = Celery("limbeck", set_as_current=False)


def configure() -> Celery:
    """Bind the app to the configured broker. Every setting below answers a measured fault: reliability.md, 1."""
    url = settings().broker_url
    celery.conf.update(
        broker_url=url,
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=QUEUE,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(url),
    )
    return celery


def _transport_options(url: str) -> dict[str, Any]:
    if url.startswith(("redis", "valkey", "unix")):
        return {"socket_timeout": _SOCKET_SECONDS, "socket_connect_timeout": _SOCKET_SECONDS}
    return {}


def relay(*, limit: int = 100) -> int:
    """Send what waits in the outbox, oldest first; how many messages went.

    A crash between sending and deleting sends twice, which is harmless: a claim succeeds once.

    Raises:
        OSError or kombu's OperationalError: the broker does not take messages now; they stay.
    """
    with database.read() as session:
        waiting = session.scalars(select(OutboxMessage).order_by(OutboxMessage.id).limit(limit)).all()
    sent: list[int] = []
    try:
        for message in waiting:
            celery.send_task(RUN_JOB, args=[message.job_id], retry=False)
            sent.append(message.id)
    finally:
        if sent:
            with database.begin() as session:
                session.execute(delete(OutboxMessage).where(OutboxMessage.id.in_(sent)))
    return len(sent)


def stop_listening(worker: str) -> None:
    """Tell a worker of this broker to take no more messages."""
    celery.control.cancel_consumer(QUEUE, destination=[node(worker)])


def node(worker: str) -> str:
    """What Celery calls a worker."""
    return f"{worker}@limbeck"


def ping() -> None:
    """Raise when the broker does not answer."""
    if not settings().broker_url:
        raise ConnectionError("no broker is configured; `limbeck serve` starts the embedded one")
    with configure().connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=_SOCKET_SECONDS)


def on_shutdown(action: Callable[[], None]) -> None:
    """Call back when the worker is asked to stop."""

    def received(**_: Any) -> None:
        action()

    worker_shutting_down.connect(received, weak=False)
