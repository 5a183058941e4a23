"""Finds what was written, page by page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Iterator, Mapping, Optional, Sequence, Union
from urllib.parse import urlencode

from ._entry import Metadata, Severity
from ._errors import ConfigurationError
from ._limits import PAGE_COUNT
from ._transport import Address, Transport

#: One name or some; ``*`` stands for any characters.
Names = Union[str, Sequence[str]]

#: A datetime with its time zone, seconds since 1970, or text as ``-1h`` and RFC 3339.
When = Union[datetime, float, str]

#: Metadata that are equal, or conditions, all of which hold: ``["size>=10", "host=web-*"]``.
Where = Union[Metadata, Sequence[str]]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Measure:
    """A measure as it was stored: with a value or a text."""

    #: Unique within its time.
    id: str
    time: datetime
    name: str
    value: Optional[float]
    text: Optional[str]
    metadata: Mapping[str, Union[str, float, bool]]
    #: The id of the key that it was written with.
    source: str


@dataclass(frozen=True)
class Event:
    """An event as it was stored."""

    #: Unique within its time.
    id: str
    time: datetime
    #: None where it has no length.
    end: Optional[datetime]
    name: str
    severity: Severity
    text: str
    metadata: Mapping[str, Union[str, float, bool]]
    #: The id of the key that it was written with.
    source: str


def find_measures(address: Address, parameters: list[tuple[str, str]], limit: Optional[int]) -> Iterator[Measure]:
    for row in _rows(address, "measure", parameters, limit):
        yield Measure(
            row["id"], _time(row["time"]), row["name"], row["value"], row["text"], row["metadata"], row["source"]
        )


def find_events(address: Address, parameters: list[tuple[str, str]], limit: Optional[int]) -> Iterator[Event]:
    for row in _rows(address, "event", parameters, limit):
        end = None if row["end"] is None else _time(row["end"])
        yield Event(
            row["id"],
            _time(row["time"]),
            end,
            row["name"],
            row["severity"],
            row["text"],
            row["metadata"],
            row["source"],
        )


def parameters_of(
    names: Optional[Names], start: Optional[When], end: Optional[When], where: Optional[Where], severities: Optional[Names]
) -> list[tuple[str, str]]:
    """Raises ConfigurationError."""
    parameters = [("name", name) for name in _list(names)]
    parameters += [("severity", severity) for severity in _list(severities)]
    for name, time in (("from", start), ("to", end)):
        if time is not None:
            parameters.append((name, _text(name, time)))
    return parameters + [("where", condition) for condition in _conditions(where)]


def _rows(
    address: Address, kind: str, parameters: list[tuple[str, str]], limit: Optional[int]
) -> Iterator[Mapping[str, Any]]:
    left = limit
    transport = Transport(address)
    try:
        before: list[tuple[str, str]] = []
        while left is None or left > 0:
            count = PAGE_COUNT if left is None else min(left, PAGE_COUNT)
            query = urlencode([*parameters, ("limit", str(count)), *before])
            page = transport.request("GET", f"/api/v1/{kind}?{query}", {}, None, member=f"{kind}s")
            rows = page[f"{kind}s"]
            yield from rows
            if left is not None:
                left -= len(rows)
            if page["before"] is None:
                return
            before = [("before", page["before"])]
    finally:
        transport.close()


def _list(given: Optional[Names]) -> Sequence[str]:
    return () if given is None else (given,) if isinstance(given, str) else given


def _text(name: str, time: When) -> str:
    if isinstance(time, str):
        return time
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ConfigurationError(f'"{name}" has no time zone: use datetime.now(timezone.utc).')
        milliseconds = (time - _EPOCH) / timedelta(milliseconds=1)
    else:
        milliseconds = time * 1000
    # Microseconds are kept: a time that was found has them.
    return f"{milliseconds:.3f}".rstrip("0").rstrip(".")


def _conditions(where: Optional[Where]) -> Sequence[str]:
    if where is None:
        return ()
    if isinstance(where, str):
        return (where,)
    if not isinstance(where, Mapping):
        return where
    # In quotes a text is itself: not a pattern, nor a number.
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in where.items()]


def _time(milliseconds: float) -> datetime:
    """As the integer of microseconds that it is: a float of seconds would round."""
    return _EPOCH + timedelta(microseconds=round(milliseconds * 1000))
