"""Settings that contradict each other are refused with what to do."""

import pytest
from pydantic import ValidationError

from binder.settings import BinderSettings


def test_the_executor_kubernetes_needs_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_EXECUTORS", "simulated, kubernetes")
    with pytest.raises(ValidationError, match="set BERTH_KUBERNETES=true"):
        BinderSettings()
    monkeypatch.setenv("BERTH_KUBERNETES", "true")
    monkeypatch.setenv("BERTH_MANIFEST_NAMESPACES", "batch, research")
    settings = BinderSettings()
    assert settings.executors == ("simulated", "kubernetes")
    assert settings.manifest_namespaces == ("batch", "research")


def test_an_executor_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_EXECUTORS", "slurm")
    with pytest.raises(ValidationError, match=r"unknown executors \['slurm'\]: choose from process, simulated, kuber"):
        BinderSettings()
