"""One portable artefact of a JAX function: lowered by jax.export for CPU, CUDA, ROCm and TPU at once.

    export("examples/models/transformer.py:forward")                      # with example_arguments() of the module
    export("package.module:function", ["float32[8,128]", "mask=bool[8]"])

Arrays that the function closes over become constants of the program. A dimension may be a name ("float32[batch,128]"):
then it is free, and the artefact takes any size there.
"""

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from berth.errors import FieldError, InvalidInput
from berth.models.missing import need

__all__ = ["PLATFORMS", "Exported", "Input", "export", "find_function", "is_function", "parse_input"]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
MAX_ELEMENTS = 2**40
_TARGET = re.compile(r"(?P<module>[^:]+(?:\.py)?):(?P<function>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
_INPUT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<dtype>[A-Za-z][A-Za-z0-9_]*)\[(?P<shape>[^\[\]]*)\]")
_INPUT_REMEDY = "write it as float32[8,128], with name= before it where it has a name"
_DIMENSION = re.compile(r"[0-9]{1,12}|[A-Za-z_]\w{0,30}")


@dataclass(frozen=True, slots=True)
class Input:
    """`shape`: sizes, or names of free dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """`names`: of the inputs, in the order of the program's flat arguments."""

    content: bytes
    names: tuple[str, ...]


def is_function(target: str) -> bool:
    """Whether it reads as `module:function` and no such file is there."""
    return _TARGET.fullmatch(target) is not None and not Path(target).exists()


def parse_input(text: str) -> Input:
    """ "tokens=int32[4,64]". Raises InvalidInput."""
    match = _INPUT.fullmatch(text.replace(" ", ""))
    if match is None:
        raise InvalidInput.of("input", text, _INPUT_REMEDY)
    numpy, types = need("numpy"), need("ml_dtypes")
    dtype = match["dtype"]
    try:
        known = numpy.dtype(getattr(types, dtype, dtype))
    except TypeError as error:
        raise InvalidInput.of("input", text, f"{dtype!r} is no type: such as float32, bfloat16, int32") from error
    if known.kind not in "biufcV" or known.itemsize > 16 or known.name.startswith("void"):
        raise InvalidInput.of("input", text, f"{dtype!r} holds no numbers: such as float32, bfloat16, int32")
    parts = match["shape"].split(",") if match["shape"] else []
    elements = 1
    shape: list[int | str] = []
    for part in parts:
        if _DIMENSION.fullmatch(part) is None:
            raise InvalidInput.of("input", text, f"dimension {part!r}: a whole number, or a name where it is free")
        shape.append(int(part) if part.isdigit() else part)
        elements *= int(part) if part.isdigit() else 1
    if elements > MAX_ELEMENTS:
        raise InvalidInput.of("input", text, f"{elements} elements: at most {MAX_ELEMENTS}")
    return Input(match["name"] or "", known.name, tuple(shape))


def find_function(target: str) -> tuple[Callable[..., Any], Any]:
    """The function of `module:function` or `folder/file.py:function`, and its module. Raises InvalidInput."""
    match = _TARGET.fullmatch(target)
    if match is None:
        raise InvalidInput.of("function", target, "write module:function or file.py:function")
    with _search_path():
        module = _module(target, match["module"])
        found: Any = module
        for part in match["function"].split("."):
            if not hasattr(found, part):
                names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
                raise InvalidInput.of(
                    "function", target, f"{match['module']} has no {part!r}; it has {', '.join(names[:12]) or 'none'}"
                )
            found = getattr(found, part)
    if not callable(found):
        raise InvalidInput.of("function", target, f"{match['function']} is a {type(found).__name__}, not a function")
    return found, module


