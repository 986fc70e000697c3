"""Settings of the binder, from the environment."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import NoDecode

from berth.backends.declaration import read_backends
from berth.errors import InvalidInput
from berth.settings import ServiceSettings
from binder.executors.triton_copies import read_pages, read_servers

__all__ = ["EXECUTORS", "BinderSettings"]

EXECUTORS = ("process", "simulated", "kubernetes", "triton")
DEFAULT_EXECUTORS = ("process", "simulated")


class BinderSettings(ServiceSettings):
    executors: Annotated[tuple[str, ...], NoDecode] = DEFAULT_EXECUTORS
    """Comma-separated names."""
    simulation_speed: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Seconds of a simulated job per second of the clock."""
    bind_timeout_seconds: float = Field(default=15.0, gt=0)
    """After which a call to an executor counts as unknown."""
    bind_tries: int = Field(default=8, ge=1)
    release_grace_seconds: float = Field(default=10.0, ge=0)
    """From SIGTERM to SIGKILL."""
    barrier_timeout_seconds: float = Field(default=120.0, gt=0)
    """After which a runner whose binder is gone gives up waiting for the rest of its gang."""
    reconcile_seconds: float = Field(default=30.0, gt=0)
    report_seconds: float = Field(default=15.0, ge=0.1)
    """How often running attempts are asked how fast they are."""
    engine: str = ""
    """host:port of placement-engine, to which pods are submitted as jobs. Empty: pods are not taken up."""
    only_nodes: Annotated[frozenset[str], NoDecode] = frozenset()
    """Comma-separated names of nodes that are this machine, for `process`. Empty: every node is."""

    backends: Path | None = None
    """YAML: backends by command templates; see berth.backends.declaration."""
    triton_servers: str = ""
    """Of each node its Triton server: a template such as `http://{node}:8000`, or `node=url,node=url`."""
    triton_metrics: str = ""
    """Of each node the page of its Triton's metrics, written as `triton_servers`. A node that it does not name:
    http://HOST:8002/metrics of the host in `triton_servers`."""
    triton_grace_seconds: float = Field(default=60.0, gt=0)
    """How long a Triton server may be gone before what it served has failed."""
    model_folders: Annotated[frozenset[str], NoDecode] = frozenset()
    """Comma-separated: the models that are served lie below one of them; `{tenant}` stands for the job's tenant.
    Empty: anywhere while there is no `auth_key`, nowhere with one."""
    model_code: bool | None = None
    """Whether model folders of Triton, which can bring code, are served. None: only while there is no `auth_key`."""

    kubernetes_requests: int = Field(default=64, ge=1, le=1000)
    """To the API server at once."""
    manifest_namespaces: Annotated[tuple[str, ...], NoDecode] = ("default",)
    """Comma-separated: where pods may be made from jobs' manifests. "*": anywhere."""

    @field_validator("executors", "only_nodes", "manifest_namespaces", "model_folders", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @field_validator("executors")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(value) - set(EXECUTORS))
        if unknown or not value:
            raise ValueError(f"unknown executors {unknown}: choose from {', '.join(EXECUTORS)}, at least one")
        return tuple(dict.fromkeys(value))

    @field_validator("model_folders")
    @classmethod
    def _absolute(cls, value: frozenset[str]) -> frozenset[str]:
        for folder in sorted(value):
            if not Path(folder).is_absolute() or ".." in Path(folder).parts:
                raise ValueError(f"BERTH_MODEL_FOLDERS: {folder!r}: write absolute paths, without ..")
        return value

    @field_validator("triton_servers", "triton_metrics")
    @classmethod
    def _servers(cls, value: str, info: ValidationInfo) -> str:
        try:
            (read_pages if info.field_name == "triton_metrics" else read_servers)(value)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("backends")
    @classmethod
    def _sound_backends(cls, value: Path | None) -> Path | None:
        try:
            if value is not None:
                read_backends(value)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return value

    @property
    def folders_of_models(self) -> frozenset[str] | None:
        """None: anywhere."""
        return None if not self.model_folders and self.auth_key is None else self.model_folders

    @property
    def takes_code(self) -> bool:
        return self.auth_key is None if self.model_code is None else self.model_code

    @model_validator(mode="after")
    def _with_servers(self) -> Self:
        if "triton" in self.executors and not self.triton_servers:
            raise ValueError(
                "BERTH_EXECUTORS has triton, and BERTH_TRITON_SERVERS is empty: write http://{node}:8000, or "
                "node=http://host:8000,node=..."
            )
        return self

    @model_validator(mode="after")
    def _with_a_cluster(self) -> Self:
        if "kubernetes" in self.executors and not self.kubernetes:
            raise ValueError(
                "BERTH_EXECUTORS has kubernetes, and BERTH_KUBERNETES is false: set BERTH_KUBERNETES=true, "
                "and BERTH_KUBECONFIG outside a cluster"
            )
        return self
