"""Process: a name for this process, by which another process can check whether it is dead.

Below everything.  A lease, or an incomplete file, of another process may be taken over only if that process is proven to be gone: by its
number, and only on the same host since the same boot, in the same process namespace.
"""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def machine() -> str:
    """The scope in which a process number is unique: the host since its boot and, for containers with one host name, the process namespace."""
    name = socket.gethostname()
    with suppress(OSError):  # only on Linux; two machines may have the same name
        name += f"/{_BOOT.read_text().strip()}"
        name += f"/{os.stat('/proc/self/ns/pid').st_ino}"
    return name


def is_dead(host: str, pid: str) -> bool:
    """True if a process ran on this machine and is gone."""
    return host == machine() and _is_gone(pid)


def mark() -> str:
    """The name of this process in letters, digits and `-`, for file names."""
    return f"{_short_machine()}-{os.getpid()}"


def is_dead_mark(mark: str) -> bool:
    """True if the process that made a mark ran on this machine and is gone."""
    host, _, pid = mark.partition("-")
    return host == _short_machine() and _is_gone(pid)


@cache
def _short_machine() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:12]


def _is_gone(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
