"""The tables, and nothing else. Neural networks are `networks`, in `distill/`."""

from models.artifact import Artifact
from models.base import Table, db_now, utcnow
from models.event import JobEvent
from models.inputs import Dataset, InputStatus, Teacher
from models.job import HELD, TERMINAL, Attempt, Job, JobStatus, Priority
from models.outbox import OutboxMessage
from models.sweep import Sweep
from models.upload import Upload
from models.worker import Worker

__all__ = [
    "HELD",
    "TERMINAL",
    "Artifact",
    "Attempt",
    "Dataset",
    "InputStatus",
    "Job",
    "JobEvent",
    "JobStatus",
    "OutboxMessage",
    "Priority",
    "Sweep",
    "Table",
    "Teacher",
    "Upload",
    "Worker",
    "db_now",
    "utcnow",
]
