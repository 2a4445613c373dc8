"""A fleet file, for people without LLMKube: a site's models, their servers, and who may ask for what.

Place:   file.py is its shape, declared.py reads what it declares into a site (site.py), choices.py follows
         references, rules.py and policies.py make the intent's rules of it.
Ignores: which file it came from: a Fleet that is read from a cluster would be read the same.
Rule:    a fault in one model leaves the others live.
Source:  docs/fleet-file.md.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

from epp.compiler.documents import Document, Documents
from epp.compiler.findings import Finding, error
from epp.compiler.inputs import Reading
from epp.compiler.inputs.fleet import policies
from epp.compiler.inputs.fleet.declared import complain, declare
from epp.compiler.inputs.fleet.file import API_VERSION, KIND, FleetFile, check_name
from epp.compiler.inputs.fleet.rules import rules
from epp.compiler.inputs.fleet.site import Site, invalid
from epp.compiler.intent import GatewayRef, Objective, Router, Rule
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
    group = API_VERSION.partition("/")[0]
    findings += [_unknown(one) for one in documents if one.group == group and one.kind != KIND]
    faulty: list[Router] = []
    for document in documents.of(KIND, group):
        reading = call(_read, document, options)
        routers += reading.routers
        objectives += reading.objectives
        findings += reading.findings
        if not reading.routers:
            faulty += _faulty(document, options)
    return Reading(tuple(routers), tuple(objectives), tuple(findings), tuple(faulty))


def _unknown(document: Document) -> Finding:
    message = f'there is no kind "{document.kind}" of {API_VERSION}'
    return error("SpecInvalid", document.origin.at("kind"), message, f'write "kind: {KIND}"')


def _read(document: Document, options: Options) -> Reading:
    origin = document.origin
    fault = check_name(document.name)
    if fault:
        return Reading(
            findings=(error("SpecInvalid", origin.at("metadata.name"), fault, "give it another name"),)
        )
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
    if gateway is None or is_wrong or not any(rule.backends for rule in made):
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
    """Which models a fleet asks for that has an error as a whole, as far as it can be read."""
    file = Node(document.content)
    where, _, name = file["gateway"].text.rpartition("/")
    gateway = GatewayRef(name, where or document.namespace) if name else options.gateway
    names = (text for one in file["models"] for text in (one["name"], *one["aliases"]))
    models = tuple(dict.fromkeys(one.text for one in names if one.text))
    if gateway is None or not models:
        return
    rule = Rule(document.name, (), document.origin, models=models)
    yield Router(
        document.name,
        document.namespace,
        replace(gateway, section=file["listener"].text or gateway.section),
        (rule,),
        document.origin,
        hostnames=tuple(one.text for one in file["hostnames"] if one.text),
    )


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
