"""Where a member's copy of a model goes, under which name, and what it is made of."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from berth.backends.base import Placement, Refused, Unanswered, Unreachable
from berth.backends.triton_serving import OWNER
from berth.errors import InvalidInput
from berth.models.artefact_file import Opened, path_of
from binder.domain.work import Assignment, Member
from binder.executors.model_rules import ModelRules

__all__ = [
    "NO_SUCH_MODEL", "Servers", "content_of", "placement_of", "raise_worst", "read_pages", "read_servers",
    "served_name",
]  # fmt: skip

NO_SUCH_MODEL = "no server has it"
FIELD = "BERTH_TRITON_SERVERS"
_REMEDY = "write http://{node}:8000, or node=http://host:8000,node=..."
PAGES = "BERTH_TRITON_METRICS"
_PAGES_REMEDY = "write http://{node}:8002/metrics, or node=http://host:8002/metrics,node=..."


@dataclass(frozen=True, slots=True)
class Servers:
    """The address of each node's server: `by_node`, else `template` with the node's name in it."""

    template: str = ""
    by_node: Mapping[str, str] = field(default_factory=dict)

    def address(self, node: str) -> str:
        """ "" where none is known."""
        return self.by_node.get(node) or self.template.replace("{node}", node)


def read_servers(text: str) -> Servers:
    """BERTH_TRITON_SERVERS. Raises InvalidInput."""
    return _read(text, FIELD, _REMEDY)


def read_pages(text: str) -> Servers:
    """BERTH_TRITON_METRICS: pages, so with a path. Raises InvalidInput."""
    return _read(text, PAGES, _PAGES_REMEDY, path=True)


def _read(text: str, field: str, remedy: str, *, path: bool = False) -> Servers:
    text = text.strip()
    if "{node}" in text:
        _check_url(text.replace("{node}", "node"), text, field, remedy, path)
        return Servers(template=text.rstrip("/"))
    found: dict[str, str] = {}
    for part in (one.strip() for one in text.split(",") if one.strip()):
        node, equals, address = part.partition("=")
        if not equals or not node.strip():
            raise InvalidInput.of(field, part, remedy)
        if node.strip() in found:
            raise InvalidInput.of(field, part, f"node {node.strip()!r} stands twice: keep one")
        _check_url(address.strip(), part, field, remedy, path)
        found[node.strip()] = address.strip().rstrip("/")
    return Servers(by_node=found)


def _check_url(address: str, shown: str, field: str, remedy: str, path: bool) -> None:
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or bool(parts.path.strip("/")) > path:
        raise InvalidInput.of(field, shown, remedy)


def served_name(assignment: Assignment, member: Member) -> str:
    """On the server: of this attempt and member alone, and of the same ones always."""
    whose = hashlib.sha256(f"{assignment.id}.{member.member}".encode()).hexdigest()[:12]
    model = assignment.work.model
    return f"{model.name if model is not None else 'model'}-{whose}"


def placement_of(assignment: Assignment, member: Member, servers: Servers) -> Placement:
    """A member without devices is on the node's CPU. Raises Refused."""
    model = assignment.work.model
    if model is None:
        raise InvalidInput.of("model", "none", "the executor triton serves a model: give the job a `model`")
    kinds = sorted({claim.model for claim in member.devices})
    if len(kinds) > 1:
        raise Refused(f"member {member.member}: {', '.join(kinds)}: a copy is on devices of one model: ask for one")
    wished = {"max_batch_size": str(model.max_batch_size), "instances": str(model.instances)}
    return Placement(
        node=member.node,
        accelerator=kinds[0] if kinds else "CPU",
        indices=tuple(sorted(claim.index for claim in member.devices)),
        # "" where none is known: a vendor's backend needs none, and those on Triton refuse it in words.
        address=servers.address(member.node),
        parameters={**model.parameters, **wished, OWNER: f"{assignment.id}.{member.member}"},
    )


def content_of(assignment: Assignment, rules: ModelRules) -> Opened:
    """What the job's model is. Blocks. Raises InvalidInput."""
    model = assignment.work.model
    assert model is not None, "placement_of has seen to it"
    opened = rules.open(path_of(model.uri), assignment.attempt.tenant)
    if model.digest and opened.artefact.digest != model.digest:
        words = f"the content is {opened.artefact.digest}: another model lies there; submit with its digest, or none"
        raise InvalidInput.of("model.digest", model.digest, words)
    return opened


def raise_worst(done: Iterable[object]) -> None:
    """Of what was asked of several members: the error that leaves most open, where there is one."""
    errors = [one for one in done if isinstance(one, BaseException)]
    if errors:
        raise min(errors, key=_known)


def _known(error: BaseException) -> int:
    """0: nothing is; a server that is away is soon taken as gone; a no leaves nothing open."""
    if isinstance(error, Unreachable):
        return 2
    if isinstance(error, Unanswered):
        return 1
    return 3 if isinstance(error, (Refused, InvalidInput)) else 0
