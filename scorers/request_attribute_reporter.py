"""``request-attribute-reporter``: tells the gateway what a request has cost, by an expression."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from epp.core.scoring import CelError, Expression, Kind, Usage, compile_expression, whole_number

USAGE: Mapping[str, Any] = {
    "usage": {
        "prompt_tokens": 1.0,
        "completion_tokens": 1.0,
        "total_tokens": 2.0,
        "prompt_tokens_details": {"cached_tokens": 1.0},
    }
}
"""What an expression may speak of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeKey:
    """Where the gateway finds a value."""

    name: str
    """The key of the value."""
    namespace: str = "envoy.lb"
    """The namespace of the gateway's dynamic metadata."""

    def __post_init__(self) -> None:
        for name in ("name", "namespace"):
            if not getattr(self, name):
                raise ValueError(f"{name}: must not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One value to be reported."""

    key: AttributeKey
    """Where the gateway finds it."""
    expression: str
    """What it is: CEL over ``usage``."""
    condition: str = ""
    """When it is reported: CEL that is true or false; empty: always."""
    value: Expression = field(init=False, repr=False, compare=False)
    holds: Expression | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.expression:
            raise ValueError("expression: must not be empty")
        value = _read("expression", self.expression)
        holds = _read("condition", self.condition) if self.condition else None
        for name, read, wanted in (("expression", value, (int, float)), ("condition", holds, (bool,))):
            try:
                example = read.value(USAGE) if read else wanted[0]()
            except CelError as error:
                raise ValueError(f"{name}: has no value: {error}") from None
            if not isinstance(example, wanted) or (isinstance(example, bool) and bool not in wanted):
                what = "a number" if name == "expression" else "true or false"
                raise ValueError(f"{name}: must be {what}, is {example!r}")
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "holds", holds)

    def of(self, usage: Mapping[str, Any]) -> int | None:
        """The value for this usage; None: nothing to be reported."""
        try:
            if self.holds is not None and self.holds.value(usage) is not True:
                return None
            return whole_number(self.value.value(usage))
        except CelError:
            return None


def _read(name: str, text: str) -> Expression:
    try:
        return compile_expression(text, USAGE)
    except CelError as error:
        raise ValueError(f"{name}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAttributeReporter:
    """Tell the gateway, at the end of each response, values made of what the server counted.

    In:     ``usage.prompt_tokens``, ``usage.completion_tokens``, ``usage.total_tokens`` and
            ``usage.prompt_tokens_details.cached_tokens``, as far as the response tells them.
    Out:    dynamic metadata on the last answer: the value of each ``expression`` without its fraction.
            Nothing where its ``condition`` does not hold, or a figure that it needs is not known.
    Language: a part of CEL: numbers, ``+ - * / %``, comparisons, ``&& || !``, ``c ? x : y``, ``has()``,
            ``int()``, ``double()``; anything else is refused at the start.
    Better: several attributes; a mistake is found at the start; what is not known is not reported as 0.
    Lacks:  CEL beyond this part.
    Source: upstream ``request-attribute-reporter``, which takes one attribute, and reports 0 where the
            response tells no usage.
    """

    attributes: tuple[Attribute, ...]
    """The values, at least one."""

    kind: ClassVar[Kind] = Kind.REPORTER

    def __post_init__(self) -> None:
        if not self.attributes:
            raise ValueError("attributes: must name at least one")
        keys = [(each.key.namespace, each.key.name) for each in self.attributes]
        for namespace, name in keys:
            if keys.count((namespace, name)) > 1:
                raise ValueError(f'attributes: "{name}" of {namespace} is there twice')

    def report(self, usage: Usage | None) -> Mapping[str, Mapping[str, float]]:
        """What is to be told, by namespace and name."""
        told: dict[str, dict[str, float]] = {}
        figures = _figures(usage) if usage is not None else None
        for each in self.attributes if figures is not None else ():
            value = each.of({"usage": figures})
            if value is not None:
                told.setdefault(each.key.namespace, {})[each.key.name] = value
        return told


def _figures(usage: Usage) -> Mapping[str, Any]:
    """As the expressions see it: what is unknown is not there."""
    counts = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    found: dict[str, Any] = {name: float(count) for name, count in counts.items() if count is not None}
    if usage.cached_tokens is not None:
        found["prompt_tokens_details"] = {"cached_tokens": float(usage.cached_tokens)}
    return found
