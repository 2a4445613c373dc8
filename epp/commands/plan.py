"""``epp plan``: what ``epp apply`` would change in the cluster.

Rule:    writes nothing.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from epp.commands.comparing import UNREAD, Compared, Paper, add_files, compare, fault, read, show
from epp.commands.listing import api_of
from epp.commands.target import Parser, parsed
from epp.config.flags import UsageError
from epp.runtime.errors import StartError

CHANGES = 3
"""Exit status with --detailed-exitcode; 2 is a mistake on the command line, as of every command of epp."""


def parser() -> Parser:
    """What the command takes."""
    made = Parser(
        "plan",
        "Show what apply would create, change and delete in the cluster, and change nothing.",
        epilog=(
            "exit status: 0, 1 where an input has an error or the cluster cannot be read, 2 for a mistake on"
            f" the command line; with --detailed-exitcode {CHANGES} where something would change"
        ),
    )
    add_files(made)
    made.add_argument(
        "--detailed-exitcode", action="store_true", help=f"end with {CHANGES} where something would change"
    )
    return made


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    try:
        flags = parsed(parser(), arguments)
        compared = asyncio.run(_compared(flags))
    except UsageError as wrong:
        return fault("plan", wrong, 2)
    except StartError as wrong:
        return fault("plan", wrong, 1)
    paper = Paper(sys.stdout, color=flags.color)
    show(compared, paper)
    if compared.has_errors:
        return 1
    if not paper.is_read:
        return UNREAD
    return CHANGES if flags.detailed_exitcode and compared.difference.steps else 0


async def _compared(flags: argparse.Namespace) -> Compared:
    loaded = read(flags)
    api = api_of(flags)
    await api.open()
    try:
        return await compare(flags, loaded, api)
    finally:
        await api.close()
