"""The pod source put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from berth.auth import Authenticator
from berth.kubernetes.claims.book import ClaimBook
from berth.kubernetes.client import Kubernetes
from berth.kubernetes.devices import DeviceResources
from berth.kubernetes.informer import Informer, run_all
from berth.kubernetes.pods.groups import GROUP_PATHS
from berth.service import authority_key
from binder.pods.claims import PodClaims
from binder.pods.engine import Engine
from binder.pods.source import PodSource
from binder.settings import BinderSettings

__all__ = ["Pods", "open_pods"]

RESYNC_SECONDS = 300.0


class Pods:
    """`source.run` is for the one binder that acts; `run` keeps the mirrors of groups, whoever acts."""

    def __init__(self, source: PodSource, informers: list[Informer]) -> None:
        self.source = source
        self._informers = informers

    async def run(self) -> None:
        await run_all(self._informers)


@asynccontextmanager
async def open_pods(
    settings: BinderSettings, client: Kubernetes, pods: Informer, claims: ClaimBook
) -> AsyncIterator[Pods]:
    """`pods`: an informer of those with schedulerName berth, `claims`: the cluster's; both run by the caller."""
    groups = {api: [Informer(client, path, optional=True) for path in paths] for api, paths in GROUP_PATHS.items()}
    claim_of = DeviceResources.read(settings.kubernetes_resources).claim_of
    async with Engine(settings.engine, Authenticator(authority_key(settings))) as engine:
        nodes = Informer(client, "/api/v1/nodes")
        of_pods = PodClaims(claims, nodes)
        source = PodSource(client, pods, groups, engine, claim_of=claim_of, ask_of=of_pods.ask_of)
        of_pods.follow(source)
        yield Pods(source, [nodes, *(one for some in groups.values() for one in some)])
