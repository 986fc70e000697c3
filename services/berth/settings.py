"""Settings that all services share, from the environment (`BERTH_...`)."""

from pathlib import Path
from typing import Self

from pydantic import SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["ServiceSettings"]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


class ServiceSettings(BaseSettings):
    """What each service needs to know of its surroundings.

    Without `auth_key` any caller is trusted; that is refused unless gRPC listens on loopback. The HTTP listener
    serves metrics and probes only, and asks for no token.
    """

    model_config = SettingsConfigDict(env_prefix="BERTH_", extra="ignore", frozen=True)

    kafka_bootstrap: str = "127.0.0.1:9092"
    kafka_log: str = ""
    """Name of the broker's log. Offsets are kept per name: give a new one to a new, empty cluster."""
    topic_partitions: int = 4
    topic_replication: int = 1
    postgres_dsn: SecretStr = SecretStr("postgresql://berth@127.0.0.1:5432/berth")
    postgres_pool: int = 6
    grpc_listen: str = "127.0.0.1:0"
    http_listen: str = "127.0.0.1:0"
    auth_key: SecretStr | None = None
    """Key of the HS256 tokens, at least 32 characters."""
    state_dir: Path = Path(".berth")
    span_dir: Path | None = None
    """Where spans are also kept as JSON lines, for `berth trace`."""
    log_level: str = "info"
    log_format: str = "json"
    kubernetes: bool = False
    """Works with a Kubernetes cluster, each service for its own part."""
    kubeconfig: Path | None = None
    """Unset: KUBECONFIG, else the pod's service account, else ~/.kube/config."""
    kubernetes_resources: Path | None = None
    """YAML: resource names of the operator's own device plugins to models of the catalogue."""
    endpoint_file: Path | None = None
    """Where the service writes the addresses that it really listens on, as JSON."""

    @field_validator("grpc_listen", "http_listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{value!r} is no address: write host:port, port 0 for a free one")
        return value

    @field_validator("auth_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("BERTH_AUTH_KEY is shorter than 32 characters: make one with `openssl rand -hex 32`")
        return value

    @model_validator(mode="after")
    def _open_only_on_loopback(self) -> Self:
        host = self.grpc_listen.rpartition(":")[0]
        if self.auth_key is None and host not in LOOPBACK:
            raise ValueError(
                f"BERTH_GRPC_LISTEN {self.grpc_listen!r} is reachable from outside and BERTH_AUTH_KEY is not set: "
                "set a key, or listen on 127.0.0.1"
            )
        return self
