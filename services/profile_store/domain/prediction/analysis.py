"""What a caller says of a program, before anything is predicted from it."""

import difflib
import math
from dataclasses import replace

from berth.errors import FieldError, InvalidInput
from profile_store.domain.prediction.question import Question
from profile_store.domain.prediction.roofline import PRECISIONS
from profile_store.domain.validation import SUM_TOLERANCE

__all__ = ["checked"]

MOST = {"operations": 1e30, "bytes_moved": 1e24, "memory_bytes": 1e14}


def checked(question: Question) -> Question:
    """The question with its precision, where it was left to the analysis: that of most operations.

    Raises InvalidInput that names each field which cannot be true.
    """
    work = question.work
    if work is None:
        return question
    errors = []
    for field, most in MOST.items():
        value = getattr(work, field)
        if value is not None and not (math.isfinite(value) and 0 < value <= most):
            remedy = f"a number above 0 up to {most:g}; leave it out where it is unknown"
            errors.append(FieldError(f"analysis.{field}", str(value), remedy))
    if work.operations is None and work.bytes_moved is None:
        errors.append(FieldError("analysis.operations", "absent", "give operations, bytes_moved or both"))
    for name, value in work.by_precision.items():
        field = f"analysis.operations_by_precision[{name}]"
        if name.strip().casefold() not in PRECISIONS:
            errors.append(FieldError(field, name, _known(name)))
        elif not (math.isfinite(value) and 0 <= value <= MOST["operations"]):
            errors.append(FieldError(field, str(value), "a number from 0"))
    total = sum(value for value in work.by_precision.values() if math.isfinite(value))
    if work.operations is not None and work.operations > 0 and total > work.operations * SUM_TOLERANCE:
        errors.append(
            FieldError("analysis.operations_by_precision", f"{total:g}", f"at most all operations, {work.operations:g}")
        )
    if question.precision and question.precision not in PRECISIONS:
        errors.append(FieldError("precision", question.precision, _known(question.precision)))
    if errors:
        raise InvalidInput(errors)
    shares = {name.strip().casefold(): value for name, value in work.by_precision.items() if value > 0}
    main = max(sorted(shares), key=lambda name: shares[name], default="")
    rest = (work.operations or 0.0) - total
    precision = question.precision or main
    if shares and rest > total * (SUM_TOLERANCE - 1):
        # What was not told apart is as most is.
        shares[precision] = shares.get(precision, 0.0) + rest
    operations = work.operations if work.operations is not None else total or None
    work = replace(work, operations=operations, by_precision=shares, batch_size=question.batch_size or work.batch_size)
    return replace(question, work=work, precision=precision)


def _known(name: str) -> str:
    near = difflib.get_close_matches(name.strip().casefold(), PRECISIONS, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return f"{hint}known are {', '.join(PRECISIONS)}"
