"""What the pages say exists: links, headings, make targets, flags; and their generated parts are fresh."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from epp.config import flags, picker_config
from epp.runtime.plugins import load_types

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def prose(page: Path) -> str:
    """The text without code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The headings' anchors, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    wrong = []
    for link in links:
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_make_target_named_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)\s*make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *(ROOT / f"docs/{name}.md" for name in ("operations", "configuration"))]
)
def test_every_flag_named_exists(page: Path) -> None:
    text = re.sub(r"^epp serve: .*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = set(re.findall(r"(?:epp serve [^\n`]*?|`)--([a-z][\w-]*)", text))
    known = {flag.name for flag in flags.FLAGS}
    assert named - known <= {"flag", "metrics"}  # any flag; llama.cpp's
    assert named


def test_the_default_configuration_is_shown_as_it_is() -> None:
    assert picker_config.DEFAULT_TEXT in (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


def configurations() -> list[tuple[str, str]]:
    """Every EndpointPickerConfig that a page shows, whole or in part."""
    found = []
    for page in [*PAGES, *(ROOT / "deploy").rglob("*.md")]:
        for block in re.findall(
            r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            if re.search(r"^plugins:", block, re.MULTILINE) and "hot-spare" not in block:
                whole = (
                    block
                    if "apiVersion" in block
                    else picker_config.DEFAULT_TEXT.split("plugins:")[0] + block
                )
                found.append((f"{page.relative_to(ROOT)}", whole))
    return found


@pytest.mark.parametrize("page, text", configurations())
def test_every_configuration_shown_is_one(page: str, text: str) -> None:
    config = picker_config.load(text, page)
    assert picker_config.build(config, load_types(), allow_experimental=True).profile


def test_the_generated_parts_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/document-reference"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
