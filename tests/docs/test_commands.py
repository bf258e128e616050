"""Every command in README.md and docs/ does what the documents say (see markdown.py for the marks in comments)."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.markdown import EXECUTED, SHOWN, Block, blocks
from tests.docs.runner import Reader, checkout
from tests.support import ROOT

DOCUMENTS = sorted(
    path.relative_to(ROOT) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if path.exists()
)


def blocks_of(document: Path) -> list[Block]:
    return blocks(document, (ROOT / document).read_text(encoding="utf-8"))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    for program in ("bash", "curl", "make"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    somebody = Reader(checkout(tmp_path / "foldserve"))
    yield somebody
    somebody.leave()


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_the_commands_of_a_document_do_what_it_says(document: Path, reader: Reader) -> None:
    for block in blocks_of(document):
        reader.follow(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_block_has_a_known_language(document: Path) -> None:
    unknown = [f"{b}: {b.language!r}" for b in blocks_of(document) if b.language not in (*EXECUTED, *SHOWN)]

    assert unknown == []


def test_what_is_not_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = [block for document in DOCUMENTS for block in blocks_of(document) if block.kind == "skip"]

    with capsys.disabled():
        for block in skipped:
            sys.stdout.write(f"\nnot run: {block}: {block.rest}")
    assert [str(block) for block in skipped if len(block.rest) < 10] == []
