"""One attempt at a job: start the trainer, keep the lease, record what it says, and end it whatever happens."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill import events
from distill.errors import DistillError, InputError
from models import TERMINAL, JobStatus
from service import jobs, results, teacher_files
from service.artifacts import store
from service.errors import Fenced
from service.jobs import Claim
from service.logs import logger
from service.settings import settings
from worker.children import Child, bare_environment
from worker.trainer_process import EXIT_STOPPED
from worker.watchdog import Watchdog

log = logger(__name__)

_POLL_SECONDS = 0.2
_WISH_POLL_SECONDS = 1.0
_WISH_GRACE_SECONDS = 8.0
_DUMP_SECONDS = 1.0
_BATCH = 200
_START = "/student/init"


class Supervisor:
    """See the module.

    Args:
        claim: the hold on the job.
        stopping: set when the worker shuts down.
    """

    def __init__(self, claim: Claim, *, stopping: threading.Event) -> None:
        self.claim = claim
        self.stopping = stopping
        self.folder = settings().work_dir / claim.job_id
        # A folder for each attempt: the trainer of a frozen worker may still write into its own.
        self.workdir = self.folder / f"attempt-{claim.fence:06d}"
        self.workdir.mkdir(parents=True, exist_ok=True)
        self._inherit()
        self.wished = False
        """Whether the job's user wants it paused or cancelled."""
        self.overdue = False
        self.failure: dict[str, Any] | None = None
        self.finished = False
        self.stalled = False
        self.lost: dict[str, OSError] = {}
        """Artifacts of which the newest could not be stored, by name."""
        now = time.monotonic()
        self.watchdog = Watchdog(least=settings().stall_seconds, now=now)
        self.deadline = now + claim.seconds_left
        self.renewed = self.asked = now
        self.kill_at: float | None = None

    def run(self) -> None:
        """Supervise to the attempt's end, and record which it was."""
        try:
            order = self._order()
        except OSError as error:
            jobs.fail(self.claim.job_id, fence=self.claim.fence, error=_storage_error(error))
            return
        if self.claim.start_is_pickled:
            converted = self._converted(order["start_path"])
            if converted is None:
                return
            order["start_path"] = converted
        child = Child("worker.trainer_process", order=order, cwd=self.workdir)
        log.info("trainer started", job=self.claim.job_id, attempt=self.claim.attempt, pid=child.pid)
        if self._attend(child, self._watch):
            code = child.wait()
            crash = _stall(self.watchdog.limit) if self.stalled else _crash(code)
            self._conclude(code, child.log_excerpt(), stopped=code == EXIT_STOPPED, crash=crash)

    def _attend(self, child: Child, watch: Callable[[Child], None]) -> bool:
        """Watch a child to its end; False when the job was given to another attempt meanwhile."""
        self.kill_at = None
        try:
            watch(child)
        except Fenced:
            child.kill()
            child.wait()
            log.warning("fenced: the job is another attempt's", job=self.claim.job_id, fence=self.claim.fence)
            return False
        except BaseException:
            child.kill()
            child.wait()
            raise
        return True

    def _converted(self, source: str) -> str | None:
        """What the student starts from, a pickle, as safetensors; None when the attempt has ended with that."""
        home = self.workdir / "start"
        home.mkdir(exist_ok=True)
        target = str((home / "start.safetensors").resolve())
        answers: list[dict[str, Any]] = []
        try:
            teacher_files.check_allowed()
        except InputError as error:
            self.failure = {**error.as_json(), "param": _START}
            self._conclude(0, [], stopped=False, crash=error)
            return None
        order = {"kind": "start", "pickled": True, "source": source, "target": target}
        order |= {"memory_bytes": settings().ingest_memory_bytes}
        child = Child("worker.ingest_process", order=order, cwd=home, env=bare_environment(home))
        if not self._attend(child, lambda reader: self._hear(reader, answers)):
            return None
        code = child.wait()
        if answers and "error" in answers[-1]:
            self.failure = {**answers[-1]["error"], "param": _START}
        elif answers and not (self.wished or self.overdue or self.stopping.is_set()):
            return target
        self._conclude(code, child.log_excerpt(), stopped=True, crash=_unreadable(code))
        return None

    def _hear(self, child: Child, answers: list[dict[str, Any]]) -> None:
        """Take down what a child answers, and keep the lease."""
        while True:
            with contextlib.suppress(queue.Empty):
                answer = child.messages.get(timeout=_POLL_SECONDS)
                if answer is None:
                    return
                answers.append(answer)
            self._keep_lease()
            self._mind(child)

    def _inherit(self) -> None:
        """Take over the checkpoints of the attempt before; those that do not arrive whole fail their hash."""
        earlier = sorted(folder for folder in self.folder.glob("attempt-*") if folder != self.workdir)
        if not earlier:
            return
        try:
            shutil.copytree(earlier[-1] / "checkpoints", self.workdir / "checkpoints", dirs_exist_ok=True)
        except OSError as error:  # none yet, or one was pruned while it was copied
            log.warning("checkpoints not inherited in full", job=self.claim.job_id, error=str(error)[:200])
        for folder in earlier[:-1]:
            shutil.rmtree(folder, ignore_errors=True)

    def _finish(self) -> None:
        """Read everything back from the store; only then is the job done."""
        try:
            for error in self.lost.values():
                raise error
            results.verify(self.claim.job_id)
        except OSError as error:
            jobs.fail(self.claim.job_id, fence=self.claim.fence, error=_storage_error(error))
        else:
            jobs.finish(self.claim.job_id, fence=self.claim.fence)

    def _order(self) -> dict[str, Any]:
        claim = self.claim
        assert claim.teacher.key is not None
        assert claim.dataset.key is not None
        return {
            "spec": claim.spec.model_dump(mode="json"),
            "teacher": {
                "path": str(store().local_path(claim.teacher.key).resolve()),
                "architecture": claim.teacher.architecture,
                "options": claim.teacher.options,
                "classes": claim.teacher.classes,
                "preprocessing": claim.teacher.preprocessing,
                "num_classes": claim.teacher.num_classes,
                "in_channels": claim.teacher.in_channels,
            },
            "dataset_path": str(store().local_path(claim.dataset.key).resolve()),
            "start_path": str(store().local_path(claim.start_key).resolve()) if claim.start_key is not None else None,
            "workdir": str(self.workdir.resolve()),
            "device": settings().device if claim.spec.training.device == "auto" else claim.spec.training.device,
            "recorded_step": claim.recorded_step,
            "threads": settings().trainer_threads or _threads(),
        }

    def _watch(self, child: Child) -> None:
        while True:
            batch, ended = _take(child.messages)
            self.watchdog.look(batch, now=time.monotonic())
            self._take_in(batch)
            self._keep_lease()
            self._mind(child)
            if ended:
                return
            if self.watchdog.is_over:
                self._end_stalled(child)
                return

    def _end_stalled(self, child: Child) -> None:
        """End a trainer that does nothing, once it has told what it is at."""
        self.stalled = True
        child.dump()
        time.sleep(_DUMP_SECONDS)
        log.warning("trainer stalled", job=self.claim.job_id, attempt=self.claim.attempt, at=child.log_excerpt())
        child.kill()

    def _take_in(self, batch: list[events.Event]) -> None:
        """Record events in their order; artifacts are copied where they stand in it."""
        plain: list[events.Event] = []
        for event in batch:
            if isinstance(event, events.Artifact):
                self._record(plain)
                plain = []
                self._keep(event)
            elif isinstance(event, events.Failed):
                self.failure = event.error
            elif isinstance(event, events.Finished):
                self.finished = True
            elif not isinstance(event, events.Alive):
                plain.append(event)
        self._record(plain)

    def _record(self, batch: list[events.Event]) -> None:
        if batch:
            self._listen(jobs.record(self.claim.job_id, fence=self.claim.fence, batch=batch))

    def _listen(self, status: str) -> None:
        self.wished = self.wished or status != JobStatus.RUNNING

    def _keep(self, event: events.Artifact) -> None:
        path = Path(event.path)
        try:
            results.keep(
                self.claim.job_id,
                fence=self.claim.fence,
                name=event.name,
                path=path,
                content_type=event.content_type,
            )
        except OSError as error:  # a later one may find room again
            self.lost[event.name] = error
            self._record([events.Degraded(reason=f"{event.name} could not be stored: {error}.")])
        else:
            self.lost.pop(event.name, None)
        path.unlink(missing_ok=True)

    def _keep_lease(self) -> None:
        """Renew in time; a worker that cannot must assume that the job is given to another."""
        now = time.monotonic()
        if now - self.asked < _WISH_POLL_SECONDS:
            return
        self.asked = now
        try:
            status = jobs.heartbeat(self.claim.job_id, fence=self.claim.fence)
        except Fenced:
            raise
        except Exception as error:
            log.warning("lease not renewed", job=self.claim.job_id, error=str(error))
            if now - self.renewed > settings().lease_seconds * 2 / 3:
                raise Fenced(self.claim.job_id) from error
            return
        self.renewed = now
        self._listen(status)

    def _mind(self, child: Child) -> None:
        """Ask the trainer to stop when it is to, and end it when it does not."""
        now = time.monotonic()
        self.overdue = self.overdue or now > self.deadline
        if not (self.wished or self.overdue or self.stopping.is_set()):
            return
        if self.kill_at is None:
            child.stop()
            grace = _WISH_GRACE_SECONDS if self.wished else settings().stop_grace_seconds
            self.kill_at = now + grace
        elif now > self.kill_at:
            child.kill()

    def _conclude(self, code: int, excerpt: list[str], *, stopped: bool, crash: DistillError) -> None:
        """Record how the attempt ended: ``stopped`` in good order, or else, with nothing said, by a crash."""
        job_id, fence = self.claim.job_id, self.claim.fence
        try:
            if self.failure is not None:
                jobs.fail(job_id, fence=fence, error={**self.failure, "log_excerpt": excerpt})
            elif self.finished and code == 0:
                self._finish()
            elif self.wished:
                if jobs.release(job_id, fence=fence) not in TERMINAL:
                    return
            elif self.overdue:
                jobs.fail(job_id, fence=fence, error=_overdue(self.claim).as_json())
            elif stopped and self.stopping.is_set():
                jobs.release(job_id, fence=fence)
                return
            else:
                jobs.crashed(job_id, fence=fence, error={**crash.as_json(), "log_excerpt": excerpt})
                return
        except Fenced:
            log.warning("fenced at the end", job=job_id, fence=fence)
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        log.info("attempt ended", job=job_id, attempt=self.claim.attempt, code=code)


