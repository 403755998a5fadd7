"""Stands on PYTHONPATH of tests and notebooks: Python cannot reach another machine.

It says so at once, and keeps a list in the file that CPO_NETWORK_LOG names, for code that
swallows the error.
"""

import os, socket

_DISCARD = 9  # the port of the proxy that leads nowhere (tools/run_notebooks.py)
_socket = socket.socket
_connect, _connect_ex, _sendto, _getaddrinfo = (
    _socket.connect,
    _socket.connect_ex,
    _socket.sendto,
    socket.getaddrinfo,
)


class NetworkUsed(ConnectionError):
    "Something tried to reach another machine."


def _guard(host, port=None):
    host = host.decode(errors="replace") if isinstance(host, bytes) else host or "localhost"
    local = host in ("localhost", "::1", "::", "0.0.0.0", socket.gethostname()) or host.startswith(
        "127."
    )
    if local and port != _DISCARD:
        return
    goal = "a-proxy" if local else host
    if log := os.environ.get("CPO_NETWORK_LOG"):
        with open(log, "a", encoding="utf-8") as f:
            f.write(f"{goal}\n")
    raise NetworkUsed(
        f"no network here: something asked for {goal}. Ship the data or build it instead."
    )


def _guard_address(sock, address):
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        _guard(*address[:2])


def connect(self, address):
    _guard_address(self, address)
    return _connect(self, address)


def connect_ex(self, address):
    _guard_address(self, address)
    return _connect_ex(self, address)


def sendto(self, data, *args):
    _guard_address(self, args[-1])
    return _sendto(self, data, *args)


def getaddrinfo(host, *args, **kwargs):
    _guard(host)
    return _getaddrinfo(host, *args, **kwargs)


_socket.connect, _socket.connect_ex, _socket.sendto, socket.getaddrinfo = (
    connect,
    connect_ex,
    sendto,
    getaddrinfo,
)
