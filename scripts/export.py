"""Export a trained Keras network as the next version of a model: converted, folded, proved, written as a bundle.

    python scripts/export.py runs/digits-quick/model.keras --name digits
    python scripts/export.py my.keras --name mine --samples pictures.npz --labels cat,dog

Thresholds for drift come from the training's validation split, or from an array `held_out` beside the `images` of
--samples: pictures like those of the training that the network has not seen. Without at least 200 there are none.

The exported graph is compared with model.predict; above 1e-5 nothing is written. Two exports of one file are the same
bytes.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from bundle import BundleError
from scripts.datasets.download import DatasetError

# TensorFlow's greeting is not the user's concern; its warnings and errors are.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong arguments or a network that cannot be exported (nothing is written)."""
    parser = argparse.ArgumentParser(
        prog="export.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL.keras")
    parser.add_argument("--name", required=True, help="the model's name in the repository")
    parser.add_argument("--version", type=int, help="default: one more than the newest")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the model repository (default: models)")
    parser.add_argument(
        "--dataset",
        choices=("kmnist", "digits", "folder", "none"),
        help="real pictures, labels and metrics come from it (default: the one that the run beside the model names)",
    )
    parser.add_argument(
        "--data-dir", type=Path, help="folder with KMNIST's idx .gz files, or with one subfolder of pictures a class"
    )
    parser.add_argument("--samples", type=Path, help="your own real inputs: .npz with `images` and, if known, `labels`")
    parser.add_argument("--labels", help="names of the classes, separated by commas")
    parser.add_argument(
        "--input", choices=("uint8", "float32"), help="the inputs' type (default: uint8 if the network rescales pixels)"
    )
    parser.add_argument("--compare", type=Path, action="append", default=[], help="run to mention in the model card")
    options = parser.parse_args(arguments)
    if not options.model.is_file():
        print(f"export: {options.model}: no such file; expected a network saved by Keras (.keras)", file=sys.stderr)
        return 2

    from scripts.converting.assemble import export
    from scripts.converting.samples import collect
    from scripts.converting.trace import ExportError

    try:
        run = options.model.parent
        samples = collect(options.dataset, options.data_dir, options.samples, options.labels, run)
        made = export(
            options.model, options.name, options.models, samples,
            version=options.version, datatype=options.input, compared=options.compare,
        )  # fmt: skip
    except (ExportError, DatasetError, BundleError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    manifest = made.manifest
    summary = {
        "bundle": str(made.folder),
        "batchnorm": {record.name: record.status for record in manifest.batchnorm},
        "operators": {graph: sum(counts.values()) for graph, counts in manifest.operators.items()},
        "keras_parity": manifest.keras_parity,
        **manifest.metrics,
        "false_alarms": manifest.drift and manifest.drift.measured,
    }
    print(json.dumps(summary, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
