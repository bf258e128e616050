"""Folds batch normalisation, and every other constant affine, exactly into the weights of an ONNX model.

>>> import bnfold, onnx.parser
>>> model = onnx.parser.parse_model('''
...   <ir_version: 10, opset_import: ["": 21]>
...   net (float[N, 2] x) => (float[N, 2] y)
...   <float[2, 2] w = {1, 2, 3, 4}, float[2] s = {10, 100}> { scaled = Mul(x, s)  y = MatMul(scaled, w) }
... ''')
>>> folded = bnfold.fold(model)
>>> folded.report.operators_before, folded.report.operators_after
({'MatMul': 1, 'Mul': 1}, {'Gemm': 1})
"""

import os

# The ONNX Runtime's Linux wheels send usage data to their maker unless this is set before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from bnfold.affine import Affine
from bnfold.errors import FoldError, InputError, VerificationError
from bnfold.pipeline import Folded, fold
from bnfold.report import Entry, Report, Tap
from bnfold.target import TARGETS
from bnfold.verify import Certificate, verify

__all__ = [
    "TARGETS",
    "Affine",
    "Certificate",
    "Entry",
    "FoldError",
    "Folded",
    "InputError",
    "Report",
    "Tap",
    "VerificationError",
    "fold",
    "verify",
]
