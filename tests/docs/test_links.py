"""Links between the documents lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.support import ROOT, repository_files

LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)(?: \"[^\"]*\")?\)|<img[^>]+src=\"(?P<source>[^\"]+)\"")
CODE = re.compile(r"^( *```).*?^\1`*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def prose(path: Path) -> str:
    return CODE.sub("", (ROOT / path).read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """The anchors that a rendered document offers: headings, in lower case, spaces as dashes, no punctuation."""
    text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in HEADING.findall(text)}


def test_every_link_within_the_repository_leads_to_a_file_and_a_heading() -> None:
    broken = []
    for path in (found for found in repository_files() if found.suffix == ".md"):
        for match in LINK.finditer(prose(path)):
            link = match["target"] or match["source"]
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (ROOT / path.parent / name).resolve() if name else (ROOT / path)
            if not target.exists() or not target.is_relative_to(ROOT):
                broken.append(f"{path}: {link}")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target.relative_to(ROOT)):
                broken.append(f"{path}: {link}: no such heading")

    assert broken == []


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("[a](b.md) ![c](d.png)", ["b.md", "d.png"]),
        ('[a](b.md "title")', ["b.md"]),
        ("[a](https://example.org/x)", ["https://example.org/x"]),
    ],
)
def test_links_are_found(text: str, links: list[str]) -> None:
    assert [match["target"] for match in LINK.finditer(text)] == links
