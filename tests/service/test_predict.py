import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pictures import Layout
from service.app import create_app
from service.images import decode
from service.settings import Settings
from tests.service import bundles
from tests.service.bundles import Array
from tests.service.conftest import png
from tests.service.process import Process


@pytest.fixture(scope="module")
def client(either_client: Any) -> Any:
    return either_client


GREY = Layout(28, 28, 1, channels_last=True)


def check(answer: Any, expected: Array) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    np.testing.assert_allclose(body["probabilities"], expected, atol=1e-6)
    assert body["class"] == int(expected.argmax())
    assert body["label"] == bundles.LABELS[body["class"]]
    assert (body["model_name"], body["model_version"]) == ("tiny", "2")
    return body


def test_a_png_of_the_models_size_goes_in_unchanged(client: TestClient, images: Array, expected: Array) -> None:
    for image, want in zip(images, expected, strict=True):
        body = check(client.post("/predict", content=png(image), headers={"Content-Type": "image/png"}), want)
        assert body["inverted"] is False


def test_multipart(client: TestClient, images: Array, expected: Array) -> None:
    files = {"image": ("a.png", png(images[0]), "image/png")}
    check(client.post("/predict", files=files), expected[0])
    check(client.post("/v2/models/tiny/predict", files=files), expected[0])


def test_several_pictures(client: TestClient, images: Array, expected: Array) -> None:
    body = client.post("/predict", files=[("image", (f"{i}.png", png(image))) for i, image in enumerate(images)]).json()
    assert (body["model_name"], body["model_version"], len(body["predictions"])) == ("tiny", "2", 5)
    for row, want in zip(body["predictions"], expected, strict=True):
        np.testing.assert_allclose(row["probabilities"], want, atol=1e-6)
        assert (row["class"], row["label"]) == (want.argmax(), bundles.LABELS[want.argmax()])


def test_the_most_probable_classes(client: TestClient, images: Array, expected: Array) -> None:
    body = client.post("/predict?top=3", content=png(images[0])).json()
    best = np.argsort(-expected[0])[:3]
    assert [row["class"] for row in body["top"]] == best.tolist()
    assert [row["label"] for row in body["top"]] == [bundles.LABELS[i] for i in best]
    np.testing.assert_allclose([row["probability"] for row in body["top"]], expected[0][best], atol=1e-6)
    assert client.post("/predict?top=-1", content=png(images[0])).status_code == 400


def test_more_files_than_are_taken(client: TestClient, images: Array) -> None:
    answer = client.post("/predict", files=[("image", ("a.png", png(images[0])))] * 65)
    assert answer.status_code == 400
    assert "more than 64 files" in answer.json()["error"]


def test_a_large_upload_stays_in_memory(client: TestClient, images: Array) -> None:
    padded = png(images[0]) + b"\0" * (3 * 2**20)  # over what the parser would write to a disk
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", None)
        assert client.post("/predict", files={"image": ("a.png", padded)}).status_code == 200


def test_a_version_by_name(client: TestClient, images: Array) -> None:
    answer = client.post("/v2/models/tiny/versions/1/predict", content=png(images[0])).json()
    assert answer["model_version"] == "1"
    wanted = bundles.truth(bundles.network(1), images[:1])[0]
    np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-6)


def test_jpeg(client: TestClient, images: Array) -> None:
    smooth = np.asarray(Image.fromarray(images[0, ..., 0]).resize((4, 4)).resize((28, 28)))
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=95)
    decoded = np.asarray(Image.open(io.BytesIO(buffer.getvalue())))
    wanted = bundles.truth(bundles.network(2), decoded.reshape(1, 28, 28, 1))[0]
    answer = client.post("/predict?polarity=keep", content=buffer.getvalue()).json()
    np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-6)


def test_colour_palette_and_sixteen_bits_become_grey() -> None:
    grey = bundles.pictures(1)[0, ..., 0]
    image = Image.fromarray(grey)
    for changed in (image.convert("RGB"), image.convert("RGBA"), image.convert("LA")):
        buffer = io.BytesIO()
        changed.save(buffer, "PNG")
        array, inverted = decode(buffer.getvalue(), GREY, 10_000)
        assert not inverted
        np.testing.assert_array_equal(array[0, ..., 0], grey)
    buffer = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer.getvalue(), GREY, 10_000)[0][0, ..., 0], grey)


def test_dark_on_light_is_inverted_and_said_so() -> None:
    grey = bundles.pictures(1)[0, ..., 0]
    array, inverted = decode(png(255 - grey), GREY, 10_000)
    assert inverted
    np.testing.assert_array_equal(array[0, ..., 0], grey)
    kept, inverted = decode(png(255 - grey), GREY, 10_000, "keep")
    assert not inverted
    np.testing.assert_array_equal(kept[0, ..., 0], 255 - grey)


