"""Whole numbers that a program makes before it runs, and how often a loop turns by them."""

import math
from collections.abc import Mapping
from dataclasses import replace

from berth.models.program import Graph, Node

__all__ = ["chosen", "folded", "turns", "unchanged"]


def unchanged(node: Node) -> list[int]:
    """Positions of a loop's state that no turn changes."""
    if node.operation != "while" or len(node.graphs) != 2:
        return []
    body = node.graphs[1]
    return [at for at, (given, made) in enumerate(zip(body.inputs, body.outputs, strict=True)) if given == made]


def chosen(node: Node, number: int) -> Node:
    """A `case` of which only that arm is left; a number out of range takes the last one."""
    if not node.graphs:
        return node
    return replace(node, graphs=(node.graphs[number if 0 <= number < len(node.graphs) else -1],))


def folded(node: Node, numbers: Mapping[int, int]) -> int | None:
    """The whole number that the node makes; None where it is none or not known before it runs."""
    if node.operation == "constant":
        return node.constant
    if node.operation == "case" and len(node.graphs) == 1 and node.graphs[0].outputs:
        # As jax numbers the platforms of a function within another anew.
        known_there = dict(numbers)
        for one in node.graphs[0].nodes:
            if len(node.results) == 1 and (number := folded(one, known_there)) is not None:
                known_there[one.results[0]] = number
        return known_there.get(node.graphs[0].outputs[0])
    given = [numbers.get(one) for one in node.operands]
    if not given or any(one is None for one in given):
        return None
    known = [one for one in given if one is not None]
    if node.operation in ("convert", "reshape", "optimization_barrier") and len(known) == 1:
        return known[0]
    if len(known) != 2:
        return None
    left, right = known
    match node.operation:
        case "add":
            return left + right
        case "subtract":
            return left - right
        case "multiply":
            return left * right
        case "maximum":
            return max(left, right)
        case "minimum":
            return min(left, right)
    return None


def turns(node: Node, numbers: Mapping[int, int]) -> int | None:
    """How often a loop turns; None where the program decides it as it runs."""
    if len(node.graphs) != 2:
        return None
    condition, body = node.graphs
    start = {
        one: numbers[given] for one, given in zip(condition.inputs, node.operands, strict=True) if given in numbers
    }
    kept = {condition.inputs[at] for at in unchanged(node)}
    inside = {**numbers, **{one: value for one, value in start.items() if one in kept}}
    makers = {node.results[0]: node for node in condition.nodes if node.results}
    for one in condition.nodes:
        if (number := folded(one, inside)) is not None:
            inside[one.results[0]] = number
    test = makers.get(condition.outputs[0]) if condition.outputs else None
    if test is None or test.operation != "compare":
        return None
    left, right = test.operands
    direction = test.direction
    if right in condition.inputs and left in inside:
        left, right = right, left
        direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction)
    if left not in start or left in kept or right not in inside:
        return None
    step = _step(body, condition.inputs.index(left), numbers)
    if step is None:
        return None
    return _count(start[left], inside[right], step, direction)


def _step(body: Graph, at: int, numbers: Mapping[int, int]) -> int | None:
    """By how much a turn moves the counter."""
    counter, made = body.inputs[at], body.outputs[at]
    inside = dict(numbers)
    makers: dict[int, Node] = {}
    for node in body.nodes:
        if (number := folded(node, inside)) is not None:
            inside[node.results[0]] = number
        makers.update(dict.fromkeys(node.results, node))
    last = makers.get(made)
    if last is None or last.operation not in ("add", "subtract") or counter not in last.operands:
        return None
    left, right = last.operands
    if last.operation == "subtract":
        return -inside[right] if left == counter and right in inside else None
    other = right if left == counter else left
    return inside.get(other)


def _count(start: int, bound: int, step: int, direction: str) -> int | None:
    if direction in ("LE", "GE"):
        bound += 1 if direction == "LE" else -1
    elif direction == "NE":
        return (
            (bound - start) // step if step and (bound - start) % step == 0 and (bound - start) // step >= 0 else None
        )
    elif direction not in ("LT", "GT"):
        return None
    rising = direction in ("LT", "LE")
    if (rising and start >= bound) or (not rising and start <= bound):
        return 0
    if step == 0 or (step > 0) != rising:
        return None
    return (
        math.ceil(abs(bound - start) / abs(step)) if abs(bound - start) < 2**50 else -(-abs(bound - start) // abs(step))
    )
