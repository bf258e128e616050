"""The test of the documentation notices a document that is wrong."""

from pathlib import Path

import pytest

from tests.docs.expected import same_json, same_text
from tests.docs.markdown import blocks
from tests.docs.runner import DocumentationError, Reader


def follow(folder: Path, text: str) -> Reader:
    reader = Reader(folder)
    try:
        for block in blocks(Path("sample.md"), text):
            reader.follow(block)
    finally:
        reader.leave()
    return reader


def test_blocks_know_their_place_their_language_and_their_mark() -> None:
    text = (
        "# T\n\n```sh\na\n```\n\n<!-- test: skip needs a card -->\n  ```console\n  $ b\n  ```\n\n````text\n```\n````\n"
    )

    first, second, third = blocks(Path("doc.md"), text)

    assert (str(first), first.language, first.text, first.kind) == ("doc.md:3", "sh", "a\n", "run")
    assert (second.line, second.text, second.kind, second.rest) == (8, "$ b\n", "skip", "needs a card")
    assert third.text == "```\n"


@pytest.mark.parametrize("text", ["```sh\nnever closed\n", "<!-- test: skipp it -->\n```sh\nx\n```\n"])
def test_a_malformed_document_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"doc\.md:1"):
        blocks(Path("doc.md"), text)


def test_blocks_run_in_one_folder_one_after_the_other(tmp_path: Path) -> None:
    reader = follow(tmp_path, "```sh\necho one \\\n  two > file\n```\n\n```bash\ncat file\n```\n")

    assert reader.printed == "one two\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```sh\nfalse\necho after\n```\n", "sample.md:1: exit status 1"),
        ("```sh\ncat missing | wc -l\n```\n", "exit status 1"),
        ("```console\n$ echo 1\n2\n```\n", "the document shows\n2\n\nbut this was printed\n1"),
        ("```sh\necho 1\n```\n<!-- test: output -->\n```text\n2\n```\n", "sample.md:5: the document shows"),
        ("<!-- test: output -->\n```text\n2\n```\n", "no block before this output"),
        ("```sh\nmake test\n```\n", "`make test` cannot run inside the tests"),
        ("```console\necho 1\n```\n", "begins with a command"),
        ("<!-- test: instead exit 3 -->\n```sh\ntrue\n```\n", "exit status 3"),
    ],
)
def test_a_document_that_is_wrong_is_told_where_and_how(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(DocumentationError) as raised:
        follow(tmp_path, text)

    assert complaint in str(raised.value)


def test_what_is_marked_is_not_run_or_run_otherwise(tmp_path: Path) -> None:
    follow(
        tmp_path,
        "<!-- test: skip takes hours -->\n```sh\ntouch no\n```\n"
        "<!-- test: instead touch cheap -->\n```sh\ntouch dear\n```\n",
    )

    assert {path.name for path in tmp_path.iterdir()} == {"cheap"}


def test_a_right_output_is_accepted(tmp_path: Path) -> None:
    follow(tmp_path, "```console\n$ seq 1 9\n1\n…\n8\n9\n$ echo a b c\na … c\n```\n")


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("a\nb", "a  \nb\n", True),
        ("a\nb", "a\nb\nc", False),
        ("a\n...\nc", "a\nc", True),
        ("took … s", "took 3.5 s", True),
        ("took … s", "took 3.5 min", False),
        ("1.5", "125", False),
    ],
)
def test_texts(expected: str, actual: str, same: bool) -> None:
    assert same_text(expected, actual) is same


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ('{"a": 0.9981}', '{"a": 0.99812345}', True),
        ('{"a": 0.9981}', '{"a": 0.9912}', False),
        ('{"a": 7}', '{"a": 8}', False),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": "…"}', '{"a": [1, 2]}', True),
        ('{"a": 1}', '{"a": 1, "b": 2}', False),
        ('{"a": 1, "…": "…"}', '{"b": 2, "a": 1}', True),
        ('{"a": 1, "…": "…"}', '{"b": 2}', False),
        ('[1, "…"]', "[1, 2, 3]", True),
        ("[1]", "[1, 2, 3]", False),
        ("{}", "not json", False),
    ],
)
def test_json(expected: str, actual: str, same: bool) -> None:
    assert same_json(expected, actual) is same
