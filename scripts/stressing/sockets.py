"""Whose connections are whose: what the kernel says of the sockets that a process holds. Linux only."""

import os
from pathlib import Path


def held_by(pid: int, port: int) -> set[int]:
    """The callers' ports of the IPv4 connections to `port` of this machine that a process has accepted.

    Connections that still wait in the listener's queue belong to nobody.
    """
    mine = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            mine.add(os.readlink(entry))
        except OSError:  # closed meanwhile
            continue
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *_, inode = line.split()[:10]
        if int(local.partition(":")[2], 16) == port and f"socket:[{inode}]" in mine:
            found.add(int(remote.partition(":")[2], 16))
    return found - {0}  # the listener's own line has no caller


def is_stopped(pid: int) -> bool:
    """Whether a process stands still after SIGSTOP."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
