"""What the project says of itself is true of the code: README, compose.yaml, docs/adr."""

import ast
import importlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from pydantic_core import PydanticUndefined

from berth import topics
from berth.cli.main import COMMANDS
from berth.jobs import FIELDS, parse_text
from berth.settings import ServiceSettings
from binder.settings import BinderSettings
from placement_engine.settings import EngineSettings
from profile_store.settings import ProfileStoreSettings
from telemetry_ingest.settings import TelemetryIngestSettings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS: dict[str, type[ServiceSettings]] = {
    "telemetry-ingest": TelemetryIngestSettings,
    "profile-store": ProfileStoreSettings,
    "placement-engine": EngineSettings,
    "binder": BinderSettings,
}
# Read by the command line, or set for a job's command.
OTHER_VARIABLES = {
    "BERTH_CONTEXT", "BERTH_TOKEN", "BERTH_JOB_ID", "BERTH_ATTEMPT", "BERTH_MEMBER", "BERTH_GANG_SIZE", "BERTH_NODE",
    "BERTH_DEVICES", "BERTH_REPORT",
}  # fmt: skip


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return document


def own_environment(service: str) -> dict[str, str]:
    """The service's BERTH_ variables with every ${...} filled in: the default, else something long enough."""
    environment = compose()["services"][service]["environment"]
    assert all(isinstance(value, str) for value in environment.values()), "quote numbers and booleans"

    def fill(match: re.Match[str]) -> str:
        return match[3] if match[2] == ":-" else "k" * 32

    return {
        name: re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", fill, value)
        for name, value in environment.items()
        if name.startswith("BERTH_")
    }


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def documented_settings() -> dict[str, dict[str, str]]:
    """Heading of each table of the README -> variable -> what stands as its default."""
    tables: dict[str, dict[str, str]] = {}
    for heading, rows in re.findall(r"^\| ([a-z -]+) \| default \| \|\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE):
        tables[heading] = dict(re.findall(r"^\| `(BERTH_\w+)` \| ([^|]*) \|", rows, re.MULTILINE))
    return tables


@pytest.mark.parametrize("service", SETTINGS)
def test_compose_gives_each_service_settings_that_it_knows_and_takes(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = own_environment(service)
    fields = SETTINGS[service].model_fields
    assert sorted(name for name in environment if name.removeprefix("BERTH_").lower() not in fields) == []
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    loaded = SETTINGS[service]()
    assert loaded.kafka_bootstrap == "kafka:19092"
    assert loaded.auth_key is not None
    assert "INSIDE://kafka:19092" in compose()["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_compose_starts_the_programs_of_the_distribution_and_nothing_without_a_key() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    services = compose()["services"]
    assert set(services) == {*SETTINGS, "kafka", "postgres"}
    for name in SETTINGS:
        assert services[name]["command"] == [f"berth-{name}"]
        assert services[name]["command"][0] in scripts
        assert services[name]["environment"]["BERTH_AUTH_KEY"].startswith("${BERTH_AUTH_KEY:?")
        assert "/readyz" in " ".join(services[name]["healthcheck"]["test"])


def test_compose_publishes_on_loopback_and_where_the_context_file_says() -> None:
    published = {
        name: dict(reversed(port.rsplit(":", 1)) for port in service.get("ports", ()))
        for name, service in compose()["services"].items()
    }
    every = [address for ports in published.values() for address in ports.values()]
    assert [address for address in every if not address.startswith("127.0.0.1:")] == []
    assert len(every) == len(set(every))
    context = json.loads((ROOT / "deploy/context.json").read_text())
    assert context == {
        "services": {name.replace("-", "_"): published[name]["7000"] for name in SETTINGS},
        "http": {name.replace("-", "_"): published[name]["8080"] for name in SETTINGS},
        "kafka": published["kafka"]["9092"],
    }


def test_compose_runs_the_kafka_that_the_tests_run() -> None:
    pinned = ElementTree.parse(ROOT / "deploy/kafka/pom.xml").findtext("{*}properties/{*}kafka.version")
    assert compose()["services"]["kafka"]["image"] == f"apache/kafka:{pinned}"


def test_the_image_is_built_from_files_that_are_there_and_runs_without_rights() -> None:
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    sent = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        source for line in lines if line.startswith("COPY ") and "--from" not in line for source in line.split()[1:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source.removeprefix('./')}" in sent
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    assert any("--require-hashes -r requirements.lock" in line for line in lines)


@pytest.mark.parametrize("topic", topics.SOURCE_TOPICS)
def test_every_topic_is_in_the_readme(topic: str) -> None:
    rows = re.findall(r"^\| `([a-z.]+)`( \(compacted\))? \|", README, re.MULTILINE)
    assert (topic, " (compacted)" if topic in topics.COMPACTED_TOPICS else "") in rows


def test_the_readme_names_no_topic_that_is_not_there() -> None:
    rows = re.findall(r"^\| `([a-z]+\.[a-z]+)`", README, re.MULTILINE)
    assert sorted(rows) == sorted(topics.SOURCE_TOPICS)


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    shared = ServiceSettings.model_fields
    wanted = {"all services": shared} | {
        name: {key: field for key, field in settings.model_fields.items() if key not in shared}
        for name, settings in SETTINGS.items()
    }
    tables = documented_settings()
    assert {name: sorted(rows) for name, rows in tables.items()} == {
        name: sorted(f"BERTH_{field.upper()}" for field in fields) for name, fields in wanted.items()
    }
    wrong = []
    for name, fields in wanted.items():
        for key, field in fields.items():
            text = tables[name][f"BERTH_{key.upper()}"].strip("`")
            default = field.default
            assert default is not PydanticUndefined
            if hasattr(default, "get_secret_value"):
                default = default.get_secret_value()
            if isinstance(default, bool):
                agrees = text == str(default).lower()
            elif isinstance(default, int | float):
                agrees = float(text) == default
            elif isinstance(default, tuple):
                agrees = text == ",".join(default)
            else:
                agrees = text == str(default) if default else text in ("none", "host and process id") or (
                    text.startswith("empty")
                )  # fmt: skip
            if not agrees:
                wrong.append((key, text, default))
    assert wrong == []


def test_every_variable_that_the_documents_name_is_there() -> None:
    known = {f"BERTH_{field.upper()}" for settings in SETTINGS.values() for field in settings.model_fields}
    for path in (ROOT / "README.md", ROOT / "deploy/README.md", *(ROOT / "docs/adr").glob("*.md")):
        named = set(re.findall(r"\bBERTH_[A-Z_]+", path.read_text(encoding="utf-8")))
        assert (path.name, sorted(named - known - OTHER_VARIABLES)) == (path.name, [])


def test_the_job_file_of_the_readme_is_a_job_and_shows_every_field() -> None:
    (text,) = blocks("yaml")
    parse_text(text)
    shown = set(yaml.safe_load(text)) | set(re.findall(r"`([a-z_]+): ", README))
    assert sorted(set(FIELDS) - shown) == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_valid(path: Path) -> None:
    from berth.backends.declaration import parse_backends
    from berth.cli.declarations import parse_declarations
    from berth.device_plugin.reading import parse_inventory
    from berth.jobs import parse_document

    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    if "name" in documents[0]:
        assert [parse_document(document).name for document in documents]
    elif "resources" in documents[0]:
        assert parse_inventory(documents[0]).resources
    elif "backends" in documents[0]:
        assert parse_backends(documents[0])
    else:
        declared = parse_declarations(documents)
        assert declared.nodes or declared.queues


@pytest.mark.parametrize("number", range(2))
def test_the_programs_of_the_readme_import_what_is_there(number: int) -> None:
    tree = ast.parse(blocks("python")[number])
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported
    for node in imported:
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def test_commands_and_targets_that_the_readme_names_are_there() -> None:
    shell = "\n".join([*re.findall(r"^    .*$", README, re.MULTILINE), *re.findall(r"`([^`\n]+)`", README)])
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert sorted(set(re.findall(r"\bmake ([a-z-]+)", shell)) - targets) == []
    named = set(re.findall(r"(?:^ *|\(|`)berth ([a-z][a-z-]*)", shell, re.MULTILINE))
    assert sorted(named - set(COMMANDS)) == []
    for path in re.findall(r"\b(examples/[a-z/-]+\.yaml)", shell):
        assert (ROOT / path).is_file()


@pytest.mark.parametrize("document", ["README.md", "deploy/README.md", "CHANGELOG.md"])
def test_every_link_leads_somewhere(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_the_changelog_knows_every_command() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [command for command in COMMANDS if f"`{command}`" not in text and f"`{command} " not in text] == []


ADRS = sorted((ROOT / "docs/adr").glob("*.md"))


@pytest.mark.parametrize("path", ADRS, ids=lambda path: path.stem)
def test_a_decision_record_says_its_status_and_keeps_to_a_page(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(f"# {path.stem[:4]}. ")
    status = [line for line in lines if line.startswith("Status: ")]
    assert len(status) == 1
    assert re.fullmatch(r"Status: (proposed|accepted|rejected|superseded by \d{4})", status[0])
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == ["## Context", "## Decision", "## Consequences"]
    assert len(lines) <= 60


def test_decision_records_are_numbered_without_gaps() -> None:
    assert [path.stem[:4] for path in ADRS] == [f"{number:04}" for number in range(1, len(ADRS) + 1)]
