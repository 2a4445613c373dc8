"""The rules of a ModelRouter, so that what is left can be tried in order by anything that compares headers.

Rule:    a value or a pattern that LLMKube's proxy can never match is left out, with a warning; where none is
         left the whole rule is, since an empty list would mean every request. What no gateway can ask is an
         error, and whatever would let sensitive requests go on to rules that are not for them.
Source:  LLMKube's router-proxy, internal/router/match.go.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from epp.compiler.inputs.llmkube import objects
from epp.compiler.inputs.llmkube.backends import SAYS_CLOUD, Choice, names_of, read_timeout
from epp.compiler.inputs.llmkube.telling import INVALID, UNSAFE, UNSUPPORTED, Told
from epp.compiler.intent import Condition, Rule, Strategy
from epp.compiler.options import Options
from epp.compiler.patterns import BadPattern, escape, regex

CLASSIFICATION = "x-llmkube-classification"
COMPLEXITY = "x-llmkube-task-complexity"
SENSITIVE = ("pii", "phi")
"""Where the router lists none of its own."""
_ONLY_HEADERS = "a gateway sees headers, not what is in a prompt"
_USE_HEADER = "write mode: header-only and let clients or a service before the gateway set the header"
_UNCLASSIFIED = "an empty value means requests without a classification, which a gateway cannot ask for"
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")


class Never(Exception):
    """No request can match; says why."""


class Rules:
    """The rules of one router, read one after the other."""

    def __init__(
        self, spec: objects.ModelRouter, choices: Mapping[str, Choice], options: Options, told: Told
    ) -> None:
        self._spec = spec
        self._choices = choices
        self._told = told
        self._model_header = options.routed_by
        self._names_none = options.target.is_envoy_ai_gateway
        self._names = {one.name for one in spec.backends or ()}
        said = (spec.policy and spec.policy.classification) or objects.Classification()
        self._mode = said.mode or "header-only"
        self._header = (said.header_key or "").strip().lower() or CLASSIFICATION
        sensitive = said.sensitive_classifications or SENSITIVE
        # to write PII here must not switch the gate off
        self._sensitive = dict.fromkeys(one.strip().lower() for one in sensitive)

    def read(self) -> tuple[Rule, ...]:
        """In their order, the default last."""
        rules: list[Rule] = []
        seen = set[str]()
        taken = {one.name for one in self._spec.rules or ()}
        self._check_classification("spec.policy.classification")
        for index, one in enumerate(self._spec.rules or ()):
            field = f"spec.rules[{index}]"
            if one.name in seen:
                self._told.error(INVALID, f"{field}.name", f"two rules are called {one.name}", "rename one")
            seen.add(one.name)
            rule = self._rule(one, field)
            if rule is not None and not self._is_late(rules, rule, field):
                rules += self._gated(rule, taken, field)
        rules += self._defaults(taken, is_reached=not any(map(_is_always, rules)))
        if not rules and not self._told.has_failed:
            what = "no rule is left, and there is no defaultRoute: all requests would get 503"
            self._told.error(INVALID, "spec", what, "add a rule, or a defaultRoute")
        return tuple(rules)

    def _is_late(self, rules: Sequence[Rule], rule: Rule, field: str) -> bool:
        first = next(filter(_is_always, rules), None)
        if first is not None and rule.sensitive and not first.fail_closed:
            self._told.error(
                UNSAFE,
                field,
                f"rule {first.name} before it takes every request, those that {rule.name} is for as well",
                f"move {rule.name} before {first.name}",
            )
        elif first is not None:
            self._told.warning(
                "RuleNeverReached",
                field,
                f"rule {first.name} before it takes every request: {rule.name} is left out",
                f"move {rule.name} before {first.name}",
            )
        return first is not None

    def _check_classification(self, field: str) -> None:
        if not _HEADER.fullmatch(self._header):
            what = f"{self._header!r} is no name of a header"
            self._told.error(INVALID, f"{field}.headerKey", what, "correct it")
        if self._header == self._model_header:
            what = f"header {self._header} is the gateway's own, for the model"
            self._told.error(UNSUPPORTED, f"{field}.headerKey", what, "let another say the classification")
        if "" in self._sensitive:
            self._told.error(UNSUPPORTED, f"{field}.sensitiveClassifications", _UNCLASSIFIED, "leave it out")

    def _gated(self, rule: Rule, taken: set[str], field: str) -> list[Rule]:
        """The rule; if it is failClosed and leads to a cloud, after one that refuses what is sensitive of its
        requests, whatever it asks for. LLMKube's proxy does so once it has chosen the rule.
        """
        if not rule.fail_closed or all(one.local for one in rule.backends):
            return [rule]
        if self._mode != "header-only":
            self._told.error(
                UNSUPPORTED,
                f"{field}.failClosed",
                f"rule {rule.name} is failClosed and leads to a cloud, so that sensitive requests are to be "
                f"refused; classification.mode is {self._mode}, and {_ONLY_HEADERS}",
                f"{_USE_HEADER} {self._header}, or take the cloud out of the rule",
            )
        sensitive = Condition(self._header, tuple(self._sensitive), ignore_case=True)
        try:
            conditions = _joined([*rule.conditions, sensitive])
        except Never:
            return [rule]
        name = _free(f"{rule.name}-gate", taken)
        gate = replace(rule, name=name, backends=(), conditions=conditions, sensitive=True)
        if self._told.has_failed:  # the same may be said already, and worse
            return [gate, rule]
        self._remark_clouds(rule, field)
        if conditions != rule.conditions:
            return [gate, rule]
        self._told.warning(
            "RuleRefusesAll",
            field,
            f"rule {rule.name} is failClosed, for sensitive requests alone, and leads to a cloud: all of "
            "them get 503",
            "name backends that are local",
        )
        return [gate]

    def _remark_clouds(self, rule: Rule, field: str) -> None:
        """LLMKube's proxy would send sensitive requests there."""
        for one in rule.backends:
            why = self._choices[one.name].why_cloud
            if why and why != SAYS_CLOUD:
                self._told.warning(
                    "CountsAsCloud",
                    f"{field}.route.backends",
                    f"rule {rule.name} is failClosed, and its sensitive requests get 503: {one.name} {why}",
                    "declare the backend local, if it is",
                )

    # --- one rule

    def _rule(self, one: objects.Rule, field: str) -> Rule | None:
        """None: it is left out, or wrong, which is told."""
        match = one.match or objects.Match()
        choices = self._route(one, field)
        timeout = read_timeout(one.timeout, f"{field}.timeout", self._told)
        sensitive = [value for value in match.data_classification or () if value.lower() in self._sensitive]
        if sensitive:
            self._check_sensitive(one, sensitive, choices, field)
        try:
            models = self._models(match, f"{field}.match.models")
            conditions = self._conditions(match, f"{field}.match")
            if choices and not _have_all(choices, match.required_capabilities or ()):
                wanted = ", ".join(match.required_capabilities or ())
                raise Never(f"none of its backends has all of the capabilities {wanted}")
        except Never as reason:
            self._never(one, reason, f"{field}.match", is_sensitive=bool(sensitive))
            return None
        if not choices:
            return None
        if "*" in models and not self._names_none:
            is_guarded = bool(one.fail_closed) or self._asks_for_sensitive(conditions)
            self._remark_nameless(one, f"{field}.match.models", is_guarded=is_guarded)
        return Rule(
            name=one.name,
            backends=tuple(choice.backend for choice in choices),
            origin=self._told.origin.at(field),
            models=models,
            conditions=conditions,
            strategy=self._strategy(one, choices, field),
            fail_closed=bool(one.fail_closed),
            sensitive=self._asks_for_sensitive(conditions),
            timeout=timeout,
        )

    def _never(self, one: objects.Rule, reason: Never, field: str, *, is_sensitive: bool) -> None:
        what = f"{reason}; requests that it was meant for go on to later rules"
        if is_sensitive:
            self._told.error(UNSAFE, field, f"rule {one.name} can never match: {what}", "correct the rule")
        else:
            self._told.warning(
                "RuleNeverMatches",
                field,
                f"rule {one.name} is left out: {what}",
                "correct the rule, or remove it",
            )

    def _remark_nameless(self, one: objects.Rule, field: str, *, is_guarded: bool) -> None:
        """LLMKube's proxy takes a request without a model for one of the pattern ``*``."""
        what = (
            f"a request that names no model has no header {self._model_header} here, which * does not fit: it"
            f" goes past rule {one.name}, to rules for any model"
        )
        if is_guarded:
            self._told.error(UNSAFE, field, f"{what}, and may be sensitive", "leave models out")
        else:
            self._told.info("NamelessRequestsGoOn", field, what, "leave models out, if it is for any request")

    def _asks_for_sensitive(self, conditions: Iterable[Condition]) -> bool:
        values = (value for one in conditions if one.header == self._header for value in one.values)
        return any(value.lower() in self._sensitive for value in values)

    def _route(self, one: objects.Rule, field: str) -> list[Choice]:
        names = (one.route and one.route.backends) or ()
        field = f"{field}.route.backends"
        if not names:
            self._told.error(INVALID, field, f"rule {one.name} leads nowhere", "name at least one backend")
        for name in dict.fromkeys(names):
            if name not in self._names:
                what = f"rule {one.name} leads to backend {name}, which is not there"
                self._told.error(INVALID, field, what, "add the backend, or correct the name")
        if len(set(names)) < len(names):
            self._told.warning(
                "BackendTwice",
                field,
                f"rule {one.name} names a backend twice; the first counts",
                "name it once",
            )
        return [self._choices[name] for name in dict.fromkeys(names) if name in self._choices]

    def _strategy(self, one: objects.Rule, choices: Sequence[Choice], field: str) -> Strategy:
        said = (one.route and one.route.strategy) or "primary-fallback"
        field = f"{field}.route.strategy"
        if said == "shadow":
            self._told.error(
                UNSUPPORTED,
                field,
                f"rule {one.name} has strategy shadow, and no gateway that we write for copies requests to a "
                "second model",
                "use primary-fallback or weighted",
            )
        if said != "weighted":
            return Strategy.FALLBACK
        if not any(choice.backend.weight for choice in choices):
            self._told.error(
                INVALID,
                field,
                f"rule {one.name} is weighted, and all of its backends have weight 0",
                "give one of them a weight",
            )
        return Strategy.WEIGHTED

    def _check_sensitive(
        self, one: objects.Rule, values: Sequence[str], choices: Sequence[Choice], field: str
    ) -> None:
        said = ", ".join(values)
        for value in values:
            if value != value.lower():
                self._told.error(
                    UNSAFE,
                    f"{field}.match.dataClassification",
                    f"value {value!r} can never match, since classifications of requests are compared in "
                    "lower case: sensitive requests go on to later rules",
                    f"write {value.lower()!r}",
                )
        if not one.fail_closed:
            self._told.error(
                UNSAFE,
                f"{field}.failClosed",
                f"rule {one.name} is for {said}, and not failClosed",
                "write failClosed: true",
            )
        for choice in choices:
            if choice.why_cloud:
                self._told.error(
                    UNSAFE,
                    f"{field}.route.backends",
                    f"rule {one.name} is for {said}, and backend {choice.backend.name} {choice.why_cloud}",
                    f"take {choice.backend.name} out of the rule, or declare it local",
                )

    # --- what a request must be

    def _models(self, match: objects.Match, field: str) -> tuple[str, ...]:
        kept = []
        for pattern in dict.fromkeys(match.models or ()):
            try:
                regex(pattern)
            except BadPattern as fault:
                self._dropped(field, f"pattern {pattern!r}", str(fault))
            else:
                kept.append(pattern)
        if match.models and not kept:
            raise Never("none of its models can match")
        return tuple(kept)

    def _conditions(self, match: objects.Match, field: str) -> tuple[Condition, ...]:
        if match.latency_slo_ms is not None:
            self._told.warning(
                "LatencySLOIgnored",
                f"{field}.latencySLOMs",
                "latencySLOMs is in LLMKube's API and nothing implements it: it has no effect, here as there",
                "leave it out; a picker chooses by predicted latency anyway",
            )
        asked = [
            *self._classification(match, f"{field}.dataClassification"),
            *_complexity(match),
            *self._headers(match, f"{field}.headers"),
        ]
        return _joined(asked)

    def _classification(self, match: objects.Match, field: str) -> list[Condition]:
        values = match.data_classification
        if not values:
            return []
        if self._mode != "header-only":
            self._told.error(
                UNSUPPORTED,
                field,
                f"classification.mode is {self._mode}, and {_ONLY_HEADERS}",
                f"{_USE_HEADER} {self._header}",
            )
        kept = []
        if not all(map(str.strip, values)):
            self._told.error(
                UNSUPPORTED,
                field,
                _UNCLASSIFIED,
                "leave it out, and let a later rule or defaultRoute take these requests",
            )
            return []
        for value in dict.fromkeys(values):
            if value.lower() in self._sensitive:
                kept.append(value.lower())
            elif value != value.lower():
                self._dropped(
                    field,
                    f"value {value!r}",
                    f"classifications of requests are compared in lower case, so write {value.lower()!r}",
                )
            else:
                kept.append(value)
        if not kept:
            raise Never("none of its classifications can match")
        return [Condition(self._header, tuple(kept), ignore_case=True)]

    def _headers(self, match: objects.Match, field: str) -> list[Condition]:
        conditions = []
        for name, value in sorted((match.headers or {}).items()):
            if not _HEADER.fullmatch(name):
                raise Never(f"{name!r} is no name of a header")
            if name.lower() == self._model_header:
                self._told.error(
                    UNSUPPORTED,
                    f"{field}.{name}",
                    f"header {name} is the gateway's own: it has the model there, whatever the client wrote",
                    "ask for the model with match.models, or for another header",
                )
            if not value.strip():
                self._told.error(
                    UNSUPPORTED,
                    f"{field}.{name}",
                    f"header {name} is to be empty, which a gateway cannot ask for",
                    "give it a value",
                )
            else:
                conditions.append(Condition(name.lower(), (value,)))
        return conditions

    def _dropped(self, field: str, what: str, why: str) -> None:
        self._told.warning(
            "ValueNeverMatches", field, f"{what} is left out, it can never match: {why}", "correct it"
        )

    # --- what no rule wanted

    def _defaults(self, taken: set[str], *, is_reached: bool) -> list[Rule]:
        rules = []
        field = "spec.defaultRoute"
        if self._spec.default_route_strategy == "BackendNameMatch":
            for choice, names in names_of(self._choices.values()):
                name = _free(f"backend-{choice.backend.name}", taken)
                models = tuple(map(escape, names))
                rules.append(Rule(name, (choice.backend,), choice.backend.origin, models=models))
        default = self._spec.default_route
        if default and default not in self._names:
            what = f"the default is backend {default}, which is not there"
            self._told.error(INVALID, field, what, "add the backend, or correct the name")
        if default and default in self._choices:
            backend = self._choices[default].backend
            origin = self._told.origin.at(field)
            rules.append(Rule(_free("default", taken), (backend,), origin, is_default=True))
        return rules if is_reached else []


def _complexity(match: objects.Match) -> list[Condition]:
    wanted = match.task_complexity
    return [Condition(COMPLEXITY, (wanted,), ignore_case=True)] if wanted else []


def _joined(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """At most one for each header."""
    found: dict[str, Condition] = {}
    for one in conditions:
        found[one.header] = _both(found[one.header], one) if one.header in found else one
    return tuple(found.values())


def _is_always(rule: Rule) -> bool:
    return not rule.models and not rule.conditions


def _have_all(choices: Sequence[Choice], wanted: Sequence[str]) -> bool:
    return any(choice.capabilities.issuperset(wanted) for choice in choices)


def _both(one: Condition, other: Condition) -> Condition:
    """What satisfies two conditions on one header."""
    plain, wide = (other, one) if one.ignore_case else (one, other)
    same = tuple(value for value in plain.values if _accepts(wide, value))
    if not same:
        raise Never(f"it asks for two different values of the header {one.header}")
    return Condition(one.header, same, plain.ignore_case)


def _accepts(condition: Condition, value: str) -> bool:
    if condition.ignore_case:
        return value.lower() in {one.lower() for one in condition.values}
    return value in condition.values


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "-x"
    taken.add(name)
    return name
