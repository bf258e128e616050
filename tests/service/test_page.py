"""What the page is made of, and what it asks of a model."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.app import create_app
from service.nodes import read_nodes
from service.settings import Settings
from tests.service import bundles
from tests.support import ROOT, served_bundle

FOLDER = ROOT / "service" / "page"


@pytest.fixture(scope="module")
def kmnist() -> Any:
    with TestClient(create_app(Settings(models=served_bundle().parents[1], runners=1))) as client:
        yield client


class References(HTMLParser):
    """Every address in a page, and what a strict policy would not let run."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.addresses += [named[name] or "" for name in ("href", "src") if name in named]
        self.inline += [name for name in named if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in named) else []


def test_the_page_needs_nothing_from_elsewhere_and_nothing_inline(client: TestClient) -> None:
    references = References()
    references.feed(client.get("/").text)

    assert references.inline == []
    for address in references.addresses:
        assert not re.match(r"[a-z]+:|//", address)
        assert address.startswith("#") or client.get(f"/{address}").status_code == 200
    for path in FOLDER.glob("*.js"):
        for imported in re.findall(r'from "([^"]+)"', path.read_text(encoding="utf-8")):
            assert (FOLDER / imported).exists()


@pytest.mark.parametrize("path", ["/", *(f"/page/{file.name}" for file in FOLDER.iterdir())])
def test_every_file_comes_with_its_type_a_tag_and_a_strict_policy(client: TestClient, path: str) -> None:
    answer = client.get(path)
    name = path.removeprefix("/page/").strip("/") or "index.html"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))

    assert answer.content == (FOLDER / name).read_bytes()
    assert (
        answer.headers["content-type"].partition(";")[0]
        == {
            ".html": "text/html",
            ".css": "text/css",
            ".js": "text/javascript",
            ".svg": "image/svg+xml",
        }[Path(name).suffix]
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert client.get(path, headers={"If-None-Match": '"another"'}).status_code == 200
    head = client.head(path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", answer.headers["etag"])


@pytest.mark.parametrize("path", ["/page/nothing.js", "/page/..%2Fapp.py", "/page/../app.py", "/page/", "/page"])
def test_there_is_nothing_else(client: TestClient, path: str) -> None:
    answer = client.get(path)

    assert answer.status_code == 404
    assert set(answer.json()) == {"error"}


def test_the_page_begins_with_the_model_that_a_picture_is_sent_to(client: TestClient) -> None:
    answer = client.post("/predict", content=base64.b64decode(_example(client)["picture"].partition(",")[2])).json()

    assert client.get("/page.json").json() == {"name": answer["model_name"], "version": answer["model_version"]}


def test_the_page_is_open_and_what_it_asks_is_not(repository: Path) -> None:
    with TestClient(create_app(Settings(models=repository, api_keys=("secret",)))) as client:
        assert {client.get(path).status_code for path in ("/", "/page/page.js")} == {200}
        closed = ["/page.json", *(f"/v2/models/tiny/{what}" for what in ("card", "graph", "examples"))]
        assert {client.get(path).status_code for path in closed} == {401}


def test_the_graphs_are_those_of_the_files(kmnist: TestClient) -> None:
    answer = kmnist.get("/v2/models/kmnist/graph").json()

    for key, name in (("reference", "reference.onnx"), ("folded", "model.onnx")):
        nodes = onnx.load(served_bundle() / name).graph.node
        assert answer[key] == [{"operator": node.op_type, "name": node.name} for node in nodes]
    manifest = json.loads((served_bundle() / "manifest.json").read_text(encoding="utf-8"))
    assert answer["certificate"] == manifest["certificate"]
    assert [layer["name"] for layer in answer["layers"]] == [layer["name"] for layer in manifest["batchnorm"]]


def test_a_graph_with_every_kind_of_field_is_read(tmp_path: Path) -> None:
    model = bundles.network()
    model.producer_name, model.model_version = "x" * 300, 2**40
    model.graph.node[0].doc_string = "before its name"
    for node in model.graph.node:
        node.name = f"節 {node.op_type}"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())

    assert read_nodes(path) == [{"operator": n.op_type, "name": n.name} for n in model.graph.node]


@pytest.mark.parametrize("content", [b"\x3a\xff", b"hello world, no model", b"\x3a\x02\x0a\x05", b"\xff" * 20])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(ValueError, match="not an ONNX file"):
        read_nodes(tmp_path / "model.onnx")


def test_the_card_is_the_bundles_with_its_pictures(kmnist: TestClient) -> None:
    card = kmnist.get(f"/v2/models/kmnist/versions/{served_bundle().name}/card").json()

    assert card["markdown"] == (served_bundle() / "README.md").read_text(encoding="utf-8")
    assert set(card["pictures"]) == set(re.findall(r"!\[[^]]*]\(([^)]+)\)", card["markdown"]))
    for name, uri in card["pictures"].items():
        assert base64.b64decode(uri.removeprefix("data:image/png;base64,")) == (served_bundle() / name).read_bytes()


def test_the_examples_are_the_bundles_and_named_by_the_network_as_trained(client: TestClient) -> None:
    answer = client.get("/v2/models/tiny/versions/1/examples").json()
    pictures = bundles.pictures(3)
    best = bundles.truth(bundles.network(1), pictures).argmax(axis=1)

    assert answer["labels"] == list(bundles.LABELS)
    assert [example["class"] for example in answer["examples"]] == sorted(best)
    for number in np.argsort(best, kind="stable"):
        example = answer["examples"].pop(0)
        assert example["label"] == bundles.LABELS[best[number]]
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(example["picture"].partition(",")[2]))))
        np.testing.assert_array_equal(shown, pictures[number, ..., 0])


def test_a_bare_model_has_neither(tmp_path: Path) -> None:
    (tmp_path / "bare" / "1").mkdir(parents=True)
    (tmp_path / "bare" / "1" / "model.onnx").write_bytes(bundles.network().SerializeToString())
    with TestClient(create_app(Settings(models=tmp_path))) as client:
        assert client.get("/v2/models/bare/card").status_code == 404
        assert client.get("/v2/models/bare/examples").json() == {"labels": [], "examples": []}
        assert client.get("/v2/models/bare/graph").json()["folded"] is None
        assert client.get("/v2/models/bare/versions/2/graph").status_code == 404


def _example(client: TestClient) -> dict[str, str]:
    examples: list[dict[str, str]] = client.get("/v2/models/tiny/examples").json()["examples"]
    return examples[0]
