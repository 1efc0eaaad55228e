"""Settings: environment variables with the prefix LIMBECK_, all optional."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


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
    """Whether files of `torch.save` are taken as teachers. A worker reads them in a cage; safetensors need none."""
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
