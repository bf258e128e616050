"""`python -m bnfold fold|verify|inspect`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bnfold.errors import InputError, VerificationError
from bnfold.files import load, save, write
from bnfold.mapped import load_mapped
from bnfold.pipeline import Folded, fold
from bnfold.table import render, render_certificate
from bnfold.target import TARGETS
from bnfold.verify import TOLERANCE, Certificate, verify

BAD_INPUT, NOT_THE_SAME = 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, 2 for bad input, or 3 when the folded graph is not the same function."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except InputError as error:
        print(f"bnfold: {error}", file=sys.stderr)
        return BAD_INPUT
    except VerificationError as error:
        print(f"bnfold: {error}", file=sys.stderr)
        return NOT_THE_SAME
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bnfold", description="Folds batch normalisation exactly into the weights of an ONNX model."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    folding = commands.add_parser("fold", help="fold a model", description="Folds IN.onnx into OUT.onnx.")
    folding.add_argument("source", type=Path, metavar="IN.onnx")
    folding.add_argument("result", type=Path, metavar="OUT.onnx")
    folding.add_argument("--report", type=Path, metavar="R.json", help="write what was folded where, and why not")
    folding.add_argument(
        "--target", choices=tuple(TARGETS), default="ort-cpu", help="what to prefer among exact forms (%(default)s)"
    )
    folding.add_argument("--verify", action="store_true", help="write nothing unless the result is the same function")
    _verification_options(folding)
    folding.set_defaults(run=_fold)

    verifying = commands.add_parser("verify", help="compare two models", description="Recomputes the certificate.")
    verifying.add_argument("source", type=Path, metavar="REFERENCE.onnx")
    verifying.add_argument("result", type=Path, metavar="FOLDED.onnx")
    verifying.add_argument("--certificate", type=Path, metavar="C.json", help="write what was measured")
    _verification_options(verifying)
    verifying.set_defaults(run=_verify)

    inspecting = commands.add_parser(
        "inspect", help="show what would be folded", description="Folds in memory and prints a table."
    )
    inspecting.add_argument("source", type=Path, metavar="MODEL.onnx")
    inspecting.add_argument("--target", choices=tuple(TARGETS), default="ort-cpu")
    inspecting.set_defaults(run=_inspect)
    return parser


def _verification_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inputs", type=Path, metavar="X.npz", help="real examples, one array per input of the graph")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="largest relative error allowed (%(default)g)"
    )


def _fold(chosen: argparse.Namespace) -> None:
    folded = _folded(chosen)
    if chosen.verify:
        _demand(verify(load(chosen.source), folded.model, _inputs(chosen.inputs), tolerance=chosen.tolerance))
    save(folded.model, chosen.result)
    if chosen.report is not None:
        write(chosen.report, folded.report.to_json().encode())
    print(render(folded.report))


def _verify(chosen: argparse.Namespace) -> None:
    certificate = verify(load(chosen.source), load(chosen.result), _inputs(chosen.inputs), tolerance=chosen.tolerance)
    print(render_certificate(certificate))
    if chosen.certificate is not None:
        write(chosen.certificate, certificate.to_json().encode())
    _demand(certificate)


def _inspect(chosen: argparse.Namespace) -> None:
    print(render(_folded(chosen).report))


def _folded(chosen: argparse.Namespace) -> Folded:
    source = load_mapped(chosen.source)
    return fold(source.model, target=chosen.target, weights=source.weights)


def _demand(certificate: Certificate) -> None:
    if not certificate.holds:
        logits = certificate.max_abs_error_logits
        raise VerificationError(
            f"not the same function: relative error {certificate.max_rel_error:.3g}"
            + (f", of the logits {logits:.3g}" if logits is not None else "")
            + f", allowed {certificate.tolerance:g}"
        )


def _inputs(path: Path | None) -> dict[str, np.ndarray] | None:
    if path is None:
        return None
    try:
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable .npz file ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
