"""The options of `berth simulate gavel` as typed. Misuse raises InvalidInput with the option, the value, the remedy."""

from berth.errors import InvalidInput
from placement_engine.simulation.gavel.policies import POLICIES
from placement_engine.simulation.gavel.trace import Cluster, Workload

__all__ = ["parse_cluster", "parse_policies", "parse_round", "parse_window"]

MOST_DEVICES = 10_000


def parse_cluster(text: str) -> Cluster:
    """`v100=36,k80=12`: the devices of each kind, each kind once."""
    found: dict[str, int] = {}
    for part in text.split(","):
        kind, _, count = (piece.strip() for piece in part.partition("="))
        if not (kind and count.isascii() and count.isdigit() and 0 < int(count) <= MOST_DEVICES):
            raise InvalidInput.of("--cluster", part, f"such as v100=36,k80=12, each 1 to {MOST_DEVICES}")
        if kind in found:
            raise InvalidInput.of("--cluster", part, "each kind once")
        found[kind] = int(count)
    return Cluster(tuple(found), tuple(found.values()))


def parse_round(seconds: float) -> float:
    if not 1.0 <= seconds <= 86_400.0:
        raise InvalidInput.of("--round", seconds, "1 to 86400 seconds")
    return seconds


def parse_window(text: str, workload: Workload) -> tuple[int, int]:
    """`4000-4999`: the first and the last job that are measured."""
    first, dash, last = (piece.strip() for piece in text.partition("-"))
    jobs = workload.arrival.size
    if not (dash and first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
        raise InvalidInput.of("--window", text, "numbers of the first and the last job, such as 4000-4999")
    if not int(first) <= int(last) < jobs:
        raise InvalidInput.of("--window", text, f"goes upwards and ends before job {jobs}")
    return int(first), int(last)


def parse_policies(text: str, workload: Workload, *, share: bool) -> list[str]:
    """Names of policies, each once, that can do what the jobs and the options ask."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in found:
        if name not in POLICIES:
            raise InvalidInput.of("--policy", name, f"one of {', '.join(POLICIES)}")
        if share and not POLICIES[name].shares:
            can = ", ".join(one for one, policy in POLICIES.items() if policy.shares)
            raise InvalidInput.of("--policy", name, f"leave --share-devices out, or choose of {can}")
        if not POLICIES[name].multi and (workload.scale > 1).any():
            raise InvalidInput.of("--policy", name, "takes only jobs of one device: leave it out")
    return found
