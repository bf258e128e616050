"""Data sets arrive whole, or with a message that says what to do."""

import gzip
import hashlib
import http.server
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from scripts.datasets import load
from scripts.datasets.download import DatasetError, RemoteFile, ensure
from scripts.datasets.kmnist import FILES, read_idx

CONTENT = os.urandom(300_000)
FILE = RemoteFile("thing.gz", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; breaks off after `limit` bytes of a file."""

    content, limit = CONTENT, len(CONTENT)
    ranges: list[str | None]

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = self.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: max(self.limit - start, 0)])

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror():
    """Start a mirror: content and limit to the address and the list of ranges that it was asked for."""
    servers = []

    def start(content=CONTENT, limit=FILE.size):
        ranges: list[str | None] = []
        handler = type("Handler", (Mirror,), {"content": content, "limit": limit, "ranges": ranges})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/", ranges

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_download_is_checked_and_kept(tmp_path, mirror):
    address, ranges = mirror()
    ensure(tmp_path, [FILE], [address])
    ensure(tmp_path, [FILE], ["http://127.0.0.1:1/"])
    assert (tmp_path / FILE.name).read_bytes() == CONTENT
    assert ranges == [None]
    assert [path.name for path in tmp_path.iterdir()] == [FILE.name]


def test_a_broken_download_is_resumed_at_the_next_mirror(tmp_path, mirror):
    (short, _), (whole, ranges) = mirror(limit=100_000), mirror()
    ensure(tmp_path, [FILE], [short, whole])
    assert (tmp_path / FILE.name).read_bytes() == CONTENT
    assert ranges == ["bytes=100000-"]


def test_a_mirror_with_other_bytes_is_passed_over(tmp_path, mirror):
    (wrong, _), (right, _) = mirror(content=bytes(len(CONTENT))), mirror()
    ensure(tmp_path, [FILE], [wrong, right])
    assert (tmp_path / FILE.name).read_bytes() == CONTENT


def test_no_mirror_answers_says_what_to_do(tmp_path):
    with pytest.raises(
        DatasetError, match=r"(?s)thing.gz: no mirror gave it.*127.0.0.1:1.*--data-dir.*--dataset digits"
    ):
        ensure(tmp_path, [FILE], ["http://127.0.0.1:1/"])


def test_a_damaged_file_is_not_overwritten(tmp_path):
    (tmp_path / FILE.name).write_bytes(b"mine")
    with pytest.raises(DatasetError, match="sha256 differs"):
        ensure(tmp_path, [FILE], [])
    assert (tmp_path / FILE.name).read_bytes() == b"mine"


def test_idx_files(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    good = struct.pack(">HBBIII", 0, 8, 3, 2, 3, 4) + values.tobytes()
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(good))
    np.testing.assert_array_equal(read_idx(path), values)
    for bad in (gzip.compress(good[:-1]), gzip.compress(good)[:-9], good, gzip.compress(b"\0\0\x0d\x01" + good[4:])):
        path.write_bytes(bad)
        with pytest.raises(DatasetError, match="not readable as a gzipped idx file"):
            read_idx(path)


def test_digits_are_real_handwriting_of_the_right_shape():
    digits = load("digits")
    assert digits.x_train.shape[1:] == (28, 28, 1)
    assert len(digits.x_train) + len(digits.x_test) == 1797
    assert digits.x_train.dtype == np.uint8
    assert digits.x_train.max() > 200
    assert set(digits.y_test) == set(range(10))


@pytest.mark.kmnist
def test_kmnist_is_the_official_data(kmnist: Path):
    data = load("kmnist", kmnist)
    assert data.x_train.shape == (60000, 28, 28, 1)
    assert data.x_test.shape == (10000, 28, 28, 1)
    assert (np.bincount(data.y_train) == 6000).all()
    assert (np.bincount(data.y_test) == 1000).all()
    assert len(FILES) == 4
