"""Every rule, by code."""

from epp.lint.rule import Rule
from epp.lint.rules import (
    access,
    backends,
    controllers,
    costs,
    gateways,
    leftovers,
    order,
    policies,
    pools,
    processors,
    quotas,
    routes,
    traffic,
)

FAMILIES = {
    routes: "Routes",
    order: "Order of rules",
    policies: "Policies and their targets",
    traffic: "Retries, health and limits",
    costs: "Costs",
    processors: "Processors",
    gateways: "Gateways",
    pools: "Pools and pickers",
    backends: "Backends",
    access: "Keys, Secrets and grants",
    quotas: "Quotas",
    controllers: "Configuration of the controllers",
    leftovers: "Leftovers",
}
"""Modules, as the documentation calls them."""
RULES = tuple(one for module in FAMILIES for one in vars(module).values() if isinstance(one, Rule))
BY_CODE = {one.code: one for one in RULES}
