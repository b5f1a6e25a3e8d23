"""The guard over the suite's network bites: sessions of their own in which tests try to get out.

The address is of a network that is reserved for documentation; nothing is sent to it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import network

ROOT = Path(__file__).parents[2]
ESCAPES = """
import asyncio, contextlib, multiprocessing, socket, subprocess, sys
import pytest

OUTSIDE = ("192.0.2.1", 80)
CODE = f"import socket; socket.create_connection({OUTSIDE}, timeout=0.1)"


def connect():
    with pytest.raises(PermissionError, match="tests may reach the loopback interface only"):
        socket.create_connection(OUTSIDE, timeout=0.1)

def test_connect():
    connect()

def test_connect_ex():
    with socket.socket() as s, pytest.raises(PermissionError):
        s.connect_ex(OUTSIDE)

@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_connect_to_a_name(method):
    with socket.socket() as s, pytest.raises(PermissionError):
        getattr(s, method)(("host.invalid", 80))

def test_sendto_a_name():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
        s.sendto(b"x", 0, ("host.invalid", 80))

def test_ipv6():
    with socket.socket(socket.AF_INET6) as s, pytest.raises(PermissionError):
        s.connect(("2001:db8::1", 80))

def test_mapped():
    with socket.socket(socket.AF_INET6) as s, pytest.raises(PermissionError):
        s.connect(("::ffff:192.0.2.1", 80))

def test_sendto():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
        s.sendto(b"x", OUTSIDE)

def test_sendmsg():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, pytest.raises(PermissionError):
        s.sendmsg([b"x"], [], 0, OUTSIDE)

def test_lookup():
    with pytest.raises(PermissionError):
        socket.getaddrinfo("host.invalid", 443)

def test_name_of_an_address():
    with pytest.raises(PermissionError):
        socket.gethostbyaddr(OUTSIDE[0])

def test_asyncio():
    with pytest.raises(PermissionError):
        asyncio.run(asyncio.open_connection(*OUTSIDE))

def test_swallowed():
    with contextlib.suppress(OSError):
        connect()

def test_subprocess():
    assert subprocess.run([sys.executable, "-c", CODE], stderr=subprocess.DEVNULL).returncode == 1

def test_grandchild():
    code = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {CODE!r}]).returncode)"
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 1

@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process(method):
    process = multiprocessing.get_context(method).Process(target=connect)
    process.start()
    process.join()
    assert process.exitcode == 0
"""
ESCAPING = re.findall(r"^def (test_\w+)", ESCAPES, re.MULTILINE)
LOOPBACK = """
import socket
import subprocess
import sys
import urllib.request
import pytest

@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9"])
def test_loopback(host):
    with socket.create_server((host, 0)) as server:
        socket.create_connection(server.getsockname()).close()

def test_in_a_child():
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection({server.getsockname()}).close()"
        subprocess.run([sys.executable, "-c", code], check=True)

def test_unix(tmp_path):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))

def test_no_lookup():
    socket.getaddrinfo("192.0.2.1", 80)
    socket.getfqdn("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.sendto(b"x", s.getsockname())
        s.sendmsg([b"x"], [], 0, s.getsockname())
"""


def session(folder: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs tests in a session of their own, with the suite's conftest."""
    file = folder / "test_nested.py"
    file.write_text(tests)
    env = dict(os.environ)
    for name in (network.loopback_guard.LOG_VARIABLE, "PYTEST_CURRENT_TEST"):
        env.pop(name, None)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    plugins = ["-p", "tests.conftest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "--basetemp", str(folder / "temp"), *options, str(file)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one process", "worker"])
def test_whoever_wants_out_is_refused_and_named(tmp_path, options):
    done = session(tmp_path, ESCAPES, *options)
    total = len(ESCAPING) + 3  # one runs in two ways, one in three
    assert f"{total} passed, {total} error" in done.stdout, done.stdout
    assert done.returncode == 1
    for test in ESCAPING:
        named = rf"ERROR at teardown of .*test_nested.py::{test}\b.*\nRefused: socket\.\w+ to .*(192\.0|invalid|2001)"
        assert re.search(named, done.stdout), test
    assert f"{total} refused" in done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one process", "worker"])
def test_loopback_is_free_and_counted_once(tmp_path, options):
    done = session(tmp_path, LOOPBACK, *options)
    assert done.returncode == 0, done.stdout
    assert "network: 4 connections, all to loopback, 0 refused; " in done.stdout


def test_the_kernel_keeps_in_what_python_does_not_see():
    outside = os.environ[network.ISOLATED_VARIABLE]
    if outside:
        pytest.skip(f"this session is not isolated by the kernel: {outside}")
    code = (
        "import socket, sys\n"
        "assert 'loopback_guard' not in sys.modules\n"
        "assert [name for _, name in socket.if_nameindex()] == ['lo']\n"
        "print(socket.socket().connect_ex(('192.0.2.1', 80)))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert os.strerror(int(done.stdout)) == "Network is unreachable"


def test_a_session_that_is_not_isolated_says_so(monkeypatch):
    monkeypatch.setenv(network.ISOLATED_VARIABLE, "unshare: Operation not permitted")
    assert "not isolated by the kernel: unshare: Operation not permitted" in network.summary()


def test_nobody_looks_for_googles_metadata_server():
    from google.auth.compute_engine import _metadata
    from google.auth.transport.requests import Request

    assert os.environ["NO_GCE_CHECK"] == "true"
    assert not _metadata.is_on_gce(Request())
