"""A fleet file, for people without LLMKube: a site's models, their servers, and who may ask for what.

Place:   identity.py says which it is, file.py is its shape, declared.py reads what it declares into a site
         (site.py), choices.py follows references, rules.py and policies.py make the intent's rules of it.
Ignores: which file it came from: a Fleet that is read from a cluster would be read the same.
Rule:    a fault in one model leaves the others live.
Source:  docs/fleet-file.md.
"""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import replace

from epp.compiler.documents import Document, Documents
from epp.compiler.findings import Finding
from epp.compiler.inputs import Reading
from epp.compiler.inputs.fleet import identity, policies
from epp.compiler.inputs.fleet.declared import complain, declare
from epp.compiler.inputs.fleet.file import CLASS_HEADER, KIND, FleetFile
from epp.compiler.inputs.fleet.rules import rules
from epp.compiler.inputs.fleet.site import Site, invalid
from epp.compiler.intent import Condition, GatewayRef, Objective, Router, Rule
from epp.compiler.memory import Call, plainly
from epp.compiler.node import Node
from epp.compiler.options import Options
from epp.config import decode
from epp.config.decode import ConfigError, Section

__all__ = ["read"]


def read(documents: Documents, options: Options, call: Call = plainly) -> Reading:
    """One router for each fleet."""
    routers: list[Router] = []
    objectives: list[Objective] = []
    findings: list[Finding] = []
    others = (one for one in documents if not identity.is_fleet(one))
    findings += [fault for one in others for fault in identity.faults(one)]
    faulty: list[Router] = []
    for document in documents.of(KIND, identity.GROUP):
        reading = call(_read, document, options)
        routers += reading.routers
        objectives += reading.objectives
        findings += reading.findings
        if not reading.routers:
            faulty += _faulty(document, options)
    return Reading(tuple(routers), tuple(objectives), tuple(findings), tuple(faulty))


def _read(document: Document, options: Options) -> Reading:
    origin = document.origin
    unnamed = tuple(identity.faults(document))
    if unnamed:
        return Reading(findings=unnamed)
    content = {name: value for name, value in document.content.items() if name != "status"}
    file, faults = _file(decode.section(content, document.place))
    findings = [invalid(origin, one) for one in faults]
    if file is None:
        return Reading(findings=tuple(findings))
    faulty = frozenset(_field(one) for one in faults)
    site = Site(file, document.namespace or options.namespace, origin, findings=findings, faulty=faulty)
    declare(site)
    made = rules(site)
    gateway = _gateway(site, options)
    access, budgets = policies.access(site), policies.budgets(site, made)
    complain(site)
    is_wrong = any(one.is_error and not one.origin.part for one in site.findings)
    if gateway is None or is_wrong or not made:
        return Reading(findings=tuple(site.findings))
    router = Router(
        document.name,
        site.namespace,
        gateway,
        made,
        origin,
        hostnames=file.hostnames,
        budgets=budgets,
        access=access,
        audit=file.audit,
    )
    return Reading((router,), policies.objectives(site, made), tuple(site.findings))


def _faulty(document: Document, options: Options) -> Iterator[Router]:
    """What a fleet asks for that has an error as a whole, as far as it can be read: its names stay its own,
    and so do the sensitive requests for them.
    """
    file = Node(document.content)
    where, _, name = file["gateway"].text.rpartition("/")
    gateway = GatewayRef(name, where or document.namespace) if name else options.gateway
    names = (text for one in file["models"] for text in (one["name"], *one["aliases"]))
    models = tuple(dict.fromkeys(one.text for one in names if one.text))
    if gateway is None or not models:
        return
    rule = _guarded(file, Rule(document.name, (), document.origin, models=models))
    whatever = [replace(rule, models=())] if rule.is_guarded and file["defaultModel"].is_there else []
    yield Router(
        document.name,
        document.namespace,
        replace(gateway, section=file["listener"].text or gateway.section),
        (rule, *whatever),
        document.origin,
        hostnames=tuple(one.text for one in file["hostnames"] if one.text),
    )


def _guarded(file: Node, rule: Rule) -> Rule:
    """The rule as one for sensitive requests, if the file asks for that. A field that there is not may have
    been meant for it."""
    said = file["sensitive"]
    classes = tuple(one.text for one in said["classes"])
    if not said.is_there:
        return replace(rule, fail_closed=not _FIELDS.issuperset(name for name, _ in file.entries()))
    header = said["header"].text.lower() or CLASS_HEADER
    is_read = all(classes) and set(dict(said.entries())) <= {"classes", "header", "models"}
    conditions = (Condition(header, classes, ignore_case=True),) if classes and is_read else ()
    return replace(rule, conditions=conditions, fail_closed=True, sensitive=True)


_FIELDS = frozenset({*(decode.camel(one.name) for one in dataclasses.fields(FleetFile)), "status"})
_ALL_LEAN_ON = {"", "apiVersion", "kind", "metadata", "models", "backends"}
"""Fields without which everything else would be told to be wrong; the empty one: a field is missing."""


def _file(section: Section) -> tuple[FleetFile | None, list[ConfigError]]:
    """The file without the fields that have a fault, and the faults: all that is wrong is told at once."""
    faults: list[ConfigError] = []
    while True:
        try:
            return decode.read(section, FleetFile), faults
        except ConfigError as wrong:
            field = _field(wrong)
            if field or not faults:
                faults.append(wrong)
            if field in _ALL_LEAN_ON or field not in section.fields():
                return None, faults
            section = section.only({field}, others=True)


def _field(fault: ConfigError) -> str:
    """The field of the file in which it is."""
    return re.split(r"[.\[]", fault.path, maxsplit=1)[0]


def _gateway(site: Site, options: Options) -> GatewayRef | None:
    if not site.file.gateway:
        if "gateway" in site.faulty:
            return None
        if options.gateway is None:
            site.error(
                "GatewayRefMissing",
                site.origin.at("gateway"),
                "nothing says through which Gateway requests come in",
                'write "gateway: namespace/name", or give --gateway',
            )
            return None
        given = options.gateway
    else:
        where, _, name = site.file.gateway.rpartition("/")
        given = GatewayRef(name, where or site.namespace)
    return replace(given, section=site.file.listener or given.section)
