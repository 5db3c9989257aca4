"""Whether a server can listen where it is asked to, told before a model is loaded."""

from __future__ import annotations

import errno
import socket

from vlm.errors import UserError


def check_address(host: str, port: int) -> None:
    """Raise UserError where nothing can listen."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise taken(host, port) from None
        reason = error.strerror if isinstance(error, OSError) else "it is no name of a machine"
        raise UserError(
            f"cannot listen on {host}:{port}: {reason}; --host takes an address of this machine"
        ) from None


def taken(host: str, port: int) -> UserError:
    return UserError(f"cannot listen on {host}:{port}; is it taken? Choose another with --port")
