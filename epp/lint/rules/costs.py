"""Traps of what a request costs, counted in tokens."""

import re
from collections.abc import Iterator

from epp.compiler.findings import Severity
from epp.compiler.node import Node
from epp.lint.rule import Trap, rule
from epp.lint.view import Object, View

_COUNTS = frozenset(
    {
        *("input_tokens", "cached_input_tokens", "cache_creation_input_tokens"),
        *("output_tokens", "reasoning_tokens", "total_tokens"),
    }
)
"""Whole numbers without a sign, which is a type of its own in CEL."""
_NAMES = _COUNTS | {"model", "backend", "route_name"}
_WORDS = frozenset(
    {"true", "false", "null", "in", "int", "uint", "double", "string", "bool", "bytes", "list", "map", "type"}
)
_TEXT = re.compile(r"[rRbB]{0,2}\"(?:[^\"\\\n]|\\.)*\"|[rRbB]{0,2}'(?:[^'\\\n]|\\.)*'")
_COMMENT = re.compile(r"//[^\n]*")
_NUMBER = r"(?:\d+\.\d+|\d+)(?![\w.])"
_COUNT = rf"\b(?:{'|'.join(sorted(_COUNTS))})\b"
_MIXED = re.compile(
    rf"(?<![\w.)\]]){_COUNT}\s*[-+*/%]\s*{_NUMBER}|(?<![\w.)\]]){_NUMBER}\s*[-+*/%]\s*{_COUNT}(?!\s*[.\[(])"
)
_BY_COUNT = re.compile(rf"[/%]\s*{_COUNT}")
_BRACKETS = {")": "(", "]": "[", "}": "{"}


@rule(Severity.ERROR, "a cost expression that the gateway cannot read")
def cost_not_readable(view: View) -> Iterator[Trap]:
    """One wrong expression of llmRequestCosts keeps the whole Gateway's configuration as it was.

    The API server takes any text. The controller reads it, tries it with counts of zero, and where that
    fails writes the filter's configuration for none of the Gateway's routes any more: new models stay
    unknown, and nothing says so but its log. Counts are unsigned: input_tokens * 2 is an error, and
    input_tokens * 2u is none. Told are names that there are not, brackets that do not match, counts beside
    numbers of another type, and divisions by a count; not all that CEL refuses.
    """
    for one, cost in _costs(view):
        if cost["type"].text == "CEL":
            why = _fault(cost["cel"].text)
            if why:
                yield Trap(
                    one,
                    cost["cel"],
                    f"{why}: no route of its Gateway gets any change",
                    "an expression as in input_tokens + output_tokens * 4u",
                )


def _costs(view: View) -> Iterator[tuple[Object, Node]]:
    for kind, key in (("AIGatewayRoute", "llmRequestCosts"), ("GatewayConfig", "globalLLMRequestCosts")):
        for one in view.of(kind):
            for cost in one.spec[key]:
                yield one, cost


def _fault(written: str) -> str:
    """What is certainly wrong with an expression; empty: nothing is."""
    if not written.strip():
        return "there is no expression"
    if '"""' in written or "'''" in written:
        return ""
    text = _COMMENT.sub("", _TEXT.sub('""', written))
    if not _closes(text):
        return "a bracket or a text is not closed, or closes nothing"
    mixed = _MIXED.search(text)
    if mixed:
        return f"{mixed[0]!r} mixes a count, which has no sign, with a number of another type"
    unknown = [] if re.search(r"\.\s*(all|exists|exists_one|map|filter)\s*\(", text) else _unknown(text)
    if unknown:
        return f"there is no {unknown[0]!r}"
    if _BY_COUNT.search(text) and not re.search(r"[?&|]", text):
        return "it divides by a count, which is 0 when it is tried"
    return ""


def _closes(text: str) -> bool:
    waiting = []
    for sign in text.replace('""', ""):
        if sign in "\"'":
            return False
        if sign in _BRACKETS.values():
            waiting.append(sign)
        elif sign in _BRACKETS and (not waiting or waiting.pop() != _BRACKETS[sign]):
            return False
    return not waiting


def _unknown(text: str) -> list[str]:
    """Names that are neither figures, nor functions, nor fields of something."""
    words = re.finditer(r"(?<![\w.])[A-Za-z_]\w*\b(?!\s*\()", text)
    return [one[0] for one in words if one[0] not in _NAMES | _WORDS]
