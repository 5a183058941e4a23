"""Requests to the collector over one connection that is kept. The only place that knows the key."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import re
import socket
import ssl
import time
from typing import Any, Callable, Mapping, Optional, Union
from urllib.parse import urlsplit

from ._errors import ConfigurationError, ConnectionFailed, FleetreelError, RequestError
from ._limits import PROBLEM_BYTES_MAX, RETRY_AFTER_SECONDS_MAX

#: What a kept connection says when the other side closed it while it was idle.
_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ConnectionAbortedError)


#: Connections of parents, which no child may end.
_inherited: list[http.client.HTTPConnection] = []


class Secret:
    """A text that no repr shows, and so no traceback with local variables, and that can't be pickled."""

    __slots__ = ("_read",)
    _read: Callable[[], str]

    def __init__(self, text: object) -> None:
        if not isinstance(text, str) or text == "":
            raise ConfigurationError('There is no key: give "key", one of an administrator (frk_...).')
        # A header takes no other characters, and the error of one that refuses repeats its value.
        if re.fullmatch(r"[\x21-\x7e]+", text) is None:
            raise ConfigurationError(
                "The key has characters that no key has: give it as it was shown, without spaces."
            )
        self._read = lambda: text

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> str:
        raise TypeError("A key can't be pickled: make a client where it is used.")

    def read(self) -> str:
        return self._read()


class Address:
    """Where the collector is, and with what it is asked. Raises ConfigurationError."""

    def __init__(self, url: str, secret: Secret, seconds: float, context: Optional[ssl.SSLContext]) -> None:
        try:
            parts = urlsplit(url)
            self.host = parts.hostname
            self.port = parts.port
        except (ValueError, TypeError, AttributeError):
            parts, self.host = urlsplit(""), None
        if self.host is None or parts.scheme not in ("http", "https"):
            raise ConfigurationError(
                'There is no address of the collector that can be read: give "url", such as http://127.0.0.1:7600.'
            )
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError('"url" has a user name or a password: leave them out, the key is what counts.')
        if parts.query or parts.fragment:
            raise ConfigurationError('"url" has a query or a fragment: give scheme, host and port alone.')
        self.scheme = parts.scheme
        self.path = parts.path.rstrip("/")
        self.text = f"{parts.scheme}://{parts.netloc}{self.path}"
        self.seconds = seconds
        self.secret = secret
        self.context = context

    def open(self) -> http.client.HTTPConnection:
        host = self.host or ""
        if self.scheme == "http":
            return http.client.HTTPConnection(host, self.port, timeout=self.seconds)
        context = self.context or ssl.create_default_context()
        return http.client.HTTPSConnection(host, self.port, timeout=self.seconds, context=context)

    def clean(self, text: str) -> str:
        """Whoever repeats what it was sent shall not bring the key into a log."""
        return text.replace(self.secret.read(), "frk_...")


class Transport:
    """One connection; not for two threads at a time, but that `interrupt` may be called by another."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: Optional[http.client.HTTPConnection] = None

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Optional[bytes],
        *,
        member: str,
        seconds: Optional[float] = None,
    ) -> dict[str, Any]:
        """The body of the answer: an object with this member, as a collector's is.

        Raises RequestError when it is no success, ConnectionFailed when there is none.
        """
        limit = self._address.seconds if seconds is None else min(seconds, self._address.seconds)
        result = self._try(method, path, headers, body, limit)
        if isinstance(result, _Stale):
            # The connection had been closed while nobody used it: that says nothing of the collector.
            result = self._try(method, path, headers, body, limit)
        if isinstance(result, _Stale):
            raise self._unreachable("the connection was closed")
        if isinstance(result, FleetreelError):
            raise result
        try:
            document = json.loads(result)
        except (ValueError, RecursionError) as cause:
            raise ConnectionFailed(f"The answer of {self._address.text} can't be read: {cause}.") from None
        # A proxy, or a server of pages at a wrong address, may say yes to anything.
        if not isinstance(document, dict) or member not in document:
            raise ConnectionFailed(f"The answer of {self._address.text} is none of a collector.")
        return document

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        """Ends a request that another thread waits for."""
        connection = self._connection
        try:
            if connection is not None and connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # It has ended meanwhile.

    def forget(self) -> None:
        """In a child: the connection is the parent's, whose thread may have been reading from it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # Its buffers have locks that nobody releases here: they are kept as they are, and only the descriptor is closed.
        _inherited.append(connection)
        if connection.sock is not None:
            try:
                os.close(connection.sock.detach())
            except OSError:
                pass  # It was closed already.

    def _try(
        self, method: str, path: str, headers: Mapping[str, str], body: Optional[bytes], limit: float
    ) -> Union[bytes, FleetreelError, _Stale]:
        """Never raises what a library raised: its traceback has the key in its variables."""
        is_kept = self._connection is not None and self._connection.sock is not None
        end = time.monotonic() + limit
        try:
            connection = self._connection
            if connection is None:
                connection = self._connection = self._address.open()
            connection.timeout = limit
            if connection.sock is not None:
                connection.sock.settimeout(limit)
            self._send(connection, method, path, headers, body)
            answer = connection.getresponse()
            return self._read(connection, answer, end)
        except Exception as cause:  # Whatever it is, the thread that sends goes on.
            self.close()
            if isinstance(cause, (socket.timeout, TimeoutError)):
                return ConnectionFailed(f"{self._address.text} did not answer within {limit:g} s.")
            if is_kept and isinstance(cause, _STALE):
                return _Stale()
            return self._unreachable(str(cause) or type(cause).__name__)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Optional[bytes],
    ) -> None:
        connection.putrequest(method, self._address.path + path)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader("Authorization", f"Bearer {self._address.secret.read()}")
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)

    def _read(
        self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, end: float
    ) -> Union[bytes, FleetreelError]:
        is_success = 200 <= answer.status < 300
        parts: list[bytes] = []
        size = 0
        while is_success or size < PROBLEM_BYTES_MAX:
            # One that sends a little at a time forever is not waited for either.
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if connection.sock is not None:
                connection.sock.settimeout(left)
            part = answer.read1(PROBLEM_BYTES_MAX)
            if not part:
                break
            parts.append(part)
            size += len(part)
        if not answer.isclosed() or answer.will_close:
            self.close()
        body = b"".join(parts)
        return body if is_success else self._refusal(answer, body)

    def _unreachable(self, reason: str) -> ConnectionFailed:
        return ConnectionFailed(f"{self._address.text} can't be reached: {self._address.clean(reason)}.")

    def _refusal(self, answer: http.client.HTTPResponse, body: bytes) -> RequestError:
        where = self._address.text
        if 300 <= answer.status < 400:
            return RequestError(answer.status, "redirected", f"{where} sends on to another address: give that one.")
        problem = _problem(body)
        code, detail, parameter, index = (problem.get(name) for name in ("code", "detail", "parameter", "index"))
        return RequestError(
            answer.status,
            code if isinstance(code, str) else f"http_{answer.status}",
            self._address.clean(
                detail if isinstance(detail, str) else f"{where} answered {answer.status} without saying why."
            ),
            parameter=parameter if isinstance(parameter, str) else None,
            index=index if type(index) is int and index >= 0 else None,
            retry_after_seconds=_retry_after(answer.getheader("retry-after")),
        )


class _Stale:
    """A kept connection was closed by the other side."""


def _problem(body: bytes) -> Mapping[str, object]:
    """A problem document (RFC 9457); nothing of anything else."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _retry_after(header: Optional[str]) -> Optional[float]:
    """Retry-After in seconds: a number of them or a date."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS_MAX)
