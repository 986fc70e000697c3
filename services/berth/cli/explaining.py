"""Text of jobs, nodes, queues and explanations in full."""

from collections.abc import Sequence
from typing import Any

from berth.cli import kinds, units
from berth.cli.output import render_table

__all__ = ["describe_job", "describe_node", "describe_queue", "explain_lines"]

CANDIDATES_SHOWN = 5


def pairs(rows: list[tuple[str, str]]) -> list[str]:
    """`Name:  value` lines, without those that have nothing to say."""
    return render_table((), [(f"{name}:", value) for name, value in rows if value not in ("", units.UNKNOWN)])


def indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def describe_job(job: Any) -> list[str]:
    """A job in full."""
    spec = job.spec
    asked = [
        ("Members x devices", kinds.devices_text(spec)),
        ("Device memory", units.bytes_of(spec.resources.device_memory_bytes or None)),
        ("CPU a member", units.cores(spec.resources.cpu_milli) if spec.resources.cpu_milli else ""),
        ("Memory a member", units.bytes_of(spec.resources.memory_bytes or None)),
        ("Accelerators", ", ".join(spec.accelerators.models)),
        ("Classes", ", ".join(spec.accelerators.classes)),
        ("Stacks", ", ".join(spec.accelerators.stacks)),
        ("Topology", _topology(spec)),
        *_constraints(spec.nodes),
        ("Workload", spec.workload),
        ("Objective", kinds._enum(spec, "objective", "OBJECTIVE_")),
        ("Deadline", units.timestamp(spec, "deadline")),
        ("Latency target", units.duration(units.seconds_of(spec, "latency_target"))),
        ("Expected duration", units.duration(units.seconds_of(spec, "expected_duration"))),
        ("Saves its work every", units.duration(units.seconds_of(spec, "checkpoint_interval"))),
        ("Preemptible", "yes" if spec.preemptible else ""),
        ("Preempted", f"{job.preemptions} times" if job.preemptions else ""),
    ]  # fmt: skip
    for group in spec.member_groups:
        shape = group.resources
        asked.append((
            f"Group {group.name}",
            ", ".join(part for part in (
                kinds._shape_text(group.replicas, group.min_replicas, shape),
                f"{units.cores(shape.cpu_milli)} cores" if shape.cpu_milli else "",
                units.bytes_of(shape.memory_bytes) if shape.memory_bytes else "",
                ", ".join([*group.accelerators.models, *group.accelerators.classes, *group.accelerators.stacks]),
                *(f"{name.lower()}: {text}" for name, text in _constraints(group.nodes) if text),
            ) if part),
        ))  # fmt: skip
    lines = pairs(
        [
            ("Name", spec.name),
            ("Id", job.job_id),
            ("Tenant", spec.tenant),
            ("Queue", spec.queue),
            ("Pool", spec.pool),
            ("Priority", str(spec.priority)),
            ("Kind", kinds._enum(spec, "kind", "JOB_KIND_")),
            ("State", kinds.job_state(job.state)),
            ("Message", job.message),
            ("Why it waits", _why_waiting(job)),
            ("Attempt", str(job.attempt)),
            ("Executor", spec.executor),
            ("Command", " ".join(spec.command.argv)),
            ("Model", spec.model.uri),
            ("Endpoints", ", ".join(job.endpoints)),
            ("Labels", ", ".join(f"{key}={spec.labels[key]}" for key in sorted(spec.labels))),
            ("Trace", job.traceparent.split("-")[1] if job.traceparent.count("-") == 3 else ""),
        ]
    )
    lines += ["Asks for:", *indented(pairs(asked))]
    moments = [
        (name.title(), units.timestamp(job, f"{name}_at"))
        for name in ("submitted", "accepted", "placed", "bound", "started", "finished")
    ]
    lines += ["Times:", *indented(pairs(moments))]
    if job.members:
        rows = [
            (
                str(member.member),
                member.node,
                ", ".join(f"{claim.model}#{claim.index}" + (f" ({claim.milli / 1000:g})" if claim.milli < 1000 else "")
                          for claim in member.devices) or units.UNKNOWN,
                units.cores(member.cpu_milli),
                units.bytes_of(member.memory_bytes),
            )
            for member in job.members
        ]  # fmt: skip
        table = render_table(("MEMBER", "NODE", "DEVICES", "CPU", "MEMORY"), rows, right=(True,))
        fewer = f" ({len(job.members)} of {job.spec.replicas} wished)" if len(job.members) < job.spec.replicas else ""
        lines += [f"Members{fewer}:", *indented(table)]
    return lines


