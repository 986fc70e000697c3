"""Who may speak to the extender: on the loopback everyone, beyond it who shows a certificate."""

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError

from berth.errors import InvalidInput
from placement_engine.adapters.extender_listener import listening
from placement_engine.settings import EngineSettings


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt, and server and client certificates that it signed; other.crt is nobody's."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on the PATH: the test's certificates are made with it")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "other"):
        openssl("req", "-x509", *curve, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}")
    for name in ("server", "client"):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}",
                "-addext", "subjectAltName=IP:127.0.0.1")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-out", f"{name}.crt",
                "-copy_extensions", "copy")  # fmt: skip
    return folder


def settings_of(folder: Path, **more: Any) -> EngineSettings:
    facts: dict[str, Any] = {
        "extender_listen": "127.0.0.1:0",
        "extender_certificate": folder / "server.crt",
        "extender_key": folder / "server.key",
        "extender_client_authority": folder / "ca.crt",
    }
    return EngineSettings(**{**facts, **more})


def an_application() -> web.Application:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    made = web.Application()
    made.add_routes([web.get("/", answer)])
    return made


async def ask(address: str, folder: Path, client: str) -> str:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    if client:
        context.load_cert_chain(folder / f"{client}.crt", folder / f"{client}.key")
    async with aiohttp.ClientSession() as session, session.get(f"https://{address}/", ssl=context) as got:
        return await got.text()


async def test_only_who_shows_a_certificate_is_heard(certificates: Path) -> None:
    async with listening(an_application(), settings_of(certificates)) as address:
        assert await ask(address, certificates, "client") == "ok"
        for stranger in ("", "other"):
            with pytest.raises(aiohttp.ClientError):
                await ask(address, certificates, stranger)


async def test_what_cannot_be_used_is_named(certificates: Path) -> None:
    for more, field in (
        ({"extender_key": certificates / "client.key"}, "BERTH_EXTENDER_CERTIFICATE"),
        ({"extender_client_authority": certificates / "nothing"}, "BERTH_EXTENDER_CERTIFICATE"),
    ):
        with pytest.raises(InvalidInput, match=f"{field}.*cannot be used"):
            async with listening(an_application(), settings_of(certificates, **more)):
                pass
    async with listening(an_application(), settings_of(certificates)) as address:
        with pytest.raises(InvalidInput, match=r"BERTH_EXTENDER_LISTEN.*name a free port"):
            async with listening(an_application(), settings_of(certificates, extender_listen=address)):
                pass


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"extender_listen": "0.0.0.0:8700"}, "reachable from outside without certificates"),
        ({"extender_listen": "nowhere"}, "is no address: write host:port"),
        ({"extender_listen": "127.0.0.1:99999"}, "is no address: write host:port"),
        ({"extender_listen": "127.0.0.1:1", "extender_key": "k"}, "set all three, or none"),
    ],
)
def test_settings_that_would_let_anyone_in_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EngineSettings(**given)
    guarded: dict[str, Any] = {"extender_certificate": "c", "extender_key": "k", "extender_client_authority": "a"}
    assert EngineSettings(**{"extender_listen": "0.0.0.0:8700", **guarded}).extender_listen
    assert EngineSettings(extender_listen="127.0.0.1:8700").extender_listen
