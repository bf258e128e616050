"""One version of one model, loaded, warmed and tested: all that answering a request needs."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bundle import MANIFEST, Bundle, BundleError, TensorSpec, open_bundle
from bundle.statistics import PROBE_FILE
from service.batchnorm import BatchNormReport
from service.engine.job import Job
from service.engine.scheduler import Batch, Lane, Scheduler
from service.engine.session import CPU, Session, example_inputs, open_session, read_signature
from service.errors import LoadError
from service.golden import Golden, read_golden
from service.metrics.ledger import Ledger
from service.metrics.statistics import Statistics
from service.protocol.request import RequestReader
from service.protocol.response import ResponseWriter
from service.protocol.signature import Signature
from service.protocol.tensors import Array
from service.recalibration.recent import Recent
from service.settings import Settings
from service.watch.watcher import Watch, Watcher

log = logging.getLogger(__name__)


@dataclass
class Model:
    """A version that serves.

    Attributes:
        name, version: who it is.
        signature: what it takes and gives.
        bundle: its verified files; None for a bare `model.onnx`.
        provider: ONNX Runtime's execution provider that it really runs on.
        labels: what a person calls each class; may be empty.
        lane: its queue.
        statistics: its counts.
        reader: reads its requests.
        writer: writes its answers.
        batchnorm: the report on its batch-normalisation layers; None where nothing is known.
        watch: compares its traffic with the training data; None where that is not possible or not wanted.
        recent: its last images, for a recalibration; None where they are not to be kept.
    """

    name: str
    version: int
    signature: Signature
    bundle: Bundle | None
    provider: str
    labels: tuple[str, ...]
    lane: Lane
    statistics: Statistics
    reader: RequestReader
    writer: ResponseWriter
    batchnorm: BatchNormReport | None
    watch: Watch | None
    recent: Recent | None
    _scheduler: Scheduler
    _session: Session
    _golden: Golden

    def submit(
        self, arrays: list[Array], rows: int, timeout: float = 0.0, then: Callable[[Job], None] | None = None
    ) -> Job:
        """Queue a request (see `Scheduler.submit`)."""
        return self._scheduler.submit(self.lane, arrays, rows, timeout, then)

    @property
    def digest(self) -> str | None:
        """sha256 of the bundle's manifest: its identity."""
        return self.bundle.digest if self.bundle else None

    @property
    def unwatched(self) -> str:
        """Why there is no watch, if there is none."""
        if self.bundle is None:
            return "it is a bare model.onnx without statistics"
        if PROBE_FILE not in self.bundle.manifest.files or not any(r.tap for r in self.bundle.manifest.batchnorm):
            return "its bundle has no probe.onnx, or none of its layers has a tap"
        return "FOLDSERVE_DRIFT_SHARE is 0, or there was no memory left; the server's log says which"

    def metadata(self, versions: list[int]) -> dict[str, Any]:
        """The protocol's model metadata."""
        properties = {"provider": self.provider}
        if self.bundle:
            manifest = self.bundle.manifest
            properties["bundle_sha256"] = self.bundle.digest
            properties["model_sha256"] = manifest.files["model.onnx"]
            folded = sum(record.status == "folded" for record in manifest.batchnorm)
            properties["batchnorm_folded"] = f"{folded} of {len(manifest.batchnorm)}"
            properties |= {f"metric_{name}": repr(value) for name, value in manifest.metrics.items()}
            if manifest.certificate:
                properties["certificate_max_abs_error"] = repr(manifest.certificate.max_abs_error)
        return {
            "name": self.name,
            "versions": [str(version) for version in versions],
            "platform": "onnxruntime_onnx",
            "inputs": [tensor.to_json() for tensor in self.signature.inputs],
            "outputs": [tensor.to_json() for tensor in self.signature.outputs],
            "properties": properties,
        }

    def self_test(self) -> None:
        """Answer the golden inputs again.

        Raises:
            LoadError: the answers are not what they must be.
        """
        self._golden.check(self._session)


