"""Refuses and records every connection of this process to a host that is not on the loopback interface.

An audit hook sees what Python's sockets do in whatever library uses them, asyncio included, and cannot be removed. It
sees neither sockets of native code (gRPC, TensorFlow's file systems, database drivers, a browser) nor interpreters that
were started with -I, -E or -S: those are what `tests/network.py` takes the network away for.

This module and `sitecustomize`, which calls it in child processes, use the standard library only: they run in every
interpreter that a test starts, of whatever environment.
"""

import ipaddress
import json
import os
import socket
import sys

#: Folder in which all processes of a test session record; without it nothing is guarded.
LOG_VARIABLE = "TFX_MOBILE_TESTS_NETWORK_LOG"
#: One byte per connection to loopback, and one line of JSON per refusal: both survive a killed process.
CONNECTIONS = "connections"
REFUSALS = "refusals"

_ADDRESSED = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_LOOKED_UP = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"})
#: Families that reach no further than this machine's kernel.
_LOCAL_FAMILIES = frozenset(
    getattr(socket, name) for name in ("AF_UNIX", "AF_NETLINK", "AF_ALG", "AF_PACKET") if hasattr(socket, name)
)
_MAX_CALLERS = 8
_STANDARD_LIBRARY = os.path.dirname(os.__file__)
_installed = False


class NotLoopbackError(PermissionError):
    """A test, or something it runs, wanted to reach another host."""


def install() -> None:
    """Guards this process from now on, if it belongs to a test session."""
    global _installed
    if not _installed and os.environ.get(LOG_VARIABLE):
        _installed = True
        sys.addaudithook(_watch)
        # Given a name instead of a number, these look it up before they are audited, and that lookup is not.
        for method in ("connect", "connect_ex", "sendto"):
            setattr(socket.socket, method, _checked(f"socket.{method}", getattr(socket.socket, method)))


def _watch(event: str, arguments: tuple) -> None:
    # Called for everything that is audited, such as each import: the first comparison has to be cheap.
    if not event.startswith("socket."):
        return
    if event in _ADDRESSED:
        connection, address = arguments
        if connection.family in _LOCAL_FAMILIES or address is None:  # None: sendmsg on a connection that was checked
            return
        if _is_loopback(address[0] if isinstance(address, tuple) else address):
            if event == "socket.connect":
                _record(CONNECTIONS, b".")
            return
        _refuse(event, address)
    elif event in _LOOKED_UP:
        host = arguments[0][0] if event == "socket.getnameinfo" else arguments[0]
        if not _needs_no_lookup(host, event):
            _refuse(event, host)


def _checked(event: str, method):
    def check_name_first(self, *arguments):
        address = arguments[-1] if arguments else None
        if isinstance(address, tuple) and address and _address(address[0]) is None and not _is_loopback(address[0]):
            _refuse(event, address)
        return method(self, *arguments)

    return check_name_first


def _is_loopback(host: object) -> bool:
    """Whether a connection to `host` stays on this machine; also for a name, which Python would look up first."""
    address = _address(host)
    return _text(host) == "localhost" if address is None else address.is_loopback


def _needs_no_lookup(host: object, event: str) -> bool:
    """Whether looking up `host` sends nothing: a number needs no server, unless a name for it is wanted."""
    if host is None or _text(host) in ("", "localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or event in ("socket.getaddrinfo", "socket.gethostbyname"))


def _address(host: object):
    try:
        address = ipaddress.ip_address(_text(host).partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _text(host: object) -> str:
    return host.decode(errors="replace") if isinstance(host, (bytes, bytearray)) else str(host)


def _refuse(event: str, address: object) -> None:
    # Inherited by child processes, so that a refusal in one names the test that started it.
    test = os.environ.get("PYTEST_CURRENT_TEST", "no test")
    refusal = {"test": test, "event": event, "address": _text(address), "process": os.getpid(), "from": _callers()}
    _record(REFUSALS, json.dumps(refusal).encode() + b"\n")
    raise NotLoopbackError(f"{event} to {_text(address)}: tests may reach the loopback interface only.")


def _callers() -> str:
    """The innermost callers outside the standard library, the nearest first."""
    frames, frame = [], sys._getframe()
    while frame is not None and len(frames) < _MAX_CALLERS:
        file = frame.f_code.co_filename
        if file != __file__ and ("site-packages" in file or not file.startswith(_STANDARD_LIBRARY)):
            frames.append(f"{file}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(frames)


def _record(name: str, data: bytes) -> None:
    """Appends as a whole, also while other processes do."""
    file = os.open(os.path.join(os.environ[LOG_VARIABLE], name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, data)
    finally:
        os.close(file)
