"""What may go wrong, as types. No error holds the key, nor anything that was sent with it."""

from __future__ import annotations

from typing import Optional


class FleetreelError(Exception):
    """What every error of this package is."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        #: Stable name of what is wrong: the collector's for what it answered.
        self.code = code


class ConfigurationError(FleetreelError, ValueError):
    """The client was made, or asked, with arguments that can't be."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_configuration", message)


class InvalidEntryError(FleetreelError):
    """A measure or an event that can't be: it was counted and left out."""

    def __init__(self, message: str) -> None:
        super().__init__("invalid_entry", message)


class ConnectionFailed(FleetreelError):
    """Nobody answered, or not in time."""

    def __init__(self, message: str) -> None:
        super().__init__("connection", message)


class RequestError(FleetreelError):
    """The collector answered that it won't. The message is the sentence of its problem document."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        parameter: Optional[str] = None,
        index: Optional[int] = None,
        retry_after_seconds: Optional[float] = None,
    ) -> None:
        super().__init__(code, message)
        #: Of HTTP.
        self.status = status
        #: The parameter at fault.
        self.parameter = parameter
        #: Of many entries in one request, the one at fault, from 0.
        self.index = index
        #: How long it wants to be left alone.
        self.retry_after_seconds = retry_after_seconds
