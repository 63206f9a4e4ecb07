"""Process: a name for this process, by which another one can tell whether it is dead.

Below everything.  Whoever finds a lease, or a file half written, under a name may take it over only where it is proven that its process is
gone: by its number, and only on the same host since the same boot, in the same process namespace.
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
    """Where a process number means something: the host, as long as it is up, and in containers that share its name the process namespace."""
    name = socket.gethostname()
    with suppress(OSError):  # only Linux tells; two machines may have one name
        name += f"/{_BOOT.read_text().strip()}"
        name += f"/{os.stat('/proc/self/ns/pid').st_ino}"
    return name


def is_dead(host: str, pid: str) -> bool:
    """Whether a process was one of this machine and is gone."""
    return host == machine() and _is_gone(pid)


def mark() -> str:
    """This process, in letters, digits and `-`: for the names of files."""
    return f"{_short_machine()}-{os.getpid()}"


def is_dead_mark(mark: str) -> bool:
    """Whether the process that made a mark was one of this machine and is gone."""
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
