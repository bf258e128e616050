"""What several workers sum up is what one sums up, and what one forgets all forget."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from drift import LayerReference, Layout, Moments, Reference
from service.metrics.ledger import SUMS, Ledger
from service.watch.tally import Tally, both, room
from service.watch.windows import HISTORY, Windows
from tests.service import watched
from tests.service.process import Process, fresh
from tests.service.test_infer import binary_body

DRIFT = "/v2/models/watched/drift"
LAYOUT = Layout.of({"bn": 2})


def watch(server: Process, images: watched.Array) -> dict[str, Any]:
    """Send the pictures, a connection each, and ask for the sums when all were seen."""
    for image in images:
        body, headers = binary_body(image[None])
        assert fresh.post(server.url + "/v2/models/watched/infer", content=body, headers=headers).status_code == 200
    deadline = time.monotonic() + 60
    while (found := report(server))["since_reset"]["images"] != len(images):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def report(server: Process) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fresh.get(server.url + DRIFT + "?arrays=true").content)
    return found


def test_two_workers_sum_up_what_one_does(tmp_path: Path, start_server: Callable[..., Process]) -> None:
    watched.write(tmp_path)
    images = watched.pictures(100)
    settings = {"runners": 1, "drift_share": 1, "drift_window": 32, "admin_keys": "k"}
    one, two = (start_server(tmp_path, workers=workers, **settings).wait_ready() for workers in (1, 2))
    alone, together = watch(one, images), watch(two, images)
    for key, values in alone["since_reset"]["sums"].items():
        np.testing.assert_allclose(together["since_reset"]["sums"][key], values, rtol=1e-9, atol=1e-9)
    assert together["since_reset"]["windows"] == 3
    # Whoever answers says the same.
    assert all(report(two)["history"] == together["history"] for _ in range(10))
    assert fresh.post(two.url + DRIFT + "/reset", headers={"Authorization": "Bearer k"}).status_code == 200
    assert {report(two)["since_reset"]["images"] for _ in range(10)} == {0}
    for server in (one, two):
        server.signal()
        assert server.wait() == 0, server.log


def moments(seed: int) -> Moments:
    z = np.random.default_rng(seed).normal(size=(3, 2))
    return Moments.from_arrays(
        LAYOUT, {"images": 3, "bn/count": 3, "bn/sum": z.sum(0), "bn/sum_of_squares": (z**2).sum(0)}
    )


def shared_ledgers(rows: int) -> list[Ledger]:
    fd = os.memfd_create("test")
    os.ftruncate(fd, Ledger.size(rows, SUMS))
    return [Ledger(rows, row, fd, SUMS) for row in range(rows)]


def test_no_reader_sees_half_a_batch() -> None:
    wide = Layout.of({"bn": 200_000})  # so many that numpy lets other threads run while it adds, as processes do
    first, second = (Tally(ledger, "k", wide) for ledger in shared_ledgers(2))
    batch, end = Moments(wide, np.arange(1.0, 1 + wide.length)), threading.Event()
    first.add(batch)
    second.total()  # the memory is there from now on
    began = time.perf_counter()
    second.total()
    pause = 5 * (time.perf_counter() - began)  # nobody adds without a pause; a reader would give up in the end

    def write() -> None:
        while not end.is_set():
            first.add(batch)
            time.sleep(pause)

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    try:
        for _ in range(200):
            times = second.total().values / batch.values
            assert times.min() == times.max()
            seen.add(times[0])
    finally:
        end.set()
        writer.join()
    assert len(seen) > 1
    assert second.images == first.images == first.total().values[0] >= max(seen)


def test_a_worker_that_was_killed_while_it_wrote_leaves_nothing_behind() -> None:
    ledger = Ledger(capacity=SUMS)
    killed = Tally(ledger, "k", LAYOUT)
    total = Moments(LAYOUT)
    for batches in range(4):
        both(np.asarray(ledger.series("k", room(LAYOUT.length))))[(batches + 1) % 2, :4] += 7.0  # half a batch more
        assert killed.images == total.images
        np.testing.assert_array_equal(killed.total().values, total.values)
        killed, total = Tally(ledger, "k", LAYOUT), total + moments(batches)
        killed.add(moments(batches))
        assert killed.images == total.images == 3 * (batches + 1)
        np.testing.assert_array_equal(killed.total().values, total.values)


def test_the_history_is_bounded_and_one_worker_closes_each_window() -> None:
    ledgers = shared_ledgers(2)
    reference = Reference({"bn": LayerReference(1e-3, np.zeros(2), np.ones(2), np.ones(2, bool))})
    one, two = (Windows(ledger, "k", LAYOUT, now=100.0) for ledger in ledgers)
    total = Moments(LAYOUT)
    for number in range(HISTORY + 40):
        total = total + moments(number)
        assert one.due(total.images, 0.0, size=3, interval=1e9, fewest=3)
        one.close(number, total, 101.0 + number, reference)
        # The other has seen that it is due, too, and a picture more.
        two.close(number, total + moments(number), 101.0 + number, reference)
        assert not two.due(total.images, 0.0, size=3, interval=1e9, fewest=3)
    for windows in (one, two):
        history = windows.history()
        assert windows.closed == HISTORY + 40
        assert len(history) == HISTORY
        assert [window.closed for window in history] == [101.0 + n for n in range(40, HISTORY + 40)]
        assert {(window.images, window.seconds) for window in history} == {(3, 1.0)}
        last = reference.score(moments(HISTORY + 39).values)
        np.testing.assert_allclose(history[-1].score, last, rtol=1e-6)
        np.testing.assert_allclose(windows.everything(total).values, total.values)