def export(target: str, inputs: Sequence[str] = (), platforms: Iterable[str] = PLATFORMS) -> Exported:
    """Exports `target` for its `inputs`, or for its `example_arguments`. Raises InvalidInput."""
    jax = need("jax")
    jax_export = need("jax.export")
    function, module = find_function(target)
    given = [parse_input(text) for text in inputs]
    with _search_path():
        arguments, keywords = _arguments(jax, jax_export, target, function, module, given)
        jitted = function if hasattr(function, "lower") else jax.jit(function)
        try:
            made = jax_export.export(jitted, platforms=tuple(platforms))(*arguments, **keywords)
            content = bytes(made.serialize())
        except InvalidInput:
            raise
        # Whatever the caller's own function raises while it is traced.
        except Exception as error:
            text = str(error).strip().splitlines() or [""]
            raise InvalidInput.of(
                "function", target, f"jax cannot export it: {type(error).__name__}: {text[0][:300]}"
            ) from error
    return Exported(content, _names(jax, function, arguments, keywords, given))


def _arguments(
    jax: Any, jax_export: Any, target: str, function: Any, module: Any, given: Sequence[Input]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if given:
        return _described(jax, jax_export, target, function, given)
    examples = getattr(function, "example_arguments", None) or getattr(module, "example_arguments", None)
    if examples is None:
        raise InvalidInput.of(
            "input", "none", "say the shapes, such as --input 'float32[8,128]', or give the module example_arguments()"
        )
    try:
        found = examples() if callable(examples) else examples
    except Exception as error:
        raise InvalidInput.of("example_arguments", target, f"it raised {type(error).__name__}: {error}") from error
    if isinstance(found, dict):
        return (), found
    return tuple(found) if isinstance(found, tuple | list) else (found,), {}


def _described(
    jax: Any, jax_export: Any, target: str, function: Any, given: Sequence[Input]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    scope = jax_export.SymbolicScope()
    made = []
    for one in given:
        text = ",".join(str(part) for part in one.shape)
        shape = jax_export.symbolic_shape(text, scope=scope) if text else ()
        made.append(jax.ShapeDtypeStruct(shape, one.dtype))
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return tuple(made), {}
    errors = [
        FieldError("input", one.name, f"{target} has no parameter of that name: {', '.join(parameters)}")
        for one in given
        if one.name and one.name not in parameters and not _takes_any(parameters)
    ]
    if errors:
        raise InvalidInput(errors)
    if all(one.name in parameters for one in given):
        # By name, in the function's order: what stands before must be given before.
        order = {name: position for position, name in enumerate(parameters)}
        named = sorted(zip(given, made, strict=True), key=lambda pair: order[pair[0].name])
        if [one.name for one, _ in named] == list(parameters)[: len(named)]:
            return tuple(value for _, value in named), {}
        return (), {one.name: value for one, value in named}
    return tuple(made), {}


def _takes_any(parameters: Any) -> bool:
    return any(one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in parameters.values())


def _names(jax: Any, function: Any, arguments: Any, keywords: Any, given: Sequence[Input]) -> tuple[str, ...]:
    """A name for each leaf: the parameter's, and where a parameter is a tree the path in it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path((arguments, keywords))
    if given and len(leaves) == len(given) and not keywords and all(one.name for one in given):
        by_order = {one.name for one in given}
    else:
        by_order = set()
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = []
    names: list[str] = []
    for position, (path, _) in enumerate(leaves):
        where = [re.sub(r"\W+", "_", str(part)).strip("_") for part in path[1:]]
        if where and path[0].idx == 0:
            at = int(path[1].idx)
            where[0] = parameters[at] if at < len(parameters) else f"input_{at}"
        name = "_".join(part for part in where if part) or f"input_{position}"
        names.append(name if name not in names else f"{name}_{position}")
    if by_order and not by_order <= set(names):
        return tuple(one.name for one in given)
    return tuple(names)


def _module(target: str, name: str) -> Any:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name)
        if not path.is_file():
            raise InvalidInput.of("function", target, f"{name} is not there: name a file that can be read")
        sys.path.insert(0, str(path.resolve().parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise InvalidInput.of("function", target, f"{name} is no Python module")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except InvalidInput:
        raise
    # A module runs code of its own as it is imported, which may raise anything.
    except (Exception, SystemExit) as error:
        raise InvalidInput.of("function", target, f"importing {name}: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def _search_path() -> Iterator[None]:
    """The current folder comes first, as `python -m` has it."""
    before = list(sys.path)
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path[:] = before
