"""Too much load, and a long life: latency and memory stay bounded."""

import asyncio
import itertools
import json
import time
from dataclasses import replace

from scripts.benchmarking.load import Figures, Load, drive, in_own_process, one_process
from scripts.benchmarking.models import Model
from scripts.benchmarking.requests import png, v2_binary, v2_json
from scripts.stressing.client import once
from scripts.stressing.lifecycle import running

QUEUE, ROWS = 32, 32  # a short queue of large requests, so that a generator in Python can send ten times too many


def overload(model: Model, seconds: float, arguments: tuple[str, ...]) -> bool:
    """Ten times as many callers as the queue holds: most are refused at once, who is let in does not wait long."""
    request = v2_binary(model.infer, model.input, model.images(ROWS))
    with running(model, "--max-queue", str(QUEUE), *arguments) as server:
        base = Load(server.port, (request,), 4, seconds=min(3.0, seconds))
        (calm,) = in_own_process([base])
        before = server.rss()
        callers = 10 * (QUEUE + 4)

        async def flood() -> tuple[Figures, list[tuple[int, bytes, bytes]]]:
            many = replace(base, connections=callers, seconds=seconds)
            load = asyncio.create_task(asyncio.to_thread(in_own_process, [many]))
            looks = []
            while not load.done():
                looks.append(asyncio.create_task(once(server.port, request)))
                await asyncio.sleep(0.05)
            return (await load)[0], await asyncio.gather(*looks)

        busy, probes = asyncio.run(flood())
        after = server.rss()
        (again,) = in_own_process([base])
    turned = [(head, body) for status, head, body in probes if status in (429, 503)]
    polite = all(b"retry-after:" in head and "error" in json.loads(body) for head, body in turned)
    bound = 1000 * 5 * (QUEUE + 8) / max(1.0, busy.rate)  # five times what a full queue takes
    print(
        f"overload: {callers} callers of {ROWS} images each, {QUEUE} may wait; calm {calm.rate:.0f} requests/s, "
        f"p99 {calm.p99:.0f} ms; overloaded {busy.rate:.0f} answered/s, p50 {busy.p50:.0f} ms, p99 {busy.p99:.0f} ms "
        f"(bound {bound:.0f} ms), refused {busy.refused}, broken {busy.broken}; Retry-After and error in "
        f"{'all' if polite else 'NOT ALL'} of {len(turned)} refusals looked at; RSS {before:.0f} MiB before, "
        f"{after:.0f} MiB after; calm again {again.rate:.0f} requests/s"
    )
    return bool(
        polite and turned and not busy.broken and set(busy.refused) <= {429, 503} and busy.p99 <= bound
        and busy.rate >= calm.rate / 4 and again.answered and not again.refused
    )  # fmt: skip


def soak(model: Model, count: int, arguments: tuple[str, ...]) -> bool:
    """Many requests of every kind: memory at the end is that after the warm-up, within 5 %."""
    images = model.images(64)
    requests = []
    for i in range(16):
        requests.append(v2_binary(model.infer, model.input, images[i : i + 1]))
        requests.append(v2_json(model.infer, model.input, images[i : i + 1]))
        requests.append(v2_binary(model.infer, model.input, images[: 1 + i]))
        requests.append(png(f"/v2/models/{model.name}/predict", images[i]))
    answered = refused = broken = marked = 0
    start = time.monotonic()
    with running(model, *arguments) as server, one_process() as pool:
        load = Load(server.port, tuple(requests), 16, seconds=5, warmup=0)
        for number in itertools.count():
            seconds = 5 if marked else 1  # to come close to the mark
            figures = pool.submit(drive, replace(load, connections=(8, 32)[number % 2], seconds=seconds)).result()
            answered += figures.answered
            refused += sum(figures.refused.values())
            broken += figures.broken
            if not marked and answered >= count // 20:
                warm, marked = server.memory(), answered
            if answered >= count:
                break
        end = server.memory()
    growth = max(end.rss / warm.rss, end.pss / warm.pss) - 1
    print(
        f"soak: answered {answered:,} in {time.monotonic() - start:.0f} s, refused {refused}, broken {broken}; all "
        f"processes together: {warm} after {marked:,}, {end} at the end: {growth:+.1%}"
    )
    return growth <= 0.05 and not refused and not broken
