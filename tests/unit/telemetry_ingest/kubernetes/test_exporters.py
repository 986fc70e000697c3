"""Exporters that run in a cluster: pods by annotation, endpoints by their service."""

from typing import Any

import pytest

from telemetry_ingest.domain.kubernetes.exporters import targets_of_pod, targets_of_slice
from telemetry_ingest.domain.targets import Target
from tests.unit.telemetry_ingest.kubernetes.builders import a_pod

SCRAPED = {"prometheus.io/scrape": "true", "prometheus.io/port": "9400"}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (a_pod(annotations=SCRAPED, labels={"app": "nvidia-dcgm-exporter"}), ("http://10.0.0.9:9400/metrics", "dcgm")),
        (
            a_pod(
                annotations={**SCRAPED, "prometheus.io/path": "gpu", "prometheus.io/scheme": "https"},
                labels={"app.kubernetes.io/name": "amd-metrics-exporter"},
                address="fd00::9",
            ),
            ("https://[fd00::9]:9400/gpu", "amd"),
        ),
        (
            a_pod(
                annotations={"prometheus.io/scrape": "true"},
                labels={"app": "prometheus-node-exporter"},
                containers=[{"ports": [{"containerPort": 1}, {"name": "metrics", "containerPort": 9100}]}],
            ),
            ("http://10.0.0.9:9100/metrics", "node_exporter"),
        ),
        # An exporter of the operator's own, by Berth's annotation.
        (
            a_pod(annotations={"berth.dev/exporter": "sambanova", "prometheus.io/port": "1"}),
            ("http://10.0.0.9:1/metrics", "sambanova"),
        ),
        (
            a_pod(annotations={"berth.dev/exporter": "what", "prometheus.io/port": "1"}),
            ("http://10.0.0.9:1/metrics", "auto"),
        ),
        # Any other application that Prometheus scrapes says nothing of devices.
        (a_pod(annotations=SCRAPED, labels={"app": "shop"}), None),
        (a_pod(labels={"app": "dcgm-exporter"}), None),
        (a_pod(annotations=SCRAPED, labels={"app": "dcgm-exporter"}, phase="Pending"), None),
        (a_pod(annotations=SCRAPED, labels={"app": "dcgm-exporter"}, address=""), None),
        (a_pod(annotations={**SCRAPED, "prometheus.io/port": "x"}, labels={"app": "dcgm-exporter"}), None),
        (a_pod(annotations={**SCRAPED, "prometheus.io/port": "70000"}, labels={"app": "dcgm-exporter"}), None),
    ],
)
def test_pods(pod: dict[str, Any], expected: tuple[str, str] | None) -> None:
    assert targets_of_pod(pod) == (() if expected is None else (Target("n1", *expected),))


def endpoints(service: str, **changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "other", "port": 1}, {"name": "metrics", "port": 9400}],
        "endpoints": [
            {"nodeName": "n1", "addresses": ["10.0.0.1"], "conditions": {"ready": True}},
            {"nodeName": "n2", "addresses": ["10.0.0.2"]},
            {"nodeName": "n3", "addresses": ["10.0.0.3"], "conditions": {"ready": False}},
            {"addresses": ["10.0.0.4"]},
        ],
        **changes,
    }


def test_endpoints_of_a_known_service() -> None:
    assert targets_of_slice(endpoints("gpu-operator-dcgm-exporter")) == (
        Target("n1", "http://10.0.0.1:9400/metrics", "dcgm"),
        Target("n2", "http://10.0.0.2:9400/metrics", "dcgm"),
    )
    (first, _) = targets_of_slice(endpoints("metric-exporter-habana", ports=[{"port": 41611, "appProtocol": "https"}]))
    assert first == Target("n1", "https://10.0.0.1:41611/metrics", "gaudi")


@pytest.mark.parametrize(
    "thing",
    [
        endpoints("shop"),
        endpoints("dcgm-exporter", ports=None),
        endpoints("dcgm-exporter", endpoints=None),
        endpoints("dcgm-exporter", addressType="FQDN"),
        {"metadata": {}},
    ],
)
def test_endpoints_that_give_no_page(thing: dict[str, Any]) -> None:
    assert targets_of_slice(thing) == ()
