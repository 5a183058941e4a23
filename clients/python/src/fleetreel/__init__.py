"""Writes an application's own measures and events to Fleetreel, and finds them again."""

from ._client import Client, Drop, DropReason, KindStats, Stats
from ._entry import Metadata, Severity
from ._errors import ConfigurationError, ConnectionFailed, FleetreelError, InvalidEntryError, RequestError
from ._find import Event, Measure

__all__ = [
    "Client",
    "ConfigurationError",
    "ConnectionFailed",
    "Drop",
    "DropReason",
    "Event",
    "FleetreelError",
    "InvalidEntryError",
    "KindStats",
    "Measure",
    "Metadata",
    "RequestError",
    "Severity",
    "Stats",
]
