"""A report as one HTML page that needs nothing else, its figures as people read them, its folder.

Place:   after bench.report's tables; used by bench.sim.report, bench.run.report and bench.compare.
Ignores: what was measured.
"""

import base64
import html
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report import Table
from bench.sim.statistics import Estimate
from epp.config.decode import ConfigError

UNKNOWN = "n/a"
NAME = "report"
"""Of all files of a report."""


# --- figures -------------------------------------------------------------------------------------


def milliseconds(one: Estimate) -> str:
    return interval(one, lambda seconds: number(seconds * 1e3))


def ratio(one: Estimate) -> str:
    if math.isnan(one.low) or one.low == one.high:  # of one seed, or to itself
        return f"{one.value:.2f}"
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def interval(one: Estimate, shown: Any) -> str:
    return shown(one.value) if math.isnan(one.low) else f"{shown(one.value)} ± {shown(one.high - one.value)}"


def number(value: float) -> str:
    if math.isnan(value):
        return UNKNOWN
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


# --- a page --------------------------------------------------------------------------------------

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 78em; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h3 { margin-top: 2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.87em; }
.wide { overflow-x: auto; }
th, td { padding: 0.25em 0.7em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #999; white-space: normal; vertical-align: bottom; }
img { max-width: 100%; } code { background: #f2f2f2; padding: 0.1em 0.3em; }
.partial { background: #fde8e8; border-left: 4px solid #c00; padding: 0.6em 1em; font-weight: bold; }
"""


def page(title: str, paragraphs: Iterable[str], parts: Sequence[Table | Path]) -> str:
    """``parts``: tables, and pictures by their files. A paragraph that begins with PARTIAL stands out."""
    lines = ["<!doctype html>", '<html lang="en"><head><meta charset="utf-8">']
    lines += [
        f"<title>{html.escape(title)}</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
    ]
    for paragraph in paragraphs:
        kind = ' class="partial"' if paragraph.startswith("PARTIAL") else ""
        lines.append(_list(paragraph) if paragraph.startswith("- ") else f"<p{kind}>{_inline(paragraph)}</p>")
    lines += [_html_table(part) if isinstance(part, Table) else _image(part) for part in parts]
    return "\n".join([*lines, "</body></html>\n"])


def _list(paragraph: str) -> str:
    items = [f"<li>{_inline(line.removeprefix('- '))}</li>" for line in paragraph.splitlines()]
    return f"<ul>{''.join(items)}</ul>"


def _inline(text: str) -> str:
    """Of Markdown, bold and code."""
    text = html.escape(text, quote=False)
    for mark, tag in (("**", "b"), ("`", "code")):
        pieces = text.split(mark)
        text = "".join(
            f"<{tag}>{piece}</{tag}>" if number % 2 else piece for number, piece in enumerate(pieces)
        )
    return text


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{_inline(column)}</th>" for column in table.columns)
    rows = ["".join(f"<td>{_inline(text)}</td>" for text in row) for row in table.rows]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<h3>{_inline(table.title)}</h3><div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _image(picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode()
    return f'<p><img alt="{html.escape(picture.stem)}" src="data:image/png;base64,{data}"></p>'


# --- files ---------------------------------------------------------------------------------------


def known(value: Any) -> Any:
    """JSON has neither infinities nor what is no number."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {name: known(each) for name, each in value.items()}
        case list() | tuple():
            return [known(each) for each in value]
    return value


def report_in(folder: Path) -> Path:
    """Where the JSON of a report in this folder is, or would be."""
    return folder / f"{NAME}.json"


def claim(folder: Path, *, force: bool) -> None:
    """Make the folder of a report, before anything is measured. Raises ConfigError."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out: {folder} is no folder")
    if report_in(folder).exists() and not force:
        raise ConfigError(
            f"--out: there is a report in {folder}: give another folder, or --force to replace it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--out: {folder} cannot be written")