def test_transparent_ground_does_not_swallow_the_ink() -> None:
    alpha = bundles.pictures(1)[0, ..., 0]
    for ink in (0, 255):  # black or white strokes on nothing: the same picture, light on dark
        rgba = np.dstack([np.full_like(alpha, ink)] * 3 + [alpha])
        array, _ = decode(png(rgba), GREY, 10_000)
        np.testing.assert_array_equal(array[0, ..., 0], alpha)


def test_other_sizes_keep_their_proportions() -> None:
    wide = np.zeros((20, 60), np.uint8)
    wide[5:15, 25:35] = 255  # a square
    array = decode(png(wide), GREY, 10_000, framing="keep")[0][0, ..., 0]
    rows, columns = np.flatnonzero(array.max(axis=1) > 127), np.flatnonzero(array.max(axis=0) > 127)
    assert abs(len(rows) - len(columns)) <= 1
    assert array[0].max() == 0


def test_exif_rotation_is_undone() -> None:
    grey = np.zeros((28, 28), np.uint8)
    grey[2:14, 4:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    turned = np.rot90(grey)  # so it is stored turned the other way
    np.testing.assert_array_equal(decode(png(turned, exif=exif), GREY, 10_000)[0][0, ..., 0], grey)


def test_channels_first_and_colour() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    array, _ = decode(png(rgb), Layout(28, 28, 3, channels_last=False), 10_000)
    np.testing.assert_array_equal(array[0], rgb.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "empty"),
        (b"hello", 415, "not a picture of a known format (PNG, JPEG, WEBP, BMP)"),
        (b"GIF89a" + b"\0" * 50, 415, "not a picture"),
        (png(bundles.pictures(1))[:300], 400, "broken or incomplete"),
        (png(np.zeros((200, 60), np.uint8)), 413, "60 x 200 pixels; at most 10000"),
    ],
)
def test_what_is_no_picture(repository: Any, body: bytes, status: int, message: str) -> None:
    with TestClient(create_app(Settings(models=repository, max_image_pixels=10_000))) as client:
        answer = client.post("/predict", content=body)
        assert answer.status_code == status
        assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"nonsense", "multipart/form-data; boundary=x", "multipart"),
        (b"nonsense", "multipart/form-data", "multipart"),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            "file",
        ),
    ],
)
def test_broken_multipart(client: TestClient, content: bytes, kind: str, message: str) -> None:
    answer = client.post("/predict", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_the_picture_that_the_model_got_is_shown_on_request(client: TestClient, images: Array) -> None:
    assert "picture" not in client.post("/predict", content=png(images[0])).json()

    one = client.post("/predict?picture=true", content=png(255 - images[0])).json()
    files = [("image", (f"{i}.png", png(image))) for i, image in enumerate(images[:2])]
    two = client.post("/predict?picture=true", files=files).json()["predictions"]

    for answer, image in zip([one, *two], [images[0], *images[:2]], strict=True):
        kind, _, data = answer["picture"].partition(",")
        assert kind == "data:image/png;base64"
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        np.testing.assert_array_equal(shown, image[..., 0])


def test_a_wrong_polarity_lists_the_choices(client: TestClient) -> None:
    answer = client.post("/predict?polarity=up", content=b"x")
    assert answer.status_code == 400
    assert "'auto', 'keep' or 'invert'" in answer.json()["error"]


def test_small_pictures_take_the_short_way_and_others_the_framework(
    repository: Path, start_server: Callable[..., Process], images: Array, expected: Array
) -> None:
    server = start_server(repository).wait_ready()
    large = Image.fromarray(images[0, ..., 0]).resize((600, 600), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    large.save(buffer, "PNG")
    plain = {"Content-Type": "image/png"}
    with httpx2.Client(verify=False, base_url=server.url) as client:
        for _ in range(2):  # one connection, both ways by turns
            for path, body, headers in (
                ("/predict", png(images[0]), plain),
                ("/predict", buffer.getvalue(), plain),
                ("/v2/models/tiny/versions/2/predict", png(images[0]), {}),
                ("/v2/models/tiny/predict?top=1", png(images[0]), {}),
            ):
                answer = client.post(path, content=body, headers=headers)
                assert answer.status_code == 200
                if body is not buffer.getvalue():
                    np.testing.assert_allclose(answer.json()["probabilities"], expected[0], atol=1e-6)
        assert client.post("/predict", content=b"GIF89a" + b"0" * 50).status_code == 415
        assert client.post("/v2/models/nobody/predict", content=png(images[0])).status_code == 404
        assert client.post("/predict?polarity=up", content=png(images[0])).status_code == 400
