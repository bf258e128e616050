"""Sampling the traffic: finished batches run through `probe.onnx` in a thread of their own, off the way of an answer.

The cost is bounded by construction: after a batch that took the probe d seconds the watcher rests for d (1/share - 1),
so it uses at most `share` of one core, whatever the model and the traffic. With little traffic it sees every image,
with much of it a sample that is spread evenly over time.
"""

import logging
import threading
import time
import weakref
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from bundle import Bundle, BundleError
from bundle.statistics import PARAMETERS_FILE, PROBE_FILE, read_reference
from drift import Moments, Reference, Thresholds
from service.engine.scheduler import Batch
from service.engine.session import open_session
from service.errors import LoadError, StartupError
from service.metrics.ledger import SUMS, Ledger
from service.protocol.tensors import Array
from service.settings import Settings
from service.watch.tally import Tally
from service.watch.windows import Windows

log = logging.getLogger(__name__)

BACKLOG = 256  # batches that wait for the probe where everything is to be seen
TICK = 1.0  # seconds between looks at windows that end by time
FEWEST = 32  # images of a window that ends by time


class Watch:
    """One version of a model under observation.

    Args:
        bundle: of the version.
        reference: what its layers are compared with.
        thresholds: how much is chance; None if it was not calibrated.
        provider: ONNX Runtime's name of the execution provider.
        watcher: does the work.

    Attributes:
        statistics: sha256 of the layers' parameters; versions that have them in common share what was seen.
        failed: why it cannot be watched any more; None as long as it can.

    Raises:
        MemoryError: there is no room for its sums.
    """

    def __init__(
        self, bundle: Bundle, reference: Reference, thresholds: Thresholds | None, provider: str, watcher: "Watcher"
    ) -> None:
        self.reference, self.thresholds, self.settings = reference, thresholds, watcher.settings
        self.statistics = bundle.manifest.files[PARAMETERS_FILE]
        self.failed: str | None = None
        self._path, self._provider, self._watcher = bundle.path(PROBE_FILE), provider, watcher
        self._names = [spec.name for spec in bundle.manifest.inputs]
        self._session: Any = None
        key = f"drift/{bundle.manifest.name}/{self.statistics[:16]}"
        self.tally = Tally(watcher.sums, key, reference.layout)
        self.windows = Windows(watcher.sums, key, reference.layout, time.time())

    def offer(self, batch: Batch) -> None:
        """Called in the event loop with every finished batch: takes it as a sample if the watcher is rested."""
        if batch.jobs[0].finished >= self._watcher.rested_at and not self.failed:
            self._watcher.put(self, batch.inputs)

    def open(self) -> None:
        """Open the probe, if it is not open; in the watcher's thread.

        Raises:
            LoadError: ONNX Runtime cannot load it.
        """
        if self._session is None:
            self._session, _ = open_session(self._path, self._provider, self.settings)

    def probe(self, inputs: list[Array], slice_rows: int) -> None:
        """Add the moments of some rows; in the watcher's thread."""
        layout = self.reference.layout
        for first in range(0, len(inputs[0]), slice_rows):
            rows = [array[first : first + slice_rows] for array in inputs]
            outputs = self._session.run(layout.outputs, dict(zip(self._names, rows, strict=True)))
            values = np.concatenate([[float(len(rows[0]))], *(np.ravel(output) for output in outputs)])
            if np.isfinite(values).all():  # one broken picture must not spoil the sums for ever
                self.tally.add(Moments(layout, values))

    def look(self) -> None:
        """Close the open window if it is time."""
        size, interval, now = self.settings.drift_window, self.settings.drift_interval, time.time()
        number = self.windows.closed
        if self.windows.due(self.tally.images, now, size, interval, FEWEST):
            self.windows.close(number, self.tally.total(), now, self.reference)

    def reset(self) -> None:
        """Forget what was seen, in all workers."""
        self.windows.reset(self.tally.total(), time.time())


class Watcher:
    """The thread that probes, and its rest. It starts with the first sample.

    Args:
        settings: the server's.
        sums: shared memory for the moments; of this process alone by default.

    Attributes:
        rested_at: `time.perf_counter_ns` from which the next sample is taken; infinite while one is at work.
    """

    def __init__(self, settings: Settings, sums: Ledger | None = None) -> None:
        self.settings = settings
        self.sums = sums or Ledger(capacity=SUMS)
        self.rested_at = 0.0
        self._share = settings.drift_share
        self._queue: SimpleQueue[tuple[Watch, list[Array]] | None] = SimpleQueue()
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._closing = False

    def watch(self, bundle: Bundle | None, provider: str) -> Watch | None:
        """Watch a version; None if it has nothing to watch, or the settings say no.

        Raises:
            LoadError: the bundle's statistics are not what its manifest says.
        """
        if bundle is None or not self._share:
            return None
        try:
            found = read_reference(bundle)
            if found is None:
                return None
            watch = Watch(bundle, *found, provider, self)
        except BundleError as error:
            raise LoadError(str(error)) from error
        except MemoryError as error:
            log.warning("%s: drift is not watched: %s", bundle.folder, error)
            return None
        self._watches.add(watch)
        return watch

    def put(self, watch: Watch, inputs: list[Array]) -> None:
        """Take a batch as a sample; in the event loop."""
        if self._share < 1:
            self.rested_at = float("inf")
        elif self._queue.qsize() >= BACKLOG:
            return
        self._queue.put((watch, inputs))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="watcher", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; what is still queued is not looked at."""
        if self._thread is not None:
            self._closing = True
            self._queue.put(None)
            self._thread.join()
            self._thread, self._closing = None, False

    def _work(self) -> None:
        while True:
            try:
                taken = self._queue.get(timeout=TICK)
            except Empty:
                for watch in list(self._watches):
                    watch.look()
                continue
            if taken is None or self._closing:
                return
            took = self._probe(*taken)
            del taken  # or the last batch would stay in memory
            if self._share < 1:
                self.rested_at = time.perf_counter_ns() + took * (1 / self._share - 1)

    def _probe(self, watch: Watch, inputs: list[Array]) -> int:
        """Nanoseconds that it took, without what it takes but once."""
        start = time.perf_counter_ns()
        try:
            watch.open()
            start = time.perf_counter_ns()
            watch.probe(inputs, self.settings.run_batch_size)
            watch.look()
        except (LoadError, StartupError) as error:
            watch.failed = str(error)
            log.error("drift is not watched any more: %s", error)
        except Exception as error:  # whatever the probe does, the server goes on answering
            watch.failed = "the probe failed; the server's log says why"
            log.exception("drift is not watched any more: %s", error)
        return time.perf_counter_ns() - start