def _why_waiting(job: Any) -> str:
    """It changes with each round: it is asked for, not kept."""
    if kinds.job_state(job.state) != "Pending":
        return ""
    tenant = "" if job.spec.tenant in ("", "default") else f"{job.spec.tenant}/"
    return f"`berth explain {tenant}{job.spec.name or job.job_id}` says"


def _constraints(nodes: Any) -> list[tuple[str, str]]:
    terms = [
        " and ".join(" ".join((one.key, one.operator, ", ".join(one.values))).strip() for one in term.requirements)
        for term in nodes.required
    ]
    tolerated = [
        f"{one.key or 'every taint'}{f'={one.value}' if one.value else ''}{f':{one.effect}' if one.effect else ''}"
        for one in nodes.tolerations
    ]
    return [("Nodes", " or ".join(terms)), ("Tolerates", ", ".join(tolerated))]


def _topology(spec: Any) -> str:
    wish = spec.topology
    parts = [f"{wish.level} ({'required' if wish.required else 'preferred'})"] if wish.level else []
    parts += [f"{wish.preferred_level} (preferred)"] if wish.preferred_level else []
    parts += [f"groups of {wish.group_size} in one {wish.group_level}"] if wish.group_size else []
    return ", ".join(parts)


def explain_lines(job_name: str, explanation: Any) -> list[str]:
    """Why a job is where it is, or why it waits."""
    lines = [f"{job_name} ({kinds.job_state(explanation.state)}): {explanation.summary}"]
    if explanation.HasField("expected_start"):
        at_least = "not before " if explanation.expected_start_at_least else ""
        after = kinds.short_list(list(explanation.expected_after)) if explanation.expected_after else ""
        lines.append(
            f"Expected to start: {at_least}{units.timestamp(explanation, 'expected_start')}"
            + (f", after {after}" if after else "")
        )
    if explanation.queue_position:
        lines.append(f"Place in its queue: {explanation.queue_position}")
    if expected := _expectation(explanation.expectation):
        lines.append(expected)
    if explanation.candidates:
        lines += ["", f"Candidates, of {explanation.nodes_considered} nodes considered:"]
        shown = explanation.candidates[:CANDIDATES_SHOWN]
        plugins = list(dict.fromkeys(term.plugin for candidate in shown for term in candidate.terms))
        rows = []
        for rank, candidate in enumerate(shown):
            terms = {term.plugin: term.value for term in candidate.terms}
            rows.append(
                [
                    "*" if rank == 0 else "",
                    candidate.node,
                    candidate.accelerator or units.UNKNOWN,
                    f"{candidate.score:.3f}",
                    *(f"{terms[plugin]:+.3f}" if plugin in terms else units.UNKNOWN for plugin in plugins),
                ]
            )
        titles = ["", "NODE", "ACCELERATOR", "SCORE", *(plugin.upper() for plugin in plugins)]
        lines += indented(render_table(titles, rows, right=[False, False, False, *[True] * (len(titles) - 3)]))
        details = [(term.plugin, term.detail) for term in shown[0].terms if term.detail]
        if details:
            lines += ["", f"Why {shown[0].node}:", *indented(render_table((), details))]
        if others := _other_accelerators(shown):
            lines += ["", "Other accelerators, by the objective:", *indented(render_table((), others))]
    if explanation.reasons:
        lines += ["", "What said no:"]
        rows = [
            [reason.plugin, reason.code, str(reason.nodes), str(reason.devices), reason.message]
            for reason in explanation.reasons
        ]
        titles = ["FILTER", "CODE", "NODES", "DEVICES", "WHY"]
        lines += indented(render_table(titles, rows, right=(False, False, True, True)))
    if explanation.remedies:
        lines += ["", "What would help:", *[f"  - {remedy}" for remedy in explanation.remedies]]
    return lines


def _other_accelerators(candidates: Sequence[Any]) -> list[tuple[str, str, str]]:
    """Of each accelerator but the chosen one its best node, and what its figures say and where they come from."""
    found: dict[str, tuple[str, str, str]] = {}
    for candidate in candidates:
        told = next((term.detail for term in candidate.terms if term.plugin == "Objective"), "")
        if told and candidate.accelerator not in ("", candidates[0].accelerator):
            found.setdefault(candidate.accelerator, (candidate.accelerator, candidate.node, told))
    return list(found.values())


