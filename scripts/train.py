"""Train the reference network, or try a recipe on it.

    python scripts/train.py --recipe seed --data-dir KMNIST_FOLDER
    python scripts/train.py --recipe quick --name digits
    python scripts/train.py --recipe quick --dataset folder --data-dir PICTURES --name mine

A run is a folder: config.json, history.csv, curves.png, confusion.png, classes.csv, results.json, model.keras. A run
that was broken off goes on where it ended when it is called again; Ctrl-C keeps the best network so far. With --name
the trained network is exported as the next version of that model (see scripts/export.py).
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from scripts.datasets import load
from scripts.datasets.download import DatasetError
from scripts.training.config import RECIPES, TrainConfig
from scripts.training.options import ConfigError, add_options, configuration, unknown_options

# TensorFlow's greeting is not the user's concern; its warnings and errors are.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
# On processors without AVX-512 it leaves oneDNN's kernels out unless it is told: 2.8 times the time for our network.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong arguments or no data, 130 interrupted (with the best network kept)."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    try:
        if unknown:
            known = [name for action in parser._actions for name in action.option_strings]
            raise ConfigError(unknown_options([name for name in unknown if name.startswith("-")] or unknown, known))
        given = {name: value for name, value in vars(options).items() if "." in name}
        config = configuration(options.recipe, options.config, given)
        if config.start and not config.start.is_file():
            raise ConfigError(f"start: {config.start}: no such file")
        folder = options.out or Path("runs") / f"{config.dataset}-{options.recipe}"
        _claim(folder, config)
        dataset = load(config.dataset, options.data_dir)
    except (ConfigError, DatasetError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    from scripts.training.fit import StartError

    try:
        interrupted = _run(config, dataset, folder, options)
    except StartError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    if options.name and not interrupted:
        from scripts.export import main as export

        data = ["--data-dir", str(options.data_dir)] if options.data_dir else []
        return export(
            [str(folder / "model.keras"), "--name", options.name, "--models", str(options.models),
             "--dataset", config.dataset, *data]
        )  # fmt: skip
    return 130 if interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="seed", help="preset to start from")
    parser.add_argument("--config", type=Path, help="JSON or TOML file with settings (a run's config.json, too)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder with KMNIST's idx .gz files (default: download), or with one subfolder of pictures for each class",
    )
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/<dataset>-<recipe>)")
    parser.add_argument("--name", help="export the trained network under this name")
    parser.add_argument("--models", type=Path, default=Path("models"), help="model repository for --name")
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard logs to <out>/tensorboard")
    add_options(parser)
    return parser


def _claim(folder: Path, config: TrainConfig) -> None:
    """Make the run's folder, or take up a run of the same configuration."""
    path, text = folder / "config.json", config.model_dump_json(indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"--out {folder}: holds a run with another configuration; choose another folder")
    if (folder / "results.json").exists():
        raise ConfigError(f"--out {folder}: holds a finished run; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _run(config: TrainConfig, dataset: Any, folder: Path, options: argparse.Namespace) -> bool:
    """Train, judge once on the test set, and write everything; True if Ctrl-C ended the training."""
    import keras

    from scripts.training import fit, report
    from scripts.training.progress import HistoryFile, ProgressBar

    callbacks: list[Any] = [
        ProgressBar(dataset.name),
        HistoryFile(folder / "history.csv"),
    ]
    if options.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(str(folder / "tensorboard")))
    trained = fit.train(config, dataset, folder, callbacks)
    title = f"{dataset.name}, seed {config.seed}"
    report.plot_curves(report.read_history(folder / "history.csv"), folder / "curves.png", title)
    probabilities = trained.network.predict(dataset.x_test, batch_size=1000, verbose=0)
    table = report.confusion(dataset.y_test, probabilities.argmax(1), len(dataset.labels))
    report.plot_confusion(table, dataset.labels, folder / "confusion.png", f"{title}, test set")
    report.write_classes(table, dataset.labels, folder / "classes.csv")
    results = fit.score(probabilities, dataset.y_test) | trained.validation
    run = {"recipe": options.recipe, "seed": config.seed, "dataset": dataset.name, "interrupted": trained.interrupted}
    # The file may be another one tomorrow: a new version of the same network, say.
    start = {"start_sha256": hashlib.sha256(config.start.read_bytes()).hexdigest()} if config.start else {}
    summary = {**run, **results, **start}
    trained.network.save(folder / "model.keras")
    (folder / "results.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"test accuracy {results['test_accuracy']:.4f}, test loss {results['test_loss']:.4f}; written to {folder}")
    return trained.interrupted


if __name__ == "__main__":
    sys.exit(main())
