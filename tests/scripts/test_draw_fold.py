"""The figure of the graph before and after the fold."""

from pathlib import Path

import onnx
import pytest
from onnx import parser
from PIL import Image

from scripts import draw_fold

BUNDLE = Path(__file__).parents[2] / "models" / "kmnist" / "1"


def kinds(body: str) -> list[tuple[str, str]]:
    graph = parser.parse_model(f"""<ir_version: 10, opset_import: ["": 18]>
        net (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <float[2,2,1,1] w = {{1, 2, 3, 4}}, float[2] c = {{1, 2}}, float[2,1,1] a = {{1, 2}}, float[4,4] k = {{1}},
         float[4] z = {{1, 2, 3, 4}}, int64[2] s = {{0, -1}}> {{ {body} }}""")
    return [(operator, kind) for operator, _, kind in draw_fold.describe(graph)]


def test_affines_weights_and_the_rest_are_told_apart() -> None:
    assert kinds("v = Conv(x, w, c) n = BatchNormalization(v, c, c, c, c) m = Mul(n, a) p = Add(m, a) y = Relu(p)") == [
        ("Conv", "weights"),
        ("BatchNormalization", "affine"),
        ("Mul", "affine"),
        ("Add", "affine"),
        ("Relu", "other"),
    ]


def test_the_bias_behind_a_matrix_product_is_part_of_the_layer() -> None:
    assert kinds("p = MatMul(x, k) q = Add(p, z) y = Reshape(q, s)") == [
        ("MatMul", "weights"),
        ("Add", "weights"),
        ("Reshape", "other"),
    ]


def test_the_two_graphs_of_a_bundle_are_drawn_side_by_side(tmp_path: Path) -> None:
    picture = tmp_path / "fold.png"

    assert draw_fold.main([str(BUNDLE), str(picture)]) == 0

    graphs = [onnx.load(BUNDLE / name).graph for name in ("reference.onnx", "model.onnx")]
    with Image.open(picture) as drawn:
        width, height = drawn.size
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 24) or ()}
    assert height > 30 * max(len(graph.node) for graph in graphs)
    assert width > 600
    fills = {tuple(bytes.fromhex(fill[1:])) for fill, _ in draw_fold.COLOURS.values()}
    assert fills <= colours


def test_the_same_bundle_gives_the_same_bytes(tmp_path: Path) -> None:
    pictures = [tmp_path / name for name in ("first.png", "second.png")]
    for picture in pictures:
        draw_fold.main([str(BUNDLE), str(picture)])
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw_fold.main([str(tmp_path), str(tmp_path / "fold.png")]) == 2
    assert "reference.onnx" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
