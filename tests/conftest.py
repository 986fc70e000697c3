"""Servers for the suite: real PostgreSQL, real Apache Kafka; free ports, nothing left behind."""

import importlib.util
import os
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from berth.testing.servers import embedded_kafka, postgres_server
from berth.topics import SOURCE_TOPICS, dead_letter_topic
from tests.services import System

ROOT = Path(__file__).resolve().parent.parent


def load_kafka_broker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("berth_kafka_broker", ROOT / "deploy/kafka/broker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def fell_back(what: str) -> None:
    """Says in one line that a real server is missing; CI must not fall back."""
    sys.stderr.write(f"\nberth tests: {what}; running on the embedded one\n")
    if os.environ.get("CI"):
        pytest.fail(f"CI must run on the real servers, but: {what}", pytrace=False)


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    with postgres_server() as server:
        if server.why_embedded:
            fell_back(server.why_embedded)
        yield server.dsn


@pytest.fixture
async def database_dsn(postgres_dsn: str) -> AsyncIterator[str]:
    """A fresh database."""
    name = f"t{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    yield postgres_dsn.rpartition("/")[0] + f"/{name}"
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


def why_no_apache_kafka() -> str:
    """What is missing for Apache Kafka, "" where nothing is. BERTH_TEST_EMBEDDED=1 asks for the embedded broker."""
    if os.environ.get("BERTH_TEST_EMBEDDED"):
        return "BERTH_TEST_EMBEDDED is set"
    return load_kafka_broker().available() or ""


@pytest.fixture(autouse=True)
def _only_on_apache_kafka(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("apache_kafka") and (missing := why_no_apache_kafka()):
        if os.environ.get("CI"):
            pytest.fail(f"CI must run on Apache Kafka, but: {missing}", pytrace=False)
        pytest.skip(f"needs Apache Kafka: {missing}")


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    broker = load_kafka_broker()
    missing = why_no_apache_kafka()
    if missing:
        fell_back(missing)
        with embedded_kafka() as address:
            yield address
        return
    with broker.Broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running.bootstrap


@pytest.fixture
async def empty_kafka(kafka_bootstrap: str) -> AsyncIterator[str]:
    """The address of a broker without any of Berth's topics."""
    if why_no_apache_kafka():
        with embedded_kafka() as address:
            yield address
        return
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        ours = {*SOURCE_TOPICS, *map(dead_letter_topic, SOURCE_TOPICS)} & set(await admin.list_topics())
        if ours:
            await admin.delete_topics(sorted(ours))
    finally:
        await admin.close()
    yield kafka_bootstrap


@pytest.fixture
async def system(tmp_path: Path, database_dsn: str, empty_kafka: str) -> AsyncIterator[System]:
    """Real processes on one fresh database and an empty broker; everything started is ended."""
    async with System(tmp_path, database_dsn, empty_kafka, uuid.uuid4().hex) as made:
        yield made


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data; a test that needs it is skipped with one line where it is absent."""
    folder = Path(os.environ.get("BERTH_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the real data is absent: set BERTH_DATA to its folder")
    return folder
