"""What an application gives, as the line that is sent: checked as the collector does, which refuses a whole request for one bad entry."""

from __future__ import annotations

import json
import math
import re
import time as clock
from datetime import datetime
from numbers import Real
from typing import Any, Mapping, Optional, Union

from ._errors import InvalidEntryError
from ._limits import METADATA_COUNT, METADATA_TEXT_CHARACTERS, TEXT_CHARACTERS

#: What an entry is about, by key: a letter, then letters, digits, ``_``, ``-`` and ``.``, at most 64 characters.
Metadata = Mapping[str, Union[str, float, bool]]

#: How grave an event is: one of ``debug``, ``info``, ``warning``, ``error`` and ``critical``.
Severity = str

#: When something was: a datetime with its time zone, or seconds since 1970 as ``time.time()`` gives them.
Time = Union[datetime, float]

SEVERITIES = ("debug", "info", "warning", "error", "critical")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_\-.:/]{0,127}", re.ASCII)
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_\-.]{0,63}", re.ASCII)

# Escapes what is not ASCII, half a pair of surrogates included: a line has as many bytes as characters.
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), check_circular=False).encode


def measure_line(name: str, value: Union[float, str], metadata: Optional[Metadata], time: Optional[Time]) -> bytes:
    """A measure as a line. Raises InvalidEntryError."""
    _check_name("measure", name)
    where = f'The measure "{name}"'
    entry: dict[str, Any] = {"name": name}
    if isinstance(value, str):
        entry["text"] = _text(where, value)
    else:
        number = _number(value)
        if number is None:
            raise InvalidEntryError(f"{where} has a value that is no finite number and no text: {_shown(value)}.")
        entry["value"] = number
    entry["time"] = _milliseconds(where, "time", time)
    _add_metadata(entry, where, metadata)
    return _line(entry)


def event_line(
    name: str,
    text: str,
    metadata: Optional[Metadata],
    time: Optional[Time],
    end: Optional[Time],
    severity: Optional[Severity],
) -> bytes:
    """An event as a line. Raises InvalidEntryError."""
    _check_name("event", name)
    where = f'The event "{name}"'
    if not isinstance(text, str):
        raise InvalidEntryError(f"{where} has a text that is none: {_shown(text)}.")
    if severity is not None and severity not in SEVERITIES:
        raise InvalidEntryError(f"{where} has the severity {_shown(severity)}: give {', '.join(SEVERITIES)}.")
    entry: dict[str, Any] = {"name": name, "text": _text(where, text), "time": _milliseconds(where, "time", time)}
    if end is not None:
        entry["end"] = _milliseconds(where, "end", end)
        if entry["end"] < entry["time"]:
            raise InvalidEntryError(f"{where} ends before it begins.")
    if severity is not None:
        entry["severity"] = severity
    _add_metadata(entry, where, metadata)
    return _line(entry)


def _line(entry: Mapping[str, Any]) -> bytes:
    return _encode(entry).encode("ascii") + b"\n"


def _check_name(kind: str, name: object) -> None:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidEntryError(
            f'The name of a {kind} is a letter, then letters, digits, "_", "-", ".", ":" and "/", '
            f"at most 128 characters, and not {_shown(name)}."
        )


def _text(where: str, text: str) -> str:
    if _characters(text) > TEXT_CHARACTERS:
        raise InvalidEntryError(
            f"{where} has a text of {_characters(text)} characters; {TEXT_CHARACTERS} is the most."
        )
    return text


def _characters(text: str) -> int:
    """As the collector counts them: those beyond the first 65,536 are two."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def _number(value: object) -> Union[int, float, None]:
    """A finite number that JSON has; None of anything else."""
    if type(value) is int or type(value) is float:
        number: Union[int, float] = value
    elif isinstance(value, Real) and not isinstance(value, bool):
        # What counts as a number, as numpy's do.
        number = float(value)
    else:
        return None
    try:
        return number if math.isfinite(number) else None
    except OverflowError:
        return None


def _milliseconds(where: str, what: str, given: Optional[Time]) -> float:
    if given is None:
        return round(clock.time() * 1000, 3)
    if isinstance(given, datetime):
        if given.tzinfo is None:
            raise InvalidEntryError(f"{where} has a {what} without a time zone: use datetime.now(timezone.utc).")
        return round(given.timestamp() * 1000, 3)
    seconds = _number(given)
    if seconds is None:
        raise InvalidEntryError(f"{where} has a {what} that is no datetime and no number of seconds: {_shown(given)}.")
    return round(seconds * 1000, 3)


def _add_metadata(entry: dict[str, Any], where: str, metadata: Optional[Metadata]) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, Mapping):
        raise InvalidEntryError(f"{where} has metadata that are no mapping: {_shown(metadata)}.")
    known: dict[str, Union[str, float, bool]] = {}
    for key, value in metadata.items():
        if value is None:
            continue
        if not isinstance(key, str) or _KEY.fullmatch(key) is None:
            raise InvalidEntryError(
                f"{where} has metadata under {_shown(key)}: a key is a letter, then letters, digits, "
                f'"_", "-" and ".", at most 64 characters.'
            )
        if isinstance(value, str):
            if _characters(value) > METADATA_TEXT_CHARACTERS:
                raise InvalidEntryError(
                    f'{where} has a text of {_characters(value)} characters under "{key}"; '
                    f"{METADATA_TEXT_CHARACTERS} is the most."
                )
            known[key] = value
        elif isinstance(value, bool):
            known[key] = value
        else:
            number = _number(value)
            if number is None:
                raise InvalidEntryError(
                    f'{where} has a value under "{key}" that is no text, no finite number, no True or False: '
                    f"{_shown(value)}."
                )
            known[key] = number
    if len(known) > METADATA_COUNT:
        raise InvalidEntryError(f"{where} has {len(known)} metadata; {METADATA_COUNT} is the most.")
    entry["metadata"] = known


def _shown(value: object) -> str:
    """A value as an error may repeat it: what it is, and a short one itself."""
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 100 else f"{value[:100]}...")
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    return f"a value of the type {type(value).__name__}"
