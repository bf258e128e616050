"""A bundle is whole or it is not served: every way of being broken is named."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

from bundle import MANIFEST, BundleError, Manifest, TensorSpec, open_bundle, write_bundle

FILES = {"model.onnx": b"graph", "training/history.csv": b"epoch\n"}


def manifest(**changes):
    tensor = TensorSpec(name="x", datatype="UINT8", shape=(-1, 2))
    return Manifest(**({"name": "m", "version": 1, "inputs": (tensor,), "outputs": (tensor,), "files": {}} | changes))


@pytest.fixture
def folder(tmp_path):
    return write_bundle(tmp_path / "m" / "1", FILES, manifest()).folder


def test_what_was_written_is_read_back(folder):
    bundle = open_bundle(folder)
    assert bundle.path("training/history.csv").read_bytes() == b"epoch\n"
    assert bundle.manifest.files == {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    assert bundle.digest == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    with pytest.raises(BundleError, match=r"the bundle has no probe\.onnx"):
        bundle.path("probe.onnx")


def test_nothing_else_is_left_beside_it(folder):
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_a_version_is_never_overwritten(folder):
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(BundleError, match="a version is never overwritten"):
        write_bundle(folder, {"model.onnx": b"other"}, manifest())
    assert (folder / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../b", "", MANIFEST])
def test_no_file_is_written_outside_or_over_the_manifest(tmp_path, name):
    with pytest.raises(BundleError, match="not a path inside a bundle"):
        write_bundle(tmp_path / "m" / "1", {name: b""}, manifest())
    assert not (tmp_path / "m").exists() or not list((tmp_path / "m").iterdir())


def edit(folder, **changes):
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / MANIFEST).unlink(), r"manifest.json: not readable"),
        (lambda f: (f / MANIFEST).write_text("{"), r"manifest.json: manifest: Invalid JSON"),
        (lambda f: edit(f, schema_version=2), r"schema_version: .*this version reads schema 1"),
        (lambda f: edit(f, version=0), r"version: .*greater than or equal to 1"),
        (lambda f: edit(f, surprise=1), r"surprise: Extra inputs"),
        (lambda f: edit(f, files={"../../secret": "0"}), r"files: '../../secret' is not a path inside the bundle"),
        (lambda f: (f / "model.onnx").unlink(), r"model.onnx: named by the manifest but not readable"),
        (lambda f: (f / "model.onnx").write_bytes(b"grapf"), r"model.onnx: sha256 is .*the manifest says"),
    ],
)
def test_a_broken_bundle_says_what_is_wrong(folder, spoil, message):
    spoil(folder)
    with pytest.raises(BundleError, match=message):
        open_bundle(folder)


def test_a_writer_that_dies_leaves_no_bundle(tmp_path):
    """Killed after the files and before the rename: nothing that looks like a version is there."""
    program = (
        "import os, sys, bundle.files as files\n"
        "from bundle import *\n"
        "files.os.rename = lambda *_: os._exit(9)\n"
        "t = TensorSpec(name='x', datatype='UINT8', shape=(-1,))\n"
        "m = Manifest(name='m', version=1, inputs=(t,), outputs=(t,), files={})\n"
        "from pathlib import Path\n"
        "write_bundle(Path(sys.argv[1]) / 'm' / '1', {'model.onnx': b'x'}, m)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=os.getcwd(), check=False)
    assert done.returncode == 9
    assert not (tmp_path / "m" / "1").exists()
    assert not [path for path in (tmp_path / "m").iterdir() if path.name.isdigit()]
