"""Flags that say for which gateway, and which cluster: of ``controller``, ``plan`` and ``apply``.

Rule:    a mistake is one line that names the flag and the remedy; exit status 2.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from epp.compiler.intent import GatewayRef
from epp.compiler.options import Options, Target
from epp.config.flags import UsageError, port_number

T = TypeVar("T")
TARGETS = ", ".join(Target)


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would end the process."""

    def __init__(self, command: str, description: str, *, epilog: str = "") -> None:
        super().__init__(
            prog=f"epp {command}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """What argparse says."""
        raise UsageError(f"{message}: see {self.prog} --help")


def add_target(parser: argparse.ArgumentParser, *, inventory: str) -> None:
    """The flags that become Options."""
    parser.add_argument(
        "--target", required=True, type=_read(_target), metavar="T", help=f"which gateway: {TARGETS}"
    )
    parser.add_argument(
        "--gateway",
        type=_read(_gateway),
        metavar="NAMESPACE/NAME[/LISTENER]",
        help="the Gateway of objects that name none",
    )
    parser.add_argument(
        "--inventory",
        type=_read(_label),
        default=inventory,
        metavar="NAME",
        help="ours are objects with the label fleet-epp.dev/inventory=NAME (default: %(default)s)",
    )
    parser.add_argument(
        "--picker",
        type=_read(_picker),
        default="fleet-epp",
        metavar="NAME",
        help="label inferencepool of the picker's pods (default: %(default)s)",
    )
    parser.add_argument(
        "--model-header",
        type=_read(_header),
        default="x-gateway-model-name",
        metavar="NAME",
        help="in which agentgateway, and gateways of the target gateway-api, are told the model "
        "(default: %(default)s)",
    )


def options(flags: argparse.Namespace, **more: Any) -> Options:
    """What ``add_target`` was given."""
    return Options(
        flags.target,
        gateway=flags.gateway,
        picker=flags.picker,
        inventory=flags.inventory,
        model_header=flags.model_header,
        **more,
    )


def parsed(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """The flags; UsageError. ``--help`` is printed and ends in SystemExit."""
    return parser.parse_args(list(arguments))


def _read(read: Callable[[str], T]) -> Callable[[str], T]:
    """As argparse wants it: the message is what it shows."""

    def reading(text: str) -> T:
        try:
            return read(text)
        except ValueError as fault:
            raise argparse.ArgumentTypeError(str(fault)) from fault

    return reading


PORT = _read(port_number)
"""The type of a flag."""


def _target(text: str) -> Target:
    if text not in set(Target):
        raise ValueError(f'"{text}" is none of {TARGETS}')
    return Target(text)


def _label(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", text, re.ASCII):
        raise ValueError(f'"{text}" is no value of a label: write as in site-1, 63 characters at most')
    return text


def _picker(text: str) -> str:
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,55}[a-z0-9])?", text, re.ASCII):
        raise ValueError(f'"{text}" is no name of a Service: write as in fleet-epp, 57 characters at most')
    return text  # its Service is named so with -pools, which makes 63


def _header(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", text, re.ASCII):
        raise ValueError(f'"{text}" is no name of a header: write as in x-gateway-model-name')
    return text.lower()


def _gateway(text: str) -> GatewayRef:
    parts = text.split("/")
    if len(parts) not in {2, 3} or not all(parts):
        raise ValueError(f'"{text}" is no NAMESPACE/NAME: write as in gateways/main')
    return GatewayRef(parts[1], parts[0], *parts[2:])
