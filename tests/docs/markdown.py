"""Fenced code blocks of a Markdown file, with what a comment on the line before says about testing them.

<!-- test: skip REASON -->        is not run
<!-- test: instead COMMAND -->    runs this command instead, a cheap form of what the block shows
<!-- test: output -->             is what the block before prints
"""

import re
from dataclasses import dataclass
from pathlib import Path

SHELL = ("sh", "bash")
EXECUTED = (*SHELL, "console", "python")
# A block in any other language is rejected: `shell` or `py` would look as if it were tested.
SHOWN = ("dockerfile", "ini", "json", "make", "markdown", "mermaid", "onnx", "text", "toml", "yaml")

FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,})(?P<language>\S*)")
DIRECTIVE = re.compile(r"\s*<!-- test: (?P<kind>skip|instead|output)(?: (?P<rest>.*\S))? -->\s*")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        path: the file, relative to the repository.
        line: of the opening fence, from 1.
        language: after the fence; may be empty.
        text: without the fences, each line with its end.
        kind: what the comment before says, `skip`, `instead` or `output`; `run` where there is none.
        rest: the comment's reason or command.
    """

    path: Path
    line: int
    language: str
    text: str
    kind: str
    rest: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def blocks(path: Path, text: str) -> list[Block]:
    """Every fenced block of a Markdown text, in order.

    Raises:
        ValueError: a fence is not closed, or a comment that begins with `<!-- test:` is none of the three.
    """
    found: list[Block] = []
    before, opened, content = "", None, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        fence = FENCE.match(line)
        if opened is None and fence:
            opened = (number, fence, before)
        elif opened and line.strip() == opened[1]["ticks"]:
            found.append(_block(path, *opened, content))
            opened, content = None, []
        elif opened:
            content.append(line.removeprefix(opened[1]["indent"]) + "\n")
        before = line
    if opened:
        raise ValueError(f"{path}:{opened[0]}: the code block does not end")
    return found


def _block(path: Path, line: int, fence: re.Match[str], before: str, content: list[str]) -> Block:
    directive = DIRECTIVE.fullmatch(before)
    if directive is None and "<!-- test:" in before:
        raise ValueError(f"{path}:{line - 1}: not one of <!-- test: skip REASON -->, … instead COMMAND, … output")
    kind = directive["kind"] if directive else "run"
    rest = (directive["rest"] or "") if directive else ""
    return Block(path, line, fence["language"], "".join(content), kind, rest)
