"""`python -m berth.models.portable SOURCE PLATFORM`: the StableHLO on standard input as an artefact of jax.export for
one platform, as JSON. `portable_of` asks for it.

A bare module says what it computes and not how it is called. The wrapping comes from jax.export itself: a function of
the same inputs and outputs is exported, and the module takes the place of its program. So whoever serves artefacts of
jax.export serves it. Each argument of `main` is an input; it runs on one device.
"""

import base64
import binascii
import dataclasses
import json
import sys
from typing import Any

from berth.errors import InvalidInput
from berth.models.artefact import Artefact, Tensor
from berth.models.artefact_file import answer_of
from berth.models.formats import read
from berth.models.missing import need
from berth.models.reading import limited
from berth.models.stablehlo import parse_module

__all__ = ["portable_of"]

_ONE_DEVICE = ("mhlo.num_partitions", "mhlo.num_replicas")


def portable_of(content: bytes, source: str, platform: str) -> bytes:
    """`platform`: as jax names it. Blocks for some seconds: another process reads it. Raises InvalidInput."""
    answer = answer_of("berth.models.portable", (source, platform), content, source)
    try:
        return base64.b64decode(answer["artefact"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise RuntimeError(f"the reader of models answered {str(answer)[:200]}") from error


def _wrapped(content: bytes, source: str, platform: str) -> bytes:
    """Raises InvalidInput."""
    artefact = read(content, "model", source)
    _check(artefact)
    jax, jax_export, mlir = need("jax"), need("jax.export"), need("jax.extend.mlir")
    stablehlo = need("jaxlib.mlir.dialects.stablehlo")
    with parse_module(content, source) as module:
        for name in _ONE_DEVICE:
            if name in module.operation.attributes and (many := int(module.operation.attributes[name].value)) > 1:
                raise InvalidInput.of(name, many, "a program of several devices is not served: export it for one")
        try:
            program = bytes(mlir.serialize_portable_artifact(module, stablehlo.get_current_version()))
        except Exception as error:
            line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            remedy = (
                "it holds what is no StableHLO: lower it to StableHLO alone, or export the function with jax.export"
            )
            raise InvalidInput.of("file", f"{source}: {line[:200]}", remedy) from error
    results = [_shape(jax, one) for one in artefact.outputs]

    def stands_in(*_: Any) -> list[Any]:
        return [jax.numpy.zeros(one.shape, one.dtype) for one in results]

    # Wide numbers stay wide: jax would make them narrow.
    with jax.enable_x64(True):
        like = jax_export.export(jax.jit(stands_in, keep_unused=True), platforms=(platform,))(
            *(_shape(jax, one) for one in artefact.inputs)
        )
        whole = dataclasses.replace(like, fun_name="main", mlir_module_serialized=program)
        # Whether inputs and program agree is found out here, and not by the server.
        jax_export.export(jax.jit(whole.call), platforms=(platform,))(*like.in_avals)
    return bytes(whole.serialize())


def _check(artefact: Artefact) -> None:
    if artefact.format != "stablehlo":
        raise InvalidInput.of("file", artefact.format, "it is no StableHLO")
    free = [one.name for one in (*artefact.inputs, *artefact.outputs) if None in one.shape]
    if free:
        raise InvalidInput.of("shape", ", ".join(free), "a free dimension: write the sizes into the program")


def _shape(jax: Any, one: Tensor) -> Any:
    return jax.ShapeDtypeStruct(one.shape, one.dtype)


def main() -> None:
    source, platform = sys.argv[1:3]

    def work(content: bytes) -> dict[str, Any]:
        return {"artefact": base64.b64encode(_wrapped(content, source, platform)).decode()}

    sys.stdout.write(json.dumps(limited(work, source)))


if __name__ == "__main__":
    main()
