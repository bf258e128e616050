"""Re-estimate a model's batch-normalisation statistics on new images, without training and without labels.

    python scripts/recalibrate.py --name kmnist --images FOLDER_OF_PICTURES
    python scripts/recalibrate.py --name kmnist --images new.npz --source-data old.npz --pseudo-count 64

The images are an .npz with `images` (and perhaps `labels`, to see the accuracy), an .npy, or a folder of pictures. The
result is the next version of the model: folded, proved, and a proposal until somebody makes it the default
(python -m bundle promote models/kmnist VERSION, or the server's promote call). Nothing is written where a guard rail
refuses: too few images, nothing to gain, lopsided classes, a mixture.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from bundle import Bundle, BundleError, open_bundle
from bundle.default import preference

REFUSED, CANCELLED = 3, 143


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong arguments, 3 refused by a guard rail, 143 ended by a signal."""
    options = _parser().parse_args(arguments)
    from scripts.recalibrating.state import State

    if options.state is None:
        return _run(options, None)
    signal.signal(signal.SIGTERM, _stop)
    os.nice(10)  # the server's requests come first
    state = State(options.state)
    try:
        return _run(options, state)
    except KeyboardInterrupt:
        state.write("cancelled")
        return CANCELLED
    except Exception as error:
        state.write("failed", error=f"{type(error).__name__}: {error}")
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recalibrate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="the model's name in the repository")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the model repository (default: models)")
    parser.add_argument("--version", type=int, help="the version to start from (default: the default one)")
    parser.add_argument("--images", type=Path, required=True, help="new images: FILE.npz, FILE.npy or a folder")
    parser.add_argument("--labels", type=Path, help="their classes, FILE.npy, if they are not in the .npz")
    parser.add_argument(
        "--source-data", type=Path, help="images like the training's, to see what is lost on them; FILE.npz or the like"
    )
    parser.add_argument(
        "--pseudo-count", type=float, help="images that the old statistics count for (default: 32; 0 forgets them)"
    )
    parser.add_argument("--force", action="store_true", help="go on where a guard rail refuses; the manifest says so")
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)  # for the server: a file for the progress
    return parser


def _run(options: argparse.Namespace, state: Any) -> int:
    from bnfold import FoldError
    from scripts.recalibrating.assemble import PSEUDO_COUNT, recalibrate
    from scripts.recalibrating.errors import RecalibrationError, RefusedError

    def progress(step: str, share: float) -> None:
        if state:
            state.write("running", step=step, progress=round(share, 3))
        elif sys.stderr.isatty():
            print(f"\r\033[K{100 * share:3.0f} % {step}", end="", file=sys.stderr, flush=True)

    progress("starting", 0.0)
    try:
        parent, samples, source = _inputs(options)
        made = recalibrate(
            parent,
            samples,
            source=source,
            pseudo_count=PSEUDO_COUNT if options.pseudo_count is None else options.pseudo_count,
            force=options.force,
            progress=progress,
        )
    except RefusedError as error:
        if state:
            state.write("refused", error=str(error), guards=[guard.model_dump() for guard in error.guards])
        print(f"recalibrate: refused: {error} (--force goes on)", file=sys.stderr)
        return REFUSED
    except (RecalibrationError, BundleError, FoldError) as error:
        if state:
            state.write("failed", error=str(error))
        print(f"recalibrate: {error}", file=sys.stderr)
        return 2
    assert made.manifest.recalibration is not None
    version, record = made.manifest.version, made.manifest.recalibration.model_dump(mode="json")
    if state:
        state.write("done", progress=1.0, version=version, recalibration=record)
    print(json.dumps({"bundle": str(made.folder), "version": version, **record}, indent=2))
    return 0


def _inputs(options: argparse.Namespace) -> tuple[Bundle, Any, Any]:
    """The parent bundle, the new images and those of the training's kind."""
    import numpy as np

    from scripts.recalibrating.assemble import Samples
    from scripts.recalibrating.errors import RecalibrationError
    from scripts.recalibrating.images import only_input, read_images, read_labels

    model = options.models.absolute() / options.name
    if not model.is_dir():
        raise RecalibrationError(f"{model}: no such model")
    versions = [int(folder.name) for folder in model.iterdir() if folder.is_dir() and folder.name.isdigit()]
    if options.version is not None:
        versions = [version for version in versions if version == options.version]
    if not versions:
        raise RecalibrationError(f"{model}: no such version" if options.version else f"{model}: no versions in it")
    parent = open_bundle(model / str(preference(model, versions)[0]))
    spec = only_input(parent.manifest)
    images, labels = read_images(options.images, spec)
    if options.labels is not None:
        try:
            labels = read_labels(np.load(options.labels, allow_pickle=False), len(images), str(options.labels))
        except (OSError, ValueError) as error:
            raise RecalibrationError(f"{options.labels}: not readable as labels: {error}") from error
    source = None if options.source_data is None else Samples(*read_images(options.source_data, spec))
    return parent, Samples(images, labels), source


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