def _storage_error(error: OSError) -> dict[str, Any]:
    failure = DistillError(
        "storage_error",
        f"The artifact store failed: {error}.",
        hint="The operator sees to the store and its disk; then submit the job again.",
    )
    return {**failure.as_json(), "retryable": True}


def _take(messages: queue.Queue[dict[str, Any] | None]) -> tuple[list[events.Event], bool]:
    """What has come in, at most a batch, after a short wait; and whether it was the end."""
    batch: list[events.Event] = []
    try:
        message = messages.get(timeout=_POLL_SECONDS)
        while message is not None:
            batch.append(events.from_json(message))
            if len(batch) >= _BATCH:
                return batch, False
            message = messages.get_nowait()
    except queue.Empty:
        return batch, False
    return batch, True


def _overdue(claim: Claim) -> DistillError:
    limit = claim.spec.training.max_runtime_seconds
    return DistillError(
        "max_runtime_exceeded",
        f"The job ran for its max_runtime_seconds, {limit} s.",
        hint="The student so far can be downloaded; raise max_runtime_seconds or lower epochs.",
        param="/training/max_runtime_seconds",
    )


def _crash(code: int) -> DistillError:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    hint = "The log excerpt has its last words; tell the operator, who has the worker's log."
    if code == -signal.SIGKILL:
        hint = "So ends what takes more memory than the machine has: use a smaller batch_size or fewer images."
    return DistillError("internal_error", f"The trainer {how}.", hint=hint)


def _stall(seconds: float) -> DistillError:
    return DistillError(
        "internal_error",
        f"The trainer took no step for {seconds:.0f} s and was killed.",
        hint="The log excerpt tells what its threads were at; tell the operator, who has the worker's log.",
    )


def _unreadable(code: int) -> DistillError:
    return InputError(
        "unsafe_file",
        f"Converting the weights that the student starts from ended their reader (exit code {code}).",
        hint="Save them with safetensors.torch.save_file(network.state_dict(), path), and start from that file.",
        param=_START,
    )


def _threads() -> int:
    """All cores but one: OpenMP waits for its slowest thread at every operation, and the service runs too."""
    return max(1, (os.cpu_count() or 1) - 1)
