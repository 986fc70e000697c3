"""What may be measured: built-in programs in JAX, and a function of a module. jax is imported when one is made."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from berth.errors import InvalidInput

__all__ = ["BUILT_IN", "DTYPES", "Workload", "built_in", "of_function", "of_model"]

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
BUILT_IN = {"matmul": 1024, "copy": 2**24, "attention": 512}
"""Name and its size where none is given: rows, numbers, tokens."""
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
HEADS, HEAD_SIZE = 8, 64
PART_OF_MEMORY = 0.5


@dataclass(frozen=True, slots=True)
class Workload:
    """`call` does it once and waits for the end; `make` prepares that. `operations`, `bytes_moved`: of one call, None:
    unknown. One call is `units` of `unit`."""

    name: str
    precision: str
    make: Callable[[], Callable[[], object]]
    unit: str
    units: float = 1.0
    task: str = "inference"
    operations: float | None = None
    bytes_moved: float | None = None
    batch_size: int | None = None
    settings: str = ""


def built_in(name: str, size: int | None, precision: str, batch: int, available_bytes: int) -> Workload:
    """Raises InvalidInput for an unknown precision or what memory cannot hold."""
    if precision not in DTYPES:
        near = difflib.get_close_matches(precision, DTYPES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InvalidInput.of("precision", precision, f"{hint}one of {', '.join(DTYPES)}")
    if name == "attention" and precision == "int8":
        raise InvalidInput.of("precision", precision, "attention has no meaning in whole numbers: fp32, bf16 or fp16")
    n, width = size or BUILT_IN[name], BYTES[precision]
    held = {
        "matmul": 3.0 * n * n * width * batch,
        "copy": 2.0 * n * width,
        "attention": batch * HEADS * (4.0 * n * HEAD_SIZE + n * n) * width,
    }[name]
    if held > PART_OF_MEMORY * available_bytes:
        raise InvalidInput.of(
            "size", n, f"needs {held / 2**30:.3g} GiB, more than half of the {available_bytes / 2**30:.3g} GiB free"
        )
    if name == "copy":
        # One read, one write.
        return Workload("berth-copy", precision, lambda: _copy(n, precision), "steps/s", task="benchmark",
                        operations=float(n), bytes_moved=held, settings=f"size={n}")  # fmt: skip
    if name == "matmul":
        return Workload(
            f"berth-matmul-{precision}", precision, lambda: _matmul(n, batch, precision), "steps/s", task="benchmark",
            operations=2.0 * n**3 * batch, bytes_moved=held, batch_size=batch, settings=f"size={n}",
        )  # fmt: skip
    # Scores and their use; the scores stay in a fused kernel, or are moved: counted as moved once each way.
    operations = 4.0 * batch * HEADS * n * n * HEAD_SIZE
    moved = batch * HEADS * (4.0 * n * HEAD_SIZE + 2.0 * n * n) * width
    return Workload(
        "berth-attention", precision, lambda: _attention(n, batch, precision), "steps/s", task="benchmark",
        operations=operations, bytes_moved=moved, batch_size=batch, settings=f"size={n}",
    )  # fmt: skip


def _ones(shape: tuple[int, ...], precision: str, seed: int) -> Any:
    import jax

    key = jax.random.key(seed)
    if precision == "int8":
        return jax.random.randint(key, shape, -8, 8, dtype="int8")
    return jax.random.normal(key, shape, dtype=DTYPES[precision])


def _waiting(function: Callable[..., Any], *arguments: Any) -> Callable[[], object]:
    import jax

    compiled = jax.jit(function)
    wait: Callable[[Any], object] = jax.block_until_ready
    return lambda: wait(compiled(*arguments))


def _copy(n: int, precision: str) -> Callable[[], object]:
    import jax

    # Written where it was read: what a fresh result's pages cost is not the memory's speed.
    compiled = jax.jit(lambda a: a + a.dtype.type(1), donate_argnums=0)
    held = [_ones((n,), precision, 1)]
    wait: Callable[[Any], object] = jax.block_until_ready

    def call() -> None:
        held[0] = compiled(held[0])
        wait(held[0])

    return call


def _matmul(n: int, batch: int, precision: str) -> Callable[[], object]:
    import jax.numpy as jnp

    a, b = (_ones((batch, n, n), precision, seed) for seed in (1, 2))
    kind = "int32" if precision == "int8" else None
    return _waiting(lambda x, y: jnp.matmul(x, y, preferred_element_type=kind), a, b)


def _attention(n: int, batch: int, precision: str) -> Callable[[], object]:
    import jax

    q, k, v = (_ones((batch, n, HEADS, HEAD_SIZE), precision, seed) for seed in (1, 2, 3))
    return _waiting(jax.nn.dot_product_attention, q, k, v)


def of_function(target: str, name: str, precision: str, batch: int | None) -> Workload:
    """`package.module:function` or `file.py:function`, with the arguments that `example_arguments()` of its module
    gives, where there is one. Raises InvalidInput where it cannot be found."""
    module, _, function = target.rpartition(":")
    if not module or not function.isidentifier():
        raise InvalidInput.of("workload", target, "write package.module:function or file.py:function")
    try:
        loaded = _load(module)
        called = getattr(loaded, function)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise InvalidInput.of("workload", target, f"cannot be loaded: {error}") from error
    if not callable(called):
        raise InvalidInput.of("workload", target, f"{function} is no function")

    def make() -> Callable[[], object]:
        given = getattr(loaded, "example_arguments", None)
        arguments = tuple(_filled(given())) if callable(given) else ()
        try:
            return _waiting(called, *arguments) if arguments or "jax" in sys.modules else lambda: called()
        except ImportError:
            return lambda: called(*arguments)

    units = float(batch or 1)
    return Workload(name or f"{Path(module).stem.rpartition('.')[2]}-{function}", precision, make, "queries/s",
                    units=units, batch_size=batch)  # fmt: skip


def _filled(arguments: Any) -> Any:
    """Ones where an example names shape and type alone; zeros for whole numbers, which may be indices."""
    if "jax" not in sys.modules:
        return arguments
    import jax
    import jax.numpy as jnp

    def fill(one: Any) -> Any:
        if not isinstance(one, jax.ShapeDtypeStruct):
            return one
        return (jnp.ones if jnp.issubdtype(one.dtype, jnp.floating) else jnp.zeros)(one.shape, one.dtype)

    return jax.tree.map(fill, arguments)


def of_model(path: str, name: str, precision: str, batch: int | None) -> Workload:
    """A package, or the file of an artefact that jax can run. Raises InvalidInput for others."""
    from berth.models.artefact_file import open_artefact

    opened = open_artefact(path)
    # Where all sizes are fixed, `batch` only says how many are in a call.
    if batch is not None and any(None in one.shape for one in opened.artefact.inputs):
        opened = open_artefact(path, batch=batch)
    artefact, found = opened.artefact, opened.artefact.analysis
    if artefact.format != "jax-export":
        raise InvalidInput.of(
            "target", path, f"format {artefact.format} is not run here: write -- COMMAND that serves and measures it"
        )
    shares = dict(found.by_precision) if found else {}
    main = max(sorted(shares), key=lambda one: shares[one], default="")

    def make() -> Callable[[], object]:
        import jax
        import jax.export

        content = opened.content.read_bytes() if isinstance(opened.content, Path) else opened.content
        program: Any = jax.export.deserialize(bytearray(content))
        shape_of: Any = jax.ShapeDtypeStruct
        shapes = [
            shape_of(tuple((batch or 1) if size is None else size for size in one.shape), one.dtype)
            for one in artefact.inputs
        ]
        leaves = _filled(shapes)
        arguments, named = jax.tree.unflatten(program.in_tree, leaves)
        return _waiting(lambda given, more: program.call(*given, **more), arguments, named)

    return Workload(
        name or artefact.name, precision or main, make, "queries/s", units=float(batch or 1), batch_size=batch,
        operations=(found.operations or None) if found else None,
        bytes_moved=(found.bytes_moved or None) if found else None,
    )  # fmt: skip


def _load(module: str) -> Any:
    if not module.endswith(".py"):
        if "" not in sys.path:
            sys.path.insert(0, "")
        return importlib.import_module(module)
    spec = importlib.util.spec_from_file_location(Path(module).stem, module)
    if spec is None or spec.loader is None:
        raise ImportError(f"{module} is no Python file")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
