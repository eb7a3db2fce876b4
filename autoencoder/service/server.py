"""Runs the service's application on a socket until SIGTERM or SIGINT; what was accepted is finished."""

import asyncio
import ipaddress
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from autoencoder.remote import TOKEN_VARIABLE

HEAD_S = 15.0  # time to send a request's head, or the rest of a body that is refused
MAX_CONNECTIONS = 512  # below the usual limit of 1,024 open files
SWITCH_S = 2e-4  # the model comes back from every operation: it should not wait 5 ms for the event loop to make way
UNREAD_MS = 60_000  # after which the system gives up a connection whose client reads nothing


class ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which by itself waits for ever for a head that does not come."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock of a new connection."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the clock runs on while the head is incomplete."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        super().connection_lost(exc)
        if self._head_timer:
            self._head_timer.cancel()

    def _watch_head(self) -> None:
        """Start the clock while no request is being served; the service has its own limits for the rest."""
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._give_up)
        elif not waits and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


def is_loopback(host: str) -> bool:
    """True for localhost and the addresses that only this machine can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_token(token: str | None, host: str) -> str | None:
    """The token of the option or the environment; ValueError if it is needed and missing, or cannot travel."""
    token = os.environ.get(TOKEN_VARIABLE) or None if token is None else token
    if token is None and not is_loopback(host):
        raise ValueError(
            f"host {host!r} can be reached by others, so a token is needed; set {TOKEN_VARIABLE} or --token, "
            "or leave --host at 127.0.0.1"
        )
    if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("the token has to be printable ASCII without spaces, and not empty; choose another one")
    return token


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; port 0 takes a free one.

    Raises:
        ValueError: If the port is none.
        OSError: If host and port cannot be had, naming them.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port}, expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(AttributeError):  # not on every system
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
        listener.bind(address)
    except OSError as error:
        raise OSError(f"host {host!r}, port {port}: cannot listen there ({error}); choose another --port") from error
    return listener


def server_of(app: FastAPI) -> uvicorn.Server:
    """A server that answers HTTP/1.1 only, logs no addresses and no query strings, and has time-outs everywhere."""
    config = uvicorn.Config(
        app,
        http=ImpatientProtocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
    )
    return uvicorn.Server(config)


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then refuse new connections, finish the accepted requests, and return.

    A second SIGINT gives the unfinished ones up. To be called from the main thread.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again when it has stopped
    sys.setswitchinterval(SWITCH_S)
    server_of(app).run(sockets=[listener])
