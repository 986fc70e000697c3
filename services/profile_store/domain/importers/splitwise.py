"""Splitwise's measurements (Mutinifni/splitwise-sim, data/perf_model.csv): prompt and token times of LLMs, in ms.

Speed is generated tokens a second of the whole batch, from prompt to last token. Repeats are joined. Left out: power,
which the file gives as a part of an unnamed whole, and kinds with a power cap that it does not state.
"""

from profile_store.domain.importers.document import NO_HINTS, Hints, Imported, LeftOut, joined, table_of
from profile_store.domain.importers.numbers import Numbers
from profile_store.domain.profile import Profile, ProfileKey, Provenance

__all__ = ["COLUMNS", "read_splitwise"]

COLUMNS = (
    "model", "hardware", "prompt_size", "batch_size", "token_size", "prompt_time", "token_time", "e2e_time",
    "tensor_parallel",
)  # fmt: skip
KINDS = {"a100-80gb": "A100-80-SXM", "h100-80gb": "H100-SXM"}
"""The paper's machines are DGX, so the SXM variants."""
CAPPED = "-pcap"


def read_splitwise(content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    table = table_of(content, COLUMNS)
    numbers = Numbers((row[name] for _, row in table.rows for name in COLUMNS[2:]), hints.decimal)
    left, found = LeftOut(), []
    for line, row in table.rows:
        value = {name: numbers.read(f"line {line}.{name}", row[name]) for name in COLUMNS[2:]}
        if row["hardware"].endswith(CAPPED):
            left.add(f"{row['hardware']}: the file does not say which power cap")
            continue
        seconds = value["e2e_time"] / 1000
        tokens = value["batch_size"] * value["token_size"]
        found.append(
            Profile(
                key=ProfileKey(
                    hints.workload or row["model"],
                    hints.accelerator or KINDS.get(row["hardware"], row["hardware"]),
                    int(value["tensor_parallel"]),
                ),
                provenance=Provenance.MEASURED,
                source=source,
                task="inference",
                model=row["model"],
                throughput=tokens / seconds if seconds > 0 else seconds,
                throughput_unit="tokens/s",
                latency_p50_seconds=seconds,
                first_token_p50_seconds=value["prompt_time"] / 1000,
                token_p50_seconds=value["token_time"] / 1000,
                batch_size=int(value["batch_size"]),
                tensor_parallel=int(value["tensor_parallel"]),
                input_tokens=int(value["prompt_size"]),
                output_tokens=int(value["token_size"]),
            )
        )
    profiles = joined(found)
    remark = f"{len(found)} runs are {len(profiles)} configurations; power is a part of an unnamed whole, not taken"
    return Imported(profiles, left.sentences("rows"), (remark,), public=True)
