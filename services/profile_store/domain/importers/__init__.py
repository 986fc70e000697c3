"""Readers of benchmark formats: bytes in, unvalidated profiles and what was left out.

One module a format. To add one, write its reader and its line in FORMATS.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from berth.errors import FieldError, InvalidInput
from profile_store.domain.importers.document import NO_HINTS, Hints, Imported
from profile_store.domain.importers.gavel import read_gavel
from profile_store.domain.importers.genai_perf import read_aiperf, read_genai_perf
from profile_store.domain.importers.mlperf import read_mlperf
from profile_store.domain.importers.nsight import read_nsight_compute, read_nsight_systems
from profile_store.domain.importers.own import read_csv, read_own
from profile_store.domain.importers.perf_analyzer import read_perf_analyzer
from profile_store.domain.importers.splitwise import read_splitwise
from profile_store.domain.importers.torch_trace import read_torch_trace
from profile_store.domain.importers.vllm import read_vllm
from profile_store.domain.importers.vtune import read_vtune
from profile_store.domain.importers.zeus import read_zeus
from profile_store.domain.validation import encodable

__all__ = ["FORMATS", "LARGEST", "Format", "Hints", "Imported", "detect", "read", "unpacked"]

HEAD = 64 * 1024
# Lines before a table's header: what a tool says first.
HEADER_WITHIN = 200
# A trace of a few steps has some 100 MB; more than this does not fit beside the other calls.
LARGEST = 512 * 1024 * 1024
GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Format:
    """All `signs`, regular expressions without repetitions of repetitions, are found in the head of every such
    document, or a line of it names all `columns`; and no format that comes before has these."""

    read: Callable[[bytes, str, Hints], Imported]
    signs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def knows(self, head: str) -> bool:
        if not self.columns:
            return all(re.search(sign, head) for sign in self.signs)
        return any(set(self.columns) <= _cells(line) for line in head.splitlines()[:HEADER_WITHIN])


def _cells(line: str) -> set[str]:
    return {cell.strip().strip('"') for cell in line.split(max(",;\t", key=line.count))}


# In the order in which they are tried.
FORMATS: Mapping[str, Format] = {
    "mlperf": Format(read_mlperf, (r"\A\s*\[", '"Performance_Result"|"UsedModel"')),
    "torch": Format(read_torch_trace, (r"\A\s*\{", '"traceEvents"')),
    "aiperf": Format(read_aiperf, (r"\A\s*\{", r'"request_throughput"\s*:\s*\{', '"aiperf_version"')),
    "genai-perf": Format(read_genai_perf, (r"\A\s*\{", r'"request_throughput"\s*:\s*\{')),
    "vllm": Format(read_vllm, (r"\A\s*[\[{]", r'"output_throughput"\s*:\s*[-\d"]', '"completed"')),
    "gavel": Format(read_gavel, (r"\A\s*\{", r"\"\('[^\"]*', \d+\)\"\s*:")),
    "splitwise": Format(read_splitwise, columns=("prompt_size", "token_size", "tensor_parallel", "e2e_time")),
    "zeus": Format(read_zeus, columns=("power_limit", "time_per_epoch", "average_power")),
    "perf-analyzer": Format(read_perf_analyzer, columns=("Inferences/Second", "p99 latency")),
    "nsight-compute": Format(read_nsight_compute, columns=("Kernel Name", "Metric Name", "Metric Value")),
    "nsight-systems": Format(read_nsight_systems, (r"(?m)^\W*Time[^,;\t\n]*[,;\t]\W*Total Time", "Instances")),
    "vtune": Format(read_vtune, (r"(?m)^\W*(Source )?Function[^,;\t\n]*[,;\t]", "CPU Time")),
    "csv": Format(read_csv, columns=("workload", "accelerator")),
    "yaml": Format(read_own, (r"(?m)^workloads:",)),
}


def detect(content: bytes) -> str:
    """The format's name. Raises InvalidInput where no format knows the document as its own."""
    head = content[:HEAD].decode("utf-8", "replace").removeprefix("\ufeff")
    for name, format in FORMATS.items():
        if format.knows(head):
            return name
    raise InvalidInput.of("format", head[:40].strip(), f"not recognised: name one of {', '.join(FORMATS)}")


def read(format: str, content: bytes, source: str, hints: Hints = NO_HINTS) -> Imported:
    """All profiles of a document, or InvalidInput: never some of them."""
    reader = FORMATS.get(format.strip().casefold())
    if reader is None:
        raise InvalidInput.of("format", format, f"one of {', '.join(FORMATS)}")
    if not content.strip():
        raise InvalidInput.of("content", "", f"is empty: send a file of the format {format}")
    try:
        return reader.read(content, source.strip() or f"imported from {format}", hints)
    except InvalidInput as error:
        raise InvalidInput(
            [FieldError(encodable(one.field), encodable(one.value), one.remedy) for one in error.errors]
        ) from error


def unpacked(content: bytes) -> bytes:
    """The document out of its gzip, where it is in one."""
    if not content.startswith(GZIP):
        return content
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(content, LARGEST)
    except zlib.error as error:
        raise InvalidInput.of("content", repr(content[:4]), f"a broken gzip file: {error}") from error
    if unpacker.unconsumed_tail or len(plain) >= LARGEST:
        raise InvalidInput.of("content", f"over {LARGEST} bytes", "too large when unpacked: record fewer steps")
    if not unpacker.eof:
        raise InvalidInput.of("content", repr(content[:4]), "the gzip file is cut off: copy it again")
    return plain
