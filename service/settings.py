"""Settings: environment variables with the prefix LIMBECK_, all optional."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from distill.data.reading import MAX_BROKEN_SHARE


def _default_data_dir() -> Path:
    return Path.home() / ".local" / "share" / "limbeck"


class Settings(BaseSettings):
    """Where things live, and the few numbers an operator may turn. Nothing set: everything embedded in one folder."""

    model_config = SettingsConfigDict(env_prefix="LIMBECK_", frozen=True, use_attribute_docstrings=True)

    data_dir: Path = _default_data_dir()
    """Holds whatever is embedded: database, broker, artifacts, uploads, work folders."""
    database_url: str = ""
    """SQLAlchemy URL; empty: SQLite in the data folder."""
    broker_url: str = ""
    """Celery broker URL; empty: the embedded one, which `limbeck serve` starts."""
    artifacts_url: str = ""
    """`file:///folder`; empty: a folder in the data folder."""
    presets_dir: Path | None = None
    """Where the operator puts the original files of public data sets; unset: `presets` in the data folder."""
    host: str = "127.0.0.1"
    port: int = 8000
    lease_seconds: float = 30.0
    """A worker silent for so long has lost its job."""
    sweep_seconds: float = 5.0
    """How often lost jobs and lost messages are looked for."""
    redispatch_seconds: float = 30.0
    """A queued job that nobody took for so long is rung for again."""
    queue_timeout_seconds: float = 7 * 86400.0
    """A job that has waited in the queue for so long, for a worker or for its inputs, fails."""
    max_crashes: int = 3
    """So many crashes without progress fail a job."""
    stall_seconds: float = 300.0
    """A trainer that takes no step for so long, and for ten times its usual pace, is killed and goes on elsewhere."""
    stop_grace_seconds: float = 30.0
    """How long a trainer may take to write its checkpoint before it is killed."""
    max_upload_bytes: int = 20 * 2**30
    upload_quota_bytes: int = 200 * 2**30
    """For all uploads together, those under way included."""
    max_body_bytes: int = 2**20
    """For every body but an upload's content."""
    allow_pickle: bool = False
    """Whether files of `torch.save` are taken as teachers, and as what students start from. A worker reads them in a
    cage; safetensors need none."""
    hub_url: str = ""
    """Where teachers are fetched from by name (`hf-hub:owner/name`), such as https://huggingface.co or a mirror; empty:
    nowhere. Workers fetch, and need a way to that address."""
    remote_sources: Literal["https", "none"] = "https"
    """Whether workers fetch data sets from public https URLs that a request names; `none`: no URL is taken."""
    remote_allow_hosts: str = ""
    """Hosts in one's own network that may be fetched from all the same: `files.internal, nas.lan:8443`."""
    remote_buckets: str = ""
    """Buckets that `s3://` URLs may name, with the credentials of the worker's environment; empty: none."""
    remote_idle_seconds: float = 30.0
    """A source that is silent for so long is asked anew."""
    remote_max_seconds: float = 6 * 3600.0
    """A fetch that takes longer has failed."""
    s3_endpoint_url: str = ""
    """Of a store that is not Amazon's, such as MinIO."""
    max_broken_share: float = Field(default=MAX_BROKEN_SHARE, ge=0, le=1)
    """Up to which share images that cannot be read are left out of a data set, where its request does not say."""
    ingest_memory_bytes: int = Field(default=8 * 2**30, ge=2**29)
    """What the process that checks an upload may take of memory; files that it maps do not count."""
    teacher_check_seconds: int = 300
    """Of the processor's time; a teacher whose check takes longer is refused."""
    dataset_check_seconds: int = 1800
    """The same of reading a data set."""
    device: str = "auto"
    """Where trainers run: auto, cpu, cuda or mps."""
    trainer_threads: int = 0
    """CPU threads of one trainer; 0: all cores but one, since OpenMP waits for its slowest thread."""
    log_format: str = "auto"
    """json, console, or auto: console on a terminal."""

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'limbeck.db'}"

    @property
    def artifacts_dir(self) -> Path:
        """The local folder of the artifact store.

        Raises:
            ValueError: the URL has a scheme that this version does not store to.
        """
        if not self.artifacts_url:
            return self.data_dir / "artifacts"
        if self.artifacts_url.startswith("file://"):
            return Path(self.artifacts_url.removeprefix("file://"))
        raise ValueError(f"LIMBECK_ARTIFACTS_URL={self.artifacts_url!r}: only file:// is supported")

    @property
    def resolved_presets_dir(self) -> Path:
        return self.presets_dir or self.data_dir / "presets"

    @property
    def work_dir(self) -> Path:
        """Work folders of jobs: checkpoints and files on their way to the store."""
        return self.data_dir / "work"


@cache
def settings() -> Settings:
    """The process's settings, read once; tests clear the cache."""
    return Settings()
