"""Measure what the statistics are worth, and write the tables and pictures of docs/statistics.md.

    python scripts/measure_statistics.py --data-dir KMNIST_FOLDER

Detection of twelve corruptions and of other data from the layers' statistics and from three baselines, false alarms,
recalibration by the number of pictures, and the guard rails; a few minutes on two cores. The tables stand between
markers in the page and are replaced; the text around them stays.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from bundle import BundleError, open_bundle
from bundle.default import preference
from scripts.datasets import load
from scripts.datasets.download import DatasetError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
PAGE = Path("docs/statistics.md")
SPLIT = 0.05  # of the training set, where the bundle does not say what it was validated on
PSEUDO_COUNTS = (0.0, 16.0, 32.0, 64.0, 256.0)
FEW = (64, 512)
SIZES = (32, 64, 128, 256)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong arguments or no data."""
    parser = argparse.ArgumentParser(
        prog="measure_statistics.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="folder with KMNIST's idx .gz files; default: download")
    parser.add_argument("--model", type=Path, default=Path("models/kmnist"), help="the model (default: models/kmnist)")
    parser.add_argument("--page", type=Path, default=PAGE, help=f"the page to fill in (default: {PAGE})")
    parser.add_argument("--quick", action="store_true", help="two corruptions, few pictures: to try the command out")
    options = parser.parse_args(arguments)
    try:
        parts = _measure(options)
        from scripts.evidence.page import fill

        text = fill(options.page.read_text(encoding="utf-8"), parts)
    except (BundleError, DatasetError, OSError, ValueError) as error:
        print(f"measure_statistics: {error}", file=sys.stderr)
        return 2
    options.page.write_text(text, encoding="utf-8")
    print(f"written: {options.page}")
    return 0


def _measure(options: argparse.Namespace) -> dict[str, str]:
    """Everything, as the parts of the page; the pictures are written beside it."""
    from scripts.converting.calibration import false_alarms
    from scripts.datasets.digits import load as load_digits
    from scripts.evidence import page, plots
    from scripts.evidence.corruptions import CORRUPTIONS, random_noise
    from scripts.evidence.study import Plan, Results, Study

    versions = [int(folder.name) for folder in options.model.iterdir() if folder.name.isdigit()]
    bundle = open_bundle(options.model / str(preference(options.model, versions)[0]))
    data = load("kmnist", options.data_dir)
    share = bundle.manifest.training.get("config", {}).get("validation_split") or SPLIT
    count = 1000 if options.quick else int(len(data.x_train) * share)
    held_out, held_labels = data.x_train[-count:], data.y_train[-count:].astype(np.int64)
    plan = Plan()
    if options.quick:
        some = tuple(c for c in CORRUPTIONS if c.name in ("contrast", "rotation"))
        plan = Plan(300, windows=30, sizes=(8, 64), amounts=(64, 256), usual=256, severities=(3,), corruptions=some)
    study = Study(bundle, held_out, (data.x_test, data.y_test), plan, _say)
    study.say("false alarms")
    order = np.random.default_rng(0).permutation(count)
    sizes = [size for size in SIZES if 16 * size <= count]
    alarms = false_alarms(study.watched.layers, study.held_out.moments[order], sizes, seed=0)
    digits = load_digits()
    digit_images = np.concatenate([digits.x_train, digits.x_test])
    clean = study.condition("KMNIST's test set", study.images)
    results = Results(
        plan=plan,
        validation=study.on_held_out(held_labels),
        clean=clean,
        strangers=(
            study.condition("handwritten digits", digit_images, known=False),
            study.condition("random noise", random_noise(study.images), known=False),
        ),
        conditions=tuple(study.conditions()),
        alarms=alarms,
        on_clean=study.on_clean(),
        cases=(
            *study.cases(),
            study.case("handwritten digits", digit_images[: plan.usual], None),
            study.case("random noise", random_noise(study.others[: plan.usual]), None),
        ),
        pseudo_counts=study.pseudo_counts(held_out, held_labels, PSEUDO_COUNTS, FEW[:1] if options.quick else FEW),
    )
    images = options.page.parent / "images"
    plots.draw_scores(results.conditions, clean, images / "drift.png")
    plots.draw_recovery(results.conditions, plan.usual, images / "recalibration.png")
    about = (
        f"Bundle `{bundle.manifest.name}` version {bundle.manifest.version}, `{bundle.digest[:16]}…`; {plan.pool:,} "
        f"test pictures to judge on, {max(plan.amounts):,} others to recalibrate on, {count:,} held-out ones."
    )
    return {"bundle": about} | page.parts(results)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
