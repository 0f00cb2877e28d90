"""Where the page listens, and the names under which it may be asked for."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any

from conceptlens.values.errors import one_line
from conceptlens.web.errors import AppError

HERE = ("127.0.0.1", "localhost", "[::1]")
"""Names of this computer."""
_NAME = re.compile(r"\*|\[[\da-f:.]+\]|(\*\.)?[\w-]+(\.[\w-]+)*", flags=re.ASCII | re.IGNORECASE)


def allowed_hosts(host: str, names: Sequence[str]) -> tuple[str, ...]:
    """What a request's Host header may say, without the port, when the page listens at an address.

    A page elsewhere can give itself a name that points here (DNS rebinding), and would then be taken for this one;
    hence a list. This computer's own names are always on it.

    Args:
        host: the address.
        names: further names or addresses; "*.example.org" for all below one, "*" for any.

    Raises:
        AppError: for a name that cannot be one, an address that does not exist, and one that other computers can reach
            while no names are given.
    """
    checked = tuple(_checked(name) for name in names)
    address = ip_address(str(resolved(host, 0)[1][0]).partition("%")[0])
    if not (checked or address.is_loopback):
        raise AppError(
            f"other computers can reach {host}, and the page has no passwords. Say under which names it may be asked "
            "for: --allow-host NAME, as it stands in the browser's address line ('*' for any name)."
        )
    listening = () if address.is_unspecified else (in_url(host),)
    return tuple(dict.fromkeys((*checked, *listening, *HERE)))


def in_url(host: str) -> str:
    """An address as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _checked(name: str) -> str:
    try:
        return in_url(str(IPv6Address(name)))
    except ValueError:
        if not _NAME.fullmatch(name):
            raise AppError(
                f"--allow-host takes a name or an address without http:// and port, such as box.example.org, "
                f"*.example.org or 192.168.1.5; got {name!r}."
            ) from None
    return name.lower()


def resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """The family and the address that a host and a port stand for.

    Raises:
        AppError: when there is no such host.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, OverflowError, ValueError) as error:
        raise AppError(f"cannot listen at {host}:{port}: {one_line(error)}. Choose another host or port.") from error
    return family, address


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        AppError: when the address cannot be had.
    """
    family, address = resolved(host, port)
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or one_line(error)
        raise AppError(f"cannot listen at {host}:{port}: {reason}. Choose another port; 0 is any free one.") from error
    return listening
