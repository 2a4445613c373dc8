"""What the controller may do in a cluster: rules made from the kinds that it reads and writes.

Used by tools/controller-rbac, which writes them into the chart, and by tests.

Rule:    a verb is granted because something in epp.controller asks for it: ``list`` and ``watch`` follow;
         ``get`` sees whose a name is, ``create`` and ``patch`` apply, ``delete`` prunes.
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from bench.rig.kube import plural
from epp.compiler.kinds import Role, kinds_of
from epp.compiler.options import Target

FILE = "deploy/helm/fleet-epp/templates/controller/_rules.tpl"
SEEN = ("list", "watch")
MADE = ("get", "list", "watch", "create", "patch", "delete")

WHY = {
    "InferenceService": "what serves which model, for whom",
    "Model": "whether it is there yet",
    "ModelRouter": "which model requests are for",
    "ModelPool": "names of several models",
    "EndpointSlice": "machines outside the cluster, of LLMKube's agent and of a fleet file",
    "GatewayClass": "which EnvoyProxy holds for a Gateway",
    "Gateway": "the gateway that routes are for, and its listeners",
    "Namespace": "labels of namespaces, by which listeners take routes",
    "ReferenceGrant": "what routes may name in other namespaces",
    "EnvoyProxy": "the order of routes, and the access log",
    "EnvoyExtensionPolicy": "processors that others put on routes",
    "Service": "Services of the pickers, with a port for each pool, and of machines outside",
    "InferencePool": "a pool for each set of servers, and the port of its picker",
    "InferenceObjective": "how urgent requests are",
    "InferenceModelRewrite": "what a model is called by its servers",
    "Backend": "addresses of servers without a picker",
    "AgentgatewayBackend": "providers, and the names of the Secrets with their keys",
    "AIServiceBackend": "in which words providers are asked",
    "BackendTLSPolicy": "how providers' certificates are verified",
    "BackendSecurityPolicy": "the names of the Secrets with providers' keys",
    "ClientTrafficPolicy": "how large a body may be, and which headers are not the client's to send",
    "SecurityPolicy": "who may ask",
    "AgentgatewayPolicy": "the model as a header, limits, and who may ask",
    "BackendTrafficPolicy": "time-outs, retries and limits",
    "AIGatewayRoute": "which model is where",
    "HTTPRoute": "which model is where",
}
"""What is in it for us, by kind."""
STATUS = "what became of it, as status.gateway and the condition GatewayReady"
EVENTS = "what is wrong with somebody's object"
WIDTH = 118

HEADER = """\
{{/* What the controller reads and writes: by tools/controller-rbac, from epp/compiler/kinds.py. */}}
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """As RBAC has it, with its reason. ``is_wide``: of kinds that are in no namespace."""

    why: str
    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    is_wide: bool = False

    def text(self) -> str:
        """As YAML."""
        group = self.group or '""'
        resources, verbs = ", ".join(self.resources), ", ".join(self.verbs)
        reason = textwrap.fill(
            f"{self.why[0].upper()}{self.why[1:]}.", WIDTH, initial_indent="# ", subsequent_indent="# "
        )
        return f"{reason}\n- apiGroups: [{group}]\n  resources: [{resources}]\n  verbs: [{verbs}]\n"


def rules(target: Target) -> list[Rule]:
    """Of the controller for this gateway."""
    kinds = kinds_of(target)
    made = {one.name for one in kinds if one.role is Role.MADE}
    together: dict[tuple[str, Role, bool], list[str]] = {}
    for one in kinds:
        if one.role is Role.MADE or one.name not in made:
            together.setdefault((one.group, one.role, one.is_wide), []).append(one.name)
    told: dict[str, list[str]] = {}
    for one in kinds:
        if one.is_told:
            told.setdefault(one.group, []).append(f"{plural(one.name)}/status")
    return [
        *(
            Rule(
                "; ".join(WHY[name] for name in names),
                group,
                tuple(map(plural, names)),
                MADE if role is Role.MADE else SEEN,
                is_wide,
            )
            for (group, role, is_wide), names in together.items()
        ),
        *(Rule(STATUS, group, tuple(names), ("patch",)) for group, names in told.items()),
        Rule(EVENTS, "", ("events",), ("create",)),
    ]


def template() -> str:
    """Of the chart: the rules of every target, those in a namespace and the others."""
    return HEADER + _define("controllerRules", is_wide=False) + _define("controllerWideRules", is_wide=True)


def _define(name: str, *, is_wide: bool) -> str:
    parts = [f'{{{{- define "fleet-epp.{name}" }}}}\n']
    for text, targets in groupby(Target, key=lambda target: _text(rules(target), is_wide=is_wide)):
        listed = " ".join(f'"{target}"' for target in targets)
        parts.append(f"{{{{- if has .Values.controller.target (list {listed}) }}}}\n{text}{{{{- end }}}}\n")
    return "".join([*parts, "{{- end }}\n"])


def _text(found: Iterable[Rule], *, is_wide: bool) -> str:
    return "".join(one.text() for one in found if one.is_wide is is_wide)
