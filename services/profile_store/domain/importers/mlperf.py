"""MLPerf inference results (summary_results.json of mlcommons/inference_results_v*): one object a result.

Taken: closed division, one kind of accelerator. A workload is model and scenario ("llama2-70b-99-offline"), because
each scenario asks for something else: Offline the most throughput, Server and Interactive throughput within latency
limits, SingleStream the 90th percentile and MultiStream the 99th of latency. Results of several submitters in one
configuration are joined: median and spread. Power is of the whole system, so only energy a unit is kept.
"""

import re
from collections.abc import Mapping
from typing import Any

from berth.errors import InvalidInput
from profile_store.domain.importers.document import NO_HINTS, Hints, Imported, LeftOut, joined, json_of, number_at
from profile_store.domain.profile import Profile, ProfileKey, Provenance
from profile_store.domain.validation import MAX_NAME

__all__ = ["read_mlperf"]

UNITS = {"tokens/s": "tokens/s", "samples/s": "samples/s", "queries/s": "queries/s"}
LATENCY = {"SingleStream": "latency_p90_seconds", "MultiStream": "latency_p99_seconds"}
WIDTHS = re.compile(r"mxfp4|nvfp4|fp4|fp8|fp16|bf16|fp32|uint8|int8|uint4|int4")
NEEDED = ("Model", "Scenario", "Accelerator", "a#", "Nodes", "Performance_Result", "Performance_Units")


def read_mlperf(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    """Raises InvalidInput where it is no such list or a result of it is broken."""
    rows = json_of(content)
    if not isinstance(rows, list) or not rows:
        raise InvalidInput.of("content", repr(rows)[:60], "a list of results was expected")
    left, found = LeftOut(), []
    for number, row in enumerate(rows):
        path = f"[{number}]"
        if not isinstance(row, dict) or any(key not in row for key in NEEDED):
            missing = next((key for key in NEEDED if not isinstance(row, dict) or key not in row), "")
            raise InvalidInput.of(f"{path}.{missing}", "absent", "not a result of an MLPerf summary")
        reason = _left_out(row)
        if reason:
            left.add(reason)
        else:
            found.append(_profile(path, row, source))
    profiles = joined(found)
    if not profiles:
        raise InvalidInput.of("content", f"{len(rows)} results", f"none can be kept: {left.sentences('results')[0]}")
    several = sum(one.samples > 1 for one in profiles)
    remark = f"{len(found)} results are {len(profiles)} configurations; {several} of these are medians of several"
    return Imported(profiles, left.sentences("results"), (remark,), public=True)


def _left_out(row: Mapping[str, Any]) -> str:
    if row.get("Category", "closed") != "closed":
        return "open division: the model was altered, so its speed compares with nothing"
    if row.get("errors"):
        return "marked with errors by the checker"
    if not row["Accelerator"]:
        return "no accelerator: the processor alone, which the catalogue does not tell apart"
    if "(x" in str(row["Accelerator"]):
        return "several kinds of accelerator in one system"
    return ""


def _profile(path: str, row: Mapping[str, Any], source: str) -> Profile:
    value = number_at(f"{path}.Performance_Result", row["Performance_Result"])
    scenario, unit = str(row["Scenario"]), str(row["Performance_Units"])
    fields: dict[str, Any] = {}
    if unit.casefold() in UNITS:
        fields = {"throughput": value, "throughput_unit": UNITS[unit.casefold()]}
        if row.get("Power_Units") == "Watts" and value > 0:
            watts = number_at(f"{path}.Power_Result", row.get("Power_Result"))
            fields["energy_joules_per_unit"] = watts / value
    elif unit == "Latency (ms)" and scenario in LATENCY:
        fields = {LATENCY[scenario]: value / 1000}
    else:
        raise InvalidInput.of(f"{path}.Performance_Units", unit, "Tokens/s, Samples/s, Queries/s or Latency (ms)")
    devices = number_at(f"{path}.a#", row["a#"]) * number_at(f"{path}.Nodes", row["Nodes"])
    return Profile(
        key=ProfileKey(f"{row['Model']}-{scenario.lower()}", str(row["Accelerator"]), int(devices)),
        provenance=Provenance.MEASURED,
        source=f"MLPerf inference {row['version']}" if row.get("version") else source,
        task="inference",
        model=str(row["Model"]),
        precision=_precision(str(row.get("weight_data_types", ""))),
        software_stack=" ".join(str(row.get("Software", "")).split())[:MAX_NAME],
        **fields,
    )


def _precision(text: str) -> str:
    """ "fp8"; "mixed" where the parts of the model have several; "" where unset."""
    found = sorted(set(WIDTHS.findall(text.casefold())))
    return found[0] if len(found) == 1 else "mixed" if found else ""
