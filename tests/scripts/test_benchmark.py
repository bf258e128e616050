"""The load generator counts what happens, the benchmark refuses wrong answers, and the scenarios see a loss.

No test asserts a time.
"""

import asyncio
import json
import math
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts import benchmark, benchmark_setting, stress
from scripts.benchmarking import alone, contest, requests
from scripts.benchmarking.load import Load, drive
from scripts.benchmarking.models import other_weights, prepare, session
from scripts.benchmarking.process import Server, ServerError
from scripts.stressing.client import Callers
from tests.service import bundles

REQUEST = requests.post("/", b"1234", "text/plain")
Reply = Callable[[int], bytes | None]


@contextmanager
def server(reply: Reply) -> Iterator[int]:
    """Replies to the n-th request with these bytes, or closes the connection where there are none; yields the port."""
    ended = threading.Event()
    lock, numbers = threading.Lock(), iter(range(10**9))
    threads: list[threading.Thread] = []

    def talk(connection: socket.socket) -> None:
        connection.settimeout(0.2)
        with connection:
            have = b""
            while not ended.is_set():
                try:
                    data = connection.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if not data:
                    return
                have += data
                if len(have) < len(REQUEST):
                    continue
                have = have[len(REQUEST) :]
                with lock:
                    answer = reply(next(numbers))
                if answer is None:
                    return
                connection.sendall(answer)

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            threads.append(threading.Thread(target=talk, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            acceptor.join()
            for thread in threads:
                thread.join()


def answer(status: int, body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


def load(port: int, **values: Any) -> Load:
    return Load(port, (REQUEST,), **({"connections": 2, "seconds": 0.4, "warmup": 0.0} | values))


def test_every_answer_is_counted_by_its_status() -> None:
    statuses: list[int] = []

    def reply(number: int) -> bytes:
        statuses.append((200, 503, 200, 429)[number % 4])
        return answer(statuses[-1])

    with server(reply) as port:
        figures = drive(load(port))

    assert set(figures.refused) == {429, 503}
    counted = figures.answered + sum(figures.refused.values())
    # At the end each connection may have one answer that came too late, and one on its way.
    assert len(statuses) - 4 <= counted <= len(statuses)
    assert figures.broken == 0
    assert 0 < figures.p50 <= figures.p99 <= figures.p999


def test_answers_in_pieces_and_large_ones() -> None:
    whole = answer(200, b"x" * 300_000)

    with server(lambda number: whole) as port:
        figures = drive(load(port))

    assert figures.answered > 0
    assert not figures.refused


def test_a_connection_that_ends_is_broken_and_replaced() -> None:
    with server(lambda number: None if number % 3 == 2 else answer(200)) as port:
        figures = drive(load(port))

    assert figures.broken > 0
    assert figures.answered > figures.broken


def test_an_open_loop_counts_what_is_never_answered() -> None:
    with server(lambda number: b"") as port:
        figures = drive(load(port, rate=200.0))

    assert figures.answered == 0
    assert figures.late > 2  # more than the connections: what waited for one counts as well
    assert figures.p99 > 0


def test_nothing_answered_has_no_latency() -> None:
    with server(lambda number: b"") as port:
        figures = drive(load(port))

    assert figures.answered == 0
    assert math.isnan(figures.p50)


def content(request: bytes) -> tuple[dict[str, str], bytes]:
    """Headers and body of a request."""
    head, _, body = request.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert int(headers["Content-Length"]) == len(body)
    return headers, body


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_json_and_binary_hold_the_same_images(dtype: str) -> None:
    images = requests.pictures(3, (28, 28, 1), dtype)

    _, body = content(requests.v2_json("/v2/models/m/infer", "image", images))
    (tensor,) = json.loads(body)["inputs"]
    np.testing.assert_array_equal(np.array(tensor["data"], dtype).reshape(tensor["shape"]), images)

    headers, body = content(requests.v2_binary("/v2/models/m/infer", "image", images))
    length = int(headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(body[:length])["inputs"]
    assert tensor["parameters"]["binary_data_size"] == len(body) - length
    np.testing.assert_array_equal(np.frombuffer(body[length:], dtype).reshape(tensor["shape"]), images)
    assert tensor["datatype"] == {"uint8": "UINT8", "float32": "FP32"}[dtype]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_png_is_the_image(dtype: str, tmp_path: Path) -> None:
    image = requests.pictures(1, (28, 28, 1), dtype)[0]

    (tmp_path / "a.png").write_bytes(requests.png("/", image).partition(b"\r\n\r\n")[2])

    found = np.asarray(Image.open(tmp_path / "a.png")).astype(dtype)[..., None]
    np.testing.assert_allclose(found / (255 if dtype == "float32" else 1), image, atol=1e-7)


def test_pictures_are_like_handwriting() -> None:
    images = requests.pictures(64, (28, 28, 1), "uint8")

    assert images.shape == (64, 28, 28, 1)
    assert 0.1 < np.mean(images > 0) < 0.6
    assert len(np.unique(images.reshape(64, -1), axis=0)) == 64


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundles.write(tmp_path / "source", version=3).folder


@pytest.mark.slow
def test_the_benchmark_measures_both_servers(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = tmp_path / "figures.json", tmp_path / "latency.svg"
    status = benchmark.main(
        [
            str(bundle), "--work", "binary-1", "json-32", "png-1", "--connections", "1", "4", "--rounds", "1",
            "--seconds", "0.2", "--rates", "50", "--shares", "0.5", "--workers", "1", "--floor-batch",
            "--json", str(file), "--plot", str(picture),
        ]
    )  # fmt: skip

    printed = capsys.readouterr()
    assert status == 0, printed.err
    cells = json.loads(file.read_text())["cells"]
    assert {(cell["name"], cell["work"]) for cell in cells} == {
        (name, work) for name in ("floor", "floor_batch", "service") for work in ("binary-1", "json-32", "png-1")
    }
    for cell in cells:
        assert cell["figures"]["sent"] > 0, cell
        assert not cell["figures"]["refused"], cell
        assert cell["figures"]["broken"] == 0, cell
    assert "| binary-1 | service |" in printed.out
    for work in ("binary-1", "png-1"):  # latency against load, of works of one image
        assert re.search(rf"\| {work} \| service \| 50% \|", printed.out)
        closed, _, *over, half = [
            cell for cell in cells if (cell["name"], cell["work"]) == ("service", work) and cell["connections"] != 1
        ]
        assert len(over) == 2
        assert all(cell["wanted"] >= max(closed["images"], 1) for cell in over)
        assert half["wanted"] == pytest.approx(0.5 * max(cell["figures"]["rate"] for cell in over))
    assert "<svg" in picture.read_text()
    assert "usual speed" not in printed.out  # too short to say how steady the machine is


def test_the_slow_speed_is_that_of_one_window_in_twenty() -> None:
    windows = [1.0] * 18 + [0.9, 0.7]

    assert alone.slow_speed(windows) == 0.7
    assert alone.slow_speed(windows * 2) == 0.7  # two of forty
    assert alone.slow_speed([1.0] * 39 + [0.1]) == 1.0
    assert alone.slow_speed([1.0] * 19) is None


@pytest.mark.slow
def test_what_a_setting_costs_is_measured_in_pairs(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "slices.json"
    status = benchmark_setting.main(
        [
            str(bundle), "--against=--drift-share 0", "--work", "binary-1", "--pairs", "2", "--seconds", "0.1",
            "--workers", "1", "--json", str(file),
        ]
    )  # fmt: skip

    printed = capsys.readouterr()
    assert status == 0, printed.err
    slices = [cell["name"] for cell in json.loads(file.read_text()) if cell["round"] >= 0]
    assert slices == ["service", "against", "against", "service"]
    assert re.search(r"\| binary-1 \| [\d,]+ \| [\d,]+ \| [+-]\d", printed.out)


def test_the_interval_holds_the_median_of_the_population() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        _, low, high = benchmark_setting.interval(rng.normal(0.97, 0.1, 40).tolist())
        held += low <= 0.97 <= high

    assert 52 <= held <= 60  # 57 are expected of intervals that hold it in 95 of 100 cases
    assert benchmark_setting.interval([1.5] * 9) == (1.5, 1.5, 1.5)


@pytest.mark.slow
def test_a_server_that_answers_wrongly_is_not_measured(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    model = prepare(bundle, tmp_path / "models")
    other_weights(model.file, tmp_path / "other" / "model.onnx")
    wrong = contest.floor(replace(model, file=tmp_path / "other" / "model.onnx"), 1)
    try:
        wrong.server.wait_ready()
        with pytest.raises(ServerError, match="something else than ONNX Runtime"):
            contest.check(model, wrong, "binary-1")
    finally:
        wrong.server.kill()


def test_a_server_that_does_not_start_says_why() -> None:
    server = Server(["python3", "-c", "raise SystemExit('no such luck')"], "/")

    with pytest.raises(ServerError, match="no such luck"):
        server.wait_ready()


def test_other_weights_answer_otherwise_in_every_row(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    model = prepare(bundle, tmp_path / "models")
    other_weights(model.file, tmp_path / "2" / "model.onnx")

    images = {model.input: model.images(8)}
    one, two = (session(file).run(None, images)[0] for file in (model.file, tmp_path / "2" / "model.onnx"))
    assert (np.abs(one - two).max(axis=1) > 0).all()


def call(port: int, right: bytes) -> Callers:
    callers = Callers(port, REQUEST, lambda head, body: "same" if body == right else None)
    asyncio.run(callers.run(2, 1, lambda: asyncio.sleep(0.4)))
    return callers


def test_callers_see_a_lost_request_and_a_wrong_answer() -> None:
    def reply(number: int) -> bytes | None:
        return (answer(200, b"right"), answer(200, b"wrong"), None, answer(503))[number % 4]

    with server(reply) as port:
        ledger = call(port, b"right").ledger

    assert ledger.lost.total() > 0
    assert ledger.wrong > 0
    assert ledger.sent == ledger.answered.total() + ledger.lost.total()
    assert set(ledger.answered) == {200, 503}
    assert ledger.bodies["wrong"] == ledger.wrong


def test_callers_of_a_good_server_lose_nothing() -> None:
    with server(lambda number: answer(200, b"right")) as port:
        ledger = call(port, b"right").ledger

    assert ledger.sent == ledger.answered[200] > 0
    assert not ledger.lost
    assert not ledger.wrong


@pytest.mark.slow
def test_signals_and_swaps_lose_nothing(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = stress.main([str(bundle), "--times", "2", "--server=--drain-delay=0.2", "sigterm", "swap"])

    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "exit status 0: 2 of 2" in printed
    assert printed.count("lost 0") == 2


@pytest.mark.slow
def test_rest_is_measured(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stress.main([str(bundle), "rest", "--times", "1", "--seconds", "0.5"])  # its status depends on the machine

    assert re.search(r"rest: 1 starts, ready after \d.* of a core and \d+ MiB", capsys.readouterr().out)


@pytest.mark.slow
def test_a_short_soak_keeps_its_memory(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stress.main([str(bundle), "soak", "--requests", "400", "--server=--workers=2"])  # too few for a verdict

    found = re.search(
        r"refused 0, broken 0; .*RSS ([\d.]+), PSS ([\d.]+), peak ([\d.]+) MiB after [\d,]+, RSS",
        capsys.readouterr().out,
    )
    assert found
    rss, pss, peak = map(float, found.groups())
    assert 0 < pss <= rss <= peak


def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for main, words in ((benchmark.main, [str(tmp_path)]), (stress.main, [str(tmp_path)])):
        with pytest.raises(SystemExit):
            main(words)
        assert "neither a bundle's folder nor an ONNX file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        stress.main([str(tmp_path), "earthquake"])
    assert "unknown scenario earthquake" in capsys.readouterr().err
