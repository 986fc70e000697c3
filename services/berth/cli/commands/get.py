"""`berth get`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click

from berth.cli.output import Kind, format_option, watch_option
from berth.cli.session import Session, connected

__all__ = ["ALIASES", "all_jobs", "get"]

ALIASES = {
    "jobs": "jobs", "job": "jobs", "jo": "jobs", "j": "jobs",
    "nodes": "nodes", "node": "nodes", "no": "nodes",
    "devices": "devices", "device": "devices", "dev": "devices", "gpus": "devices",
    "queues": "queues", "queue": "queues", "q": "queues",
    "decisions": "decisions", "decision": "decisions", "dec": "decisions",
    "advice": "advice",
}  # fmt: skip
PAGE = 1000


def complete_kind(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Full names only; the short ones are for those who know them."""
    return [name for name in dict.fromkeys(ALIASES.values()) if name.startswith(incomplete)]


@click.command()
@click.argument("kind", shell_complete=complete_kind)
@click.argument("names", nargs=-1)
@click.option("-q", "--queue", default="", help="Jobs of this queue only")
@click.option("-t", "--tenant", default="", help="Jobs of this tenant only")
@click.option("-s", "--state", "states", multiple=True, help="Jobs in this state only; repeat")
@click.option("-p", "--pool", default="", help="Nodes and devices of this pool only")
@click.option("-n", "--node", "nodes", multiple=True, help="Devices of this node only; repeat")
@click.option("--limit", default=100, show_default=True, help="Most decisions to list, latest first")
@format_option
@watch_option
@connected
async def get(
    session: Session,
    kind: str,
    names: tuple[str, ...],
    queue: str,
    tenant: str,
    states: tuple[str, ...],
    pool: str,
    nodes: tuple[str, ...],
    limit: int,
    output: str,
    watch: bool,
) -> None:
    """List KIND: jobs, nodes, devices, queues, decisions or advice; or those NAMES of it."""
    from berth.cli import kinds
    from berth.cli.output import follow, print_items

    if kind not in ALIASES:
        raise click.UsageError(f"no kind {kind!r}: one of {', '.join(complete_kind(None, None, ''))}")  # type: ignore[arg-type]
    shown: Kind[Any]
    fetch: Callable[[], Awaitable[Sequence[Any]]]
    match ALIASES[kind]:
        case "jobs":
            wanted = parse_states(states)
            shown, fetch = kinds.JOB, lambda: fetch_jobs(session, names, tenant, queue, wanted)
        case "nodes":
            shown, fetch = kinds.NODE, lambda: fetch_nodes(session, names, pool)
        case "devices":
            shown, fetch = kinds.DEVICE, lambda: fetch_devices(session, names, pool, nodes)
        case "queues":
            shown, fetch = kinds.QUEUE, lambda: fetch_queues(session, names)
        case "advice":
            shown, fetch = kinds.ADVICE, lambda: fetch_advice(session, names, pool)
        case _:
            shown, fetch = kinds.DECISION, lambda: fetch_decisions(session, names, limit)
    if watch:
        await follow(fetch, shown, output)
    print_items(shown, await fetch(), output, single=len(names) == 1)


def parse_states(names: Sequence[str]) -> list[int]:
    """ "running" -> JOB_STATE_RUNNING. Raises InvalidInput."""
    from berth.errors import InvalidInput
    from berth.v1 import jobs_pb2

    known = {name.removeprefix("JOB_STATE_").lower(): number for name, number in jobs_pb2.JobState.items() if number}
    for name in names:
        if name.lower() not in known:
            raise InvalidInput.of("state", name, f"write one of: {', '.join(known)}")
    return [known[name.lower()] for name in names]


async def all_jobs(session: Session, tenant: str = "", queue: str = "", states: Sequence[int] = ()) -> list[Any]:
    """Every job, page by page."""
    from berth.v1 import placement_pb2 as pb

    jobs: list[Any] = []
    token = ""
    while True:
        request = pb.ListJobsRequest(tenant=tenant, queue=queue, page_size=PAGE, page_token=token)
        request.states.extend(states)  # type: ignore[arg-type]
        page = await session.placement.ListJobs(request)
        jobs.extend(page.jobs)
        token = page.next_page_token
        if not token:
            return jobs


async def fetch_jobs(
    session: Session, names: Sequence[str], tenant: str, queue: str, states: Sequence[int]
) -> list[Any]:
    from berth.v1 import placement_pb2 as pb

    if not names:
        return await all_jobs(session, tenant, queue, states)
    return [
        (await session.placement.GetJob(pb.GetJobRequest(job=f"{tenant}/{name}" if tenant else name))).job
        for name in names
    ]


async def fetch_nodes(session: Session, names: Sequence[str], pool: str, *, devices: bool = True) -> list[Any]:
    """Raises Failed where a name is not known."""
    from berth.cli.failures import Failed
    from berth.v1 import placement_pb2 as pb

    request = pb.ListNodesRequest(pool=pool, names=names, with_devices=devices)
    found = list((await session.placement.ListNodes(request)).nodes)
    missing = sorted(set(names) - {status.node.name for status in found})
    if missing:
        raise Failed(f"no node {', '.join(missing)}: `berth get nodes` lists them")
    return sorted(found, key=lambda status: status.node.name)


async def fetch_devices(session: Session, names: Sequence[str], pool: str, nodes: Sequence[str]) -> list[Any]:
    from berth.cli.failures import Failed

    statuses = await fetch_nodes(session, nodes, pool)
    devices = [device for status in statuses for device in sorted(status.devices, key=lambda one: one.device.index)]
    if names:
        devices = [device for device in devices if device.device.device_id in names]
        missing = sorted(set(names) - {device.device.device_id for device in devices})
        if missing:
            raise Failed(f"no device {', '.join(missing)}: `berth get devices -o wide` lists their ids")
    return devices


async def fetch_queues(session: Session, names: Sequence[str]) -> list[Any]:
    from berth.cli.failures import Failed
    from berth.v1 import placement_pb2 as pb

    queues = sorted((await session.placement.ListQueues(pb.ListQueuesRequest())).queues, key=lambda one: one.name)
    missing = sorted(set(names) - {queue.name for queue in queues})
    if missing:
        raise Failed(f"no queue {', '.join(missing)}: `berth get queues` lists them")
    return [queue for queue in queues if not names or queue.name in names]


async def fetch_advice(session: Session, subjects: Sequence[str], pool: str) -> list[Any]:
    """What the engine proposes; of these devices or jobs only."""
    from berth.v1 import placement_pb2 as pb

    answer = await session.placement.ListAdvice(pb.ListAdviceRequest(pool=pool))
    return [one for one in answer.advice if not subjects or one.subject in subjects]


async def fetch_decisions(session: Session, names: Sequence[str], limit: int) -> list[Any]:
    from berth.v1 import placement_pb2 as pb

    decisions: list[Any] = []
    for name in names or ("",):
        answer = await session.placement.ListDecisions(pb.ListDecisionsRequest(limit=limit, job=name))
        decisions.extend(answer.decisions)
    return decisions
