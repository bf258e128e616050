"""What is not needed any more is not kept."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import gc
from service.memory import give_back

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) // 1024

gc.disable()
kept, lost = [], []
for _ in range(4_000):  # every other one is kept, so no end of the heap is free
    kept.append(bytes(600))
    lost.append(bytes(50_000))
lost.append(lost)  # a circle
del lost
before = anonymous()
give_back()
print(before, anonymous(), len(kept))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")
def test_circles_are_collected_and_holes_in_the_heap_returned(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, check=True, capture_output=True, text=True)

    before, after, _ = map(int, done.stdout.split())

    assert before > 150  # MiB
    assert after < before / 3
