"""Where the extender listens: on the loopback, or with TLS that asks every caller for a certificate."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from berth.errors import InvalidInput
from placement_engine.settings import EngineSettings

__all__ = ["listening"]

log = structlog.get_logger(__name__)


@asynccontextmanager
async def listening(application: web.Application, settings: EngineSettings) -> AsyncIterator[str]:
    """Serves until left; gives "host:port". Raises InvalidInput for certificates that cannot be used."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        host, _, port = settings.extender_listen.rpartition(":")
        context = _tls(settings)
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=context).start()
        except OSError as error:
            raise InvalidInput.of(
                "BERTH_EXTENDER_LISTEN", settings.extender_listen, f"cannot be listened on ({error}): name a free port"
            ) from error
        address = f"{host}:{runner.addresses[0][1]}"
        log.info("extender is up", address=address, tls=context is not None)
        yield address
    finally:
        await runner.cleanup()


def _tls(settings: EngineSettings) -> ssl.SSLContext | None:
    if settings.extender_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.extender_certificate, settings.extender_key)
        context.load_verify_locations(settings.extender_client_authority)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput.of(
            "BERTH_EXTENDER_CERTIFICATE", settings.extender_certificate, f"cannot be used ({error}): name PEM files"
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context