def _expectation(expected: Any) -> str:
    """What the engine expects in one line; "" where it expects nothing, as of work without a device."""
    duration = kinds.optional(expected, "duration_seconds")
    cost, energy = kinds.optional(expected, "cost_dollars"), kinds.optional(expected, "energy_joules")
    latency = kinds.optional(expected, "latency_seconds")
    parts = [f"{expected.devices} x {expected.accelerator}"] if expected.devices else []
    parts += [f"runs {units.duration(duration)}"] if duration is not None else []
    parts += [f"costs ${cost:.2f}"] if cost is not None else []
    parts += [f"takes {energy / 3.6e6:.2f} kWh"] if energy is not None else []
    parts += [f"answers in {units.duration(latency)}"] if latency is not None else []
    provenance = kinds._enum(expected, "provenance", "PROVENANCE_")
    if parts and provenance != "unspecified":
        spread = kinds.optional(expected, "relative_uncertainty")
        parts.append(f"figures {provenance}" + (f", ± {spread * 100:.0f}%" if spread is not None else ""))
    return f"Expected: {', '.join(parts)}" if parts else ""


def describe_node(status: Any) -> list[str]:
    """A node in full, with its devices."""
    node = status.node
    lines = pairs(
        [
            ("Name", node.name),
            ("State", kinds._node_state(status)),
            ("Reason", node.cordon_reason),
            ("Pool", node.pool),
            ("Topology", ", ".join(f"{level}={node.topology[level]}" for level in sorted(node.topology))),
            ("Labels", ", ".join(f"{key}={node.labels[key]}" for key in sorted(node.labels))),
            ("Taints", ", ".join(
                f"{one.key}{f'={one.value}' if one.value else ''}:{one.effect}" for one in node.taints
            )),
            ("Executors", ", ".join(node.executors)),
            ("CPU", f"{units.cores(status.used_cpu_milli)} claimed of {units.cores(node.cpu_milli)} cores"),
            ("CPU elsewhere", f"{units.cores(node.cpu_milli_elsewhere)} cores held outside Berth"
             if node.cpu_milli_elsewhere else ""),
            ("CPU load", units.percent(kinds.optional(status, "cpu_utilisation"))),
            ("Memory", f"{units.bytes_of(status.used_memory_bytes)} claimed of {units.bytes_of(node.memory_bytes)}"),
            ("Memory elsewhere", f"{units.bytes_of(node.memory_bytes_elsewhere)} held outside Berth"
             if node.memory_bytes_elsewhere else ""),
            ("Pods", f"{status.used_pods} claimed of {node.pod_limit}" if node.HasField("pod_limit") else ""),
            ("Pods elsewhere", f"{node.pods_elsewhere} outside Berth"
             if node.HasField("pod_limit") and node.pods_elsewhere else ""),
            ("Memory used", units.bytes_of(kinds.optional(status, "memory_used_bytes"))),
            ("Power", units.watts(kinds.optional(status, "power_watts"))),
            ("Power cap", units.watts(node.power_cap_watts or None)),
            ("Telemetry", "none expected" if node.telemetry_exempt
             else f"{units.duration(kinds.optional(status, 'age_seconds'))} old"),
            ("Boot", node.boot_id),
        ]
    )  # fmt: skip
    columns = [column for column in kinds.DEVICE.columns if column.title not in ("NODE", "HEARD", "STACK")]
    rows = [[column.text(device) for column in columns] for device in status.devices]
    if rows:
        titles = [column.title for column in columns]
        table = render_table(titles, rows, right=[column.right for column in columns])
        lines += ["Devices:", *indented(table)]
    return lines


def describe_queue(queue: Any) -> list[str]:
    """A queue in full."""
    lines = pairs(
        [
            ("Name", queue.name),
            ("Parent", queue.parent),
            ("Weight", f"{queue.weight:g}"),
            ("Tenants", ", ".join(queue.tenants) or "any"),
            ("Device limit", str(queue.device_limit or "none")),
            ("Owns", kinds.quota_text(queue).replace(",", ", ") if queue.quotas else "nothing in particular"),
            (
                "Takes back",
                kinds._enum(queue, "reclaim", "RECLAIM_").replace("unspecified", "any") if queue.quotas else "",
            ),
            ("Protected run time", units.duration(queue.protected_seconds) if queue.protected_seconds else ""),
            ("Share", f"{queue.share:.2f}"),
            ("Borrowed", f"{queue.devices_borrowed:g}" if queue.quotas else ""),
            ("Pending jobs", str(queue.pending_jobs)),
            ("Running jobs", str(queue.running_jobs)),
            ("Devices in use", f"{queue.devices_in_use:g}"),
        ]
    )
    if queue.quota_use:
        titles = ("ACCELERATOR", "OWNS", "USED", "BORROWED", "LENT", "BORROWABLE")
        rows = [
            [
                one.accelerator or "any",
                *(f"{amount:g}" for amount in (one.owned, one.used, one.borrowed, one.lent, one.borrowable)),
            ]
            for one in queue.quota_use
        ]
        lines += ["Quotas:", *indented(render_table(titles, rows, right=[False, *[True] * 5]))]
    return lines