def load_model(
    folder: Path,
    *,
    name: str,
    version: int,
    provider: str,
    settings: Settings,
    scheduler: Scheduler,
    ledger: Ledger,
    watcher: Watcher,
) -> Model:
    """Verify, open, warm and test one version.

    Args:
        folder: with a bundle, or with a bare `model.onnx`.
        name: as the folder above it is called.
        version: as it is called itself.
        provider: ONNX Runtime's name of the execution provider.
        settings: the server's.
        scheduler: runs it.
        ledger: counts it.
        watcher: samples its traffic.

    Raises:
        LoadError: why it cannot be served.
    """
    bundle = _open(folder, name, version)
    path = folder / "model.onnx"
    session, actual = open_session(path, provider, settings)
    signature = read_signature(session, name, settings.max_batch_size)
    labels: tuple[str, ...] = ()
    batchnorm = None
    if bundle:
        _check_signature(bundle, signature)
        labels = bundle.manifest.labels
        batchnorm = BatchNormReport(bundle)
    golden = read_golden(bundle, signature, actual)
    golden.check(session)
    names = [tensor.name for tensor in signature.inputs]

    def run(arrays: list[Array]) -> list[Array]:
        outputs: list[Array] = session.run(None, dict(zip(names, arrays, strict=True)))
        return outputs

    run_batch = settings.run_batch_size if signature.batched else 0
    merge = signature.batched and is_batch_invariant(session, signature, run_batch)
    if signature.batched and not merge:
        log.warning("%s/%s: answers depend on batch mates on this machine; requests run one by one", name, version)
    statistics = Statistics(ledger, name, str(version))
    watch = watcher.watch(bundle, actual) if signature.batched else None
    recent = Recent(settings.keep_images) if settings.keep_images and signature.batched and len(names) == 1 else None
    lane = Lane(
        run,
        run_batch=run_batch,
        merge=merge,
        max_queue=settings.max_queue,
        observe=_observer(statistics, watch, recent),
        delay=settings.max_queue_delay,
        inline=actual == CPU,  # elsewhere the processor is free while the model runs
    )
    example, start = example_inputs(signature, run_batch or 1), time.perf_counter_ns()
    run(example)
    lane.learn(run_batch or 1, time.perf_counter_ns() - start)
    return Model(
        name=name,
        version=version,
        signature=signature,
        bundle=bundle,
        provider=actual,
        labels=labels,
        lane=lane,
        statistics=statistics,
        reader=RequestReader(signature),
        writer=ResponseWriter(str(version), signature, labels),
        batchnorm=batchnorm,
        watch=watch,
        recent=recent,
        _scheduler=scheduler,
        _session=session,
        _golden=golden,
    )


def _observer(statistics: Statistics, watch: Watch | None, recent: Recent | None) -> Callable[[Batch], None]:
    if watch is None and recent is None:
        return statistics.batch

    def observe(batch: Batch) -> None:
        statistics.batch(batch)
        if watch is not None:
            watch.offer(batch)
        if recent is not None:
            recent.keep(batch.inputs[0])

    return observe


def is_batch_invariant(session: Session, signature: Signature, largest: int) -> bool:
    """Whether every row's answer has the same bits alone and in batches of 2 to `largest` rows."""
    arrays = example_inputs(signature, largest)

    def run(rows: slice) -> list[Array]:
        feed = {t.name: array[rows] for t, array in zip(signature.inputs, arrays, strict=True)}
        return session.run(None, feed)

    alone = [np.concatenate(parts) for parts in zip(*(run(slice(i, i + 1)) for i in range(largest)), strict=True)]
    return all(
        one[:size].tobytes() == many.tobytes()
        for size in range(2, largest + 1)
        for one, many in zip(alone, run(slice(size)), strict=True)
        if one.dtype.kind != "O"
    )


def _open(folder: Path, name: str, version: int) -> Bundle | None:
    """The folder's bundle, verified; None if it is a bare `model.onnx`."""
    if not (folder / MANIFEST).exists() and (folder / "model.onnx").exists() and not _is_unfinished(folder):
        log.warning(
            "%s: a bare model.onnx, served without batch-normalisation statistics and without a self-test", folder
        )
        return None
    try:
        bundle = open_bundle(folder)
        bundle.path("model.onnx")
    except BundleError as error:
        raise LoadError(str(error)) from error
    manifest = bundle.manifest
    if (manifest.name, manifest.version) != (name, version):
        raise LoadError(f"{folder}: its manifest is that of {manifest.name} version {manifest.version}")
    return bundle


def _is_unfinished(folder: Path) -> bool:
    """Other files of a bundle without its manifest: a copy that is under way, not a bare model."""
    return any((folder / name).exists() for name in ("golden.npz", "batchnorm.safetensors", "reference.onnx"))


def _check_signature(bundle: Bundle, signature: Signature) -> None:
    def said(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
        return [(spec.name, spec.datatype, spec.shape) for spec in specs]

    for what, specs, tensors in (
        ("inputs", bundle.manifest.inputs, signature.inputs),
        ("outputs", bundle.manifest.outputs, signature.outputs),
    ):
        found = [(tensor.name, tensor.datatype.name, tensor.shape) for tensor in tensors]
        if said(specs) != found:
            raise LoadError(f"{bundle.folder}: {what}: the manifest says {said(specs)}, model.onnx has {found}")
