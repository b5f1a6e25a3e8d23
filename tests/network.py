"""Nothing in the suite reaches another host, and every run shows it.

Two nets, one behind the other:

1. `guard/loopback_guard.py` refuses and records what Python's sockets try, in this process, in the workers of
   pytest-xdist and in every Python that a test starts. A refusal fails the session and names the test.
2. Where the kernel lets us, the whole session runs in a network namespace of its own that has a loopback interface and
   nothing else. So nothing gets out either that the first net does not see: gRPC, TensorFlow's file systems, database
   drivers, Chromium, interpreters started with -I. It takes root or unprivileged user namespaces; where there are none,
   the last line of the run says so, and gRPC at least is sent to a proxy that is not there.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import importlib
import json
import os
import shutil
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

GUARD = Path(__file__).parent / "guard"
sys.path.append(str(GUARD))
#: By the name it has in child processes, or a process that was a child would guard itself twice.
loopback_guard = importlib.import_module("loopback_guard")

ISOLATED_VARIABLE = "TFX_MOBILE_TESTS_NETWORK_ISOLATED"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def isolate() -> None:
    """Sets both nets up in the first process of a session; whatever it starts inherits them.

    Called while `conftest.py` is imported: a process that has threads cannot enter a user namespace any more.
    """
    if loopback_guard.LOG_VARIABLE not in os.environ:
        log = tempfile.mkdtemp(prefix="tfx-mobile-network-")
        os.environ[loopback_guard.LOG_VARIABLE] = log
        atexit.register(_remove, log, os.getpid())
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(GUARD), os.environ.get("PYTHONPATH")]))
        # google.auth would look for a metadata server, by its address and by its name.
        os.environ["NO_GCE_CHECK"] = "true"
        # The only proxy that gRPC's native code looks at and Python's HTTP clients do not.
        os.environ["grpc_proxy"] = "http://127.0.0.1:9"  # noqa: SIM112 - gRPC reads it in lower case
        os.environ["no_grpc_proxy"] = "localhost,127.0.0.1,::1"  # noqa: SIM112
        os.environ[ISOLATED_VARIABLE] = _enter_namespace()
    loopback_guard.install()


def connections() -> int:
    """How many connections were made in this session, by all processes, all of them to loopback."""
    log = Path(os.environ[loopback_guard.LOG_VARIABLE], loopback_guard.CONNECTIONS)
    return log.stat().st_size if log.exists() else 0


def refusals() -> list[dict[str, Any]]:
    """What was refused in this session, in all processes."""
    log = Path(os.environ[loopback_guard.LOG_VARIABLE], loopback_guard.REFUSALS)
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def summary() -> str:
    """One line for the end of a session."""
    outside = os.environ[ISOLATED_VARIABLE]
    kernel = f"not isolated by the kernel: {outside}" if outside else "in a network namespace with nothing but loopback"
    return f"network: {connections():,} connections, all to loopback, {len(refusals())} refused; {kernel}"


def _remove(log: str, process: int) -> None:
    if os.getpid() == process:  # a fork of it that ends must not take the folder away
        shutil.rmtree(log, ignore_errors=True)


def _enter_namespace() -> str:
    """Moves this process into a network namespace of its own; why not, if it cannot be."""
    if sys.platform != "linux":
        return f"no network namespaces on {sys.platform}"
    # Tried out in a child first: some systems let a process in and then do not let it raise the loopback interface.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, _unshare().encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        problem = answer.read()
    return problem or _unshare()


def _unshare() -> str:
    """Enters new namespaces and raises their loopback interface; what went wrong, if something did."""
    uid, gid = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNET if uid == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0 and (flags & _CLONE_NEWUSER or libc.unshare(flags | _CLONE_NEWUSER) != 0):
        return f"unshare: {os.strerror(ctypes.get_errno())}"
    try:
        if os.geteuid() != uid:  # the new user namespace does not know this user yet
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            request = struct.pack("16sh14x", b"lo", 0)
            flags_now = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags_now | _IFF_UP))
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        return f"{error}"
    return ""
