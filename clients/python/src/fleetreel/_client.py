"""Writes an application's measures and events to the collector without ever standing in its way, and finds them again."""

from __future__ import annotations

import atexit
import math
import os
import ssl
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Callable, Iterator, Optional, Type, Union

from . import _limits as limits
from ._entry import Metadata, Severity, Time, event_line, measure_line
from ._errors import ConfigurationError, FleetreelError, InvalidEntryError
from ._find import Event, Measure, Names, When, Where, find_events, find_measures, parameters_of
from ._lane import Batch, Bounds, DropReason, KindStats, Lane
from ._teller import Tell, Teller, log, tell_all
from ._transport import Address, Secret, Transport

__all__ = ["Client", "Drop", "DropReason", "KindStats", "Stats"]


@dataclass(frozen=True)
class Drop:
    """Entries that will not be stored."""

    #: ``measure`` or ``event``.
    kind: str
    reason: DropReason
    #: How many since this was told of last.
    count: int
    #: What the collector answered, where it refused them.
    error: Optional[FleetreelError]


@dataclass(frozen=True)
class Stats:
    """What the client counted, by kind."""

    measure: KindStats
    event: KindStats


_WHY = {
    "invalid": "can't be",
    "full": "were dropped, the oldest first: the queue is full",
    "rejected": "were dropped: the collector refused them",
    "closed": "were dropped: they were not acknowledged when the client ended",
}


def _log_drop(drop: Drop) -> None:
    log.warning("%d %ss %s%s", drop.count, drop.kind, _WHY[drop.reason], f". {drop.error}" if drop.error else ".")


def _log_error(error: FleetreelError, count: int) -> None:
    log.warning("%s%s", error, f" ({count} times)" if count > 1 else "")


class Client:
    """An application's connection to one collector. Make one, and keep it: it may be used by any thread.

    A thread of its own sends what is given. What a process that is forked gives is sent by that process; what was given before
    is sent by its parent alone.

    :param url: where the collector is: ``https://fleetreel.example.org``, ``http://127.0.0.1:7600``
    :param key: with the right to write (``write:measure``, ``write:event``) or to find (``read``)
    :param batch_count: entries of a request
    :param batch_bytes: bytes of a request
    :param flush_seconds: how long an entry waits for others at most
    :param queue_count: entries of a kind in memory, beyond which the oldest are dropped
    :param queue_bytes: bytes of entries of a kind in memory, beyond which the oldest are dropped
    :param request_seconds: how long the collector has to answer
    :param close_seconds: how long ``close``, and the end of the process, wait for what is not acknowledged
    :param on_error: is told what went wrong, by the thread that sends: an entry that can't be, and what is tried again. One kind
        of trouble at once, and then once a minute, with how often it came. The logger ``fleetreel`` by default.
    :param on_drop: is told of entries that will not be stored, as often. The logger ``fleetreel`` by default.
    :param ssl_context: for https, where the system's certificates are not the right ones
    :raises ConfigurationError:
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        batch_count: int = limits.BATCH_COUNT,
        batch_bytes: int = limits.BATCH_BYTES,
        flush_seconds: float = limits.FLUSH_SECONDS,
        queue_count: int = limits.QUEUE_COUNT,
        queue_bytes: int = limits.QUEUE_BYTES,
        request_seconds: float = limits.REQUEST_SECONDS,
        close_seconds: float = limits.CLOSE_SECONDS,
        on_error: Optional[Callable[[FleetreelError, int], object]] = None,
        on_drop: Optional[Callable[[Drop], object]] = None,
        ssl_context: Optional[ssl.SSLContext] = None,
    ) -> None:
        # Whatever is raised from here on shows the variables of this frame to whoever collects them.
        secret, key = Secret(key), ""
        counts = {
            "batch_count": batch_count,
            "batch_bytes": batch_bytes,
            "queue_count": queue_count,
            "queue_bytes": queue_bytes,
        }
        for name, count in counts.items():
            if type(count) is not int or count < 1:
                raise ConfigurationError(f'"{name}" is a whole number of 1 or more, and not {count!r}.')
        durations = {
            "flush_seconds": flush_seconds,
            "request_seconds": request_seconds,
            "close_seconds": close_seconds,
        }
        for name, seconds in durations.items():
            if type(seconds) not in (int, float) or not 0 < seconds <= threading.TIMEOUT_MAX:
                raise ConfigurationError(f'"{name}" is a number of seconds above 0, and not {seconds!r}.')
        if batch_count > queue_count or batch_bytes > queue_bytes:
            raise ConfigurationError(
                'A request can hold no more than the queue: "batch_count" or "batch_bytes" is too large.'
            )
        for name, callback in (("on_error", on_error), ("on_drop", on_drop)):
            if callback is not None and not callable(callback):
                raise ConfigurationError(f'"{name}" can\'t be called.')
        self._address = Address(url, secret, request_seconds, ssl_context)
        self._bounds = Bounds(batch_count, batch_bytes, flush_seconds, queue_count, queue_bytes)
        self._close_seconds = close_seconds
        self._on_error = on_error or _log_error
        self._on_drop = on_drop or _log_drop
        self._is_closed = False
        self._begin()
        _clients.add(self)

    def _begin(self) -> None:
        # One that the same thread may take twice: a signal handler, or a destructor, may write a measure at any place.
        self._changed = threading.Condition(threading.RLock())
        self._teller = Teller()
        report = _Report(self, self._teller)
        self._lanes = {kind: Lane(kind, self._bounds, report) for kind in ("measure", "event")}
        self._transport = Transport(self._address)
        # What the lanes have not yet, and whether it is being brought to them.
        self._incoming: deque[tuple[str, Union[bytes, FleetreelError]]] = deque()
        self._is_taking = False
        # The one that sends, until it has ended.
        self._thread: Optional[threading.Thread] = None
        # When the sending ends at the latest: monotonic seconds; None while it goes on.
        self._end: Optional[float] = None

    def measure(
        self,
        name: str,
        value: Union[float, str],
        metadata: Optional[Metadata] = None,
        *,
        time: Optional[Time] = None,
    ) -> None:
        """Takes a measure: a number, or a text that is a state. Returns at once and never raises.

        What can't be is counted, and told to ``on_error``.

        :param name: a letter, then letters, digits, ``_``, ``-``, ``.``, ``:`` and ``/``
        :param time: when it was, with a time zone, or seconds since 1970; now by default
        """
        try:
            entry: Union[bytes, FleetreelError] = measure_line(name, value, metadata, time)
        except Exception as cause:  # A mapping of the application may raise anything.
            entry = _invalid("measure", cause)
        self._give("measure", entry)

    def event(
        self,
        name: str,
        text: str,
        metadata: Optional[Metadata] = None,
        *,
        time: Optional[Time] = None,
        end: Optional[Time] = None,
        severity: Optional[Severity] = None,
    ) -> None:
        """Takes an event: something that happened. Returns at once and never raises.

        :param name: as of a measure
        :param time: when it happened or began; now by default
        :param end: when it ended, where it has a length
        :param severity: ``debug``, ``info`` (by default), ``warning``, ``error`` or ``critical``
        """
        try:
            entry: Union[bytes, FleetreelError] = event_line(name, text, metadata, time, end, severity)
        except Exception as cause:
            entry = _invalid("event", cause)
        self._give("event", entry)

    def measures(
        self,
        name: Optional[Names] = None,
        *,
        from_: Optional[When] = None,
        to: Optional[When] = None,
        where: Optional[Where] = None,
        limit: Optional[int] = None,
    ) -> Iterator[Measure]:
        """Measures that were stored, the newest first, fetched as they are asked for.

        :param name: one of these names; ``*`` stands for any characters. All by default.
        :param from_: begin of the range; the last hour by default
        :param to: end of the range, exclusive; now by default
        :param where: metadata that are equal, or conditions: ``["size>=10", "host=web-*"]``
        :param limit: at most so many; all of the range by default
        :raises RequestError, ConnectionFailed: while iterating
        """
        return find_measures(self._address, parameters_of(name, from_, to, where, None), limit)

    def events(
        self,
        name: Optional[Names] = None,
        *,
        from_: Optional[When] = None,
        to: Optional[When] = None,
        where: Optional[Where] = None,
        severity: Optional[Names] = None,
        limit: Optional[int] = None,
    ) -> Iterator[Event]:
        """Events that were stored, as ``measures``."""
        return find_events(self._address, parameters_of(name, from_, to, where, severity), limit)

    def stats(self) -> Stats:
        """Counts since the client was made, or since the process was forked."""
        with self._changed:
            return Stats(self._lanes["measure"].stats, self._lanes["event"].stats)

    def flush(self, seconds: Optional[float] = None) -> bool:
        """Sends what there is now, without waiting for more.

        Returns whether all of it was settled (acknowledged, or dropped and counted) within the time.
        """
        end = self._end_after(seconds)
        with self._changed:
            wanted = [(lane, lane.flush()) for lane in self._lanes.values()]
            is_settled = all(lane.is_settled(place) for lane, place in wanted)
            told = [] if is_settled else self._start()
            self._changed.notify_all()
        tell_all(told)
        with self._changed:
            while not all(lane.is_settled(place) for lane, place in wanted):
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self, seconds: Optional[float] = None) -> bool:
        """Sends what there is and ends; what is not acknowledged within the time is dropped and counted.

        What is given afterwards is, too. Returns whether nothing was left.
        """
        self._begin_close(seconds)
        return self._finish_close()

    def _end_after(self, seconds: Optional[float]) -> float:
        """When so many seconds are over: monotonic. A lock is waited for no longer than it can."""
        if seconds is None or math.isnan(seconds):
            seconds = self._close_seconds
        return time.monotonic() + min(max(seconds, 0.0), threading.TIMEOUT_MAX)

    def _begin_close(self, seconds: Optional[float] = None) -> None:
        end = self._end_after(seconds)
        with self._changed:
            self._is_closed = True
            if self._end is None or self._end > end:
                self._end = end
            for lane in self._lanes.values():
                lane.is_ending = True
                lane.flush()
            self._changed.notify_all()

    def _finish_close(self) -> bool:
        if self._thread is None or self._thread is threading.current_thread():
            # None could be started, as at the end of the interpreter, or it is told of something: then this one sends.
            self._run()
        with self._changed:
            # Not by join(): a signal handler may close in the midst of what has the lock, and only this lets go of it.
            while self._thread is not None:
                left = (self._end or 0.0) - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            is_empty = all(lane.is_empty for lane in self._lanes.values())
            for lane in self._lanes.values():
                lane.abandon()
            told = self._teller.due(is_all=True)
            self._changed.notify_all()
        if not is_empty:
            self._transport.interrupt()
        tell_all(told)
        return is_empty

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._address.text!r})"

    def _give(self, kind: str, entry: Union[bytes, FleetreelError]) -> None:
        self._incoming.append((kind, entry))
        told: list[tuple[Tell, int]] = []
        with self._changed:
            # A signal handler or a destructor may give something in the midst of this: it is taken afterwards.
            while self._incoming and not self._is_taking:
                self._is_taking = True
                try:
                    told += self._take()
                finally:
                    self._is_taking = False
        tell_all(told)

    def _take(self) -> list[tuple[Tell, int]]:
        """Brings what was given to the lanes. Returns what only the caller can tell."""
        while self._incoming:
            kind, entry = self._incoming.popleft()
            lane = self._lanes[kind]
            if isinstance(entry, FleetreelError):
                lane.refuse(entry)
                self._changed.notify_all()
            elif lane.put(entry, self._is_closed):
                self._changed.notify_all()
        return self._start()

    def _start(self) -> list[tuple[Tell, int]]:
        """Sees to it that there is a thread. Returns what only the caller can tell where there is none."""
        if self._thread is None and not self._is_closed:
            thread = threading.Thread(target=self._run, name="fleetreel", daemon=True)
            # A signal handler may have started one while this was made.
            if self._thread is None:
                self._thread = thread
                try:
                    thread.start()
                except RuntimeError as cause:  # The system has no more of them, or the interpreter ends.
                    self._thread = None
                    error = FleetreelError("no_thread", f"No thread can be started that sends: {cause}.")
                    self._teller.add("error no_thread", 1, lambda count: self._on_error(error, count))
        return self._teller.due() if self._thread is None or self._is_closed else []

    def _run(self) -> None:
        """Sends and tells until it is closed. The only place that waits for the collector."""
        while True:
            job = None
            with self._changed:
                told = self._teller.due()
                if not told:
                    if self._is_over():
                        self._transport.close()
                        self._thread = None
                        self._changed.notify_all()
                        return
                    job = self._next()
                    if job is None:
                        self._changed.wait(self._idle_seconds())
                        continue
            tell_all(told)
            if job is not None:
                lane, batch = job
                error = self._post(lane.kind, batch)
                with self._changed:
                    lane.settle(batch, error)
                    self._changed.notify_all()

    def _next(self) -> Optional[tuple[Lane, Batch]]:
        now = time.monotonic()
        for kind, lane in list(self._lanes.items()):
            batch = lane.next(now)
            if batch is not None:
                # The other one is next.
                self._lanes[kind] = self._lanes.pop(kind)
                return lane, batch
        return None

    def _is_over(self) -> bool:
        if self._end is None:
            return False
        return time.monotonic() >= self._end or all(lane.is_empty for lane in self._lanes.values())

    def _idle_seconds(self) -> Optional[float]:
        """Until there may be something to do; None until somebody says so."""
        now = time.monotonic()
        times = [lane.ready_at(now) for lane in self._lanes.values()] + [self._teller.ready_at(), self._end]
        at = min((one for one in times if one is not None), default=None)
        return None if at is None else min(max(0.0, at - now), threading.TIMEOUT_MAX)

    def _post(self, kind: str, batch: Batch) -> Optional[FleetreelError]:
        end = self._end
        seconds = None if end is None else max(0.1, end - time.monotonic())
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": batch.id}
        try:
            body = b"".join(batch.lines)
            self._transport.request("POST", f"/api/v1/{kind}", headers, body, member="accepted", seconds=seconds)
        except FleetreelError as error:
            return error
        return None

    def _after_fork(self) -> None:
        """In the child: the threads are gone, what waits is the parent's, and so is the connection."""
        self._transport.forget()
        self._begin()
        if self._is_closed:
            self._end = time.monotonic()


class _Report:
    """What the lanes report: with the lock held, and told without it."""

    def __init__(self, client: Client, teller: Teller) -> None:
        # The client has the lanes, and they have this.
        self._client = weakref.ref(client)
        self._teller = teller

    def drop(self, kind: str, reason: DropReason, count: int, error: Optional[FleetreelError]) -> None:
        if reason == "invalid" and error is not None:
            return self.trouble(error)
        code = None if error is None else error.code

        def tell(sum: int) -> None:
            client = self._client()
            if client is not None:
                client._on_drop(Drop(kind, reason, sum, error))

        self._teller.add(f"drop {kind} {reason} {code}", count, tell)

    def trouble(self, error: FleetreelError) -> None:
        def tell(count: int) -> None:
            client = self._client()
            if client is not None:
                client._on_error(error, count)

        self._teller.add(f"error {error.code}", 1, tell)


def _invalid(kind: str, cause: Exception) -> FleetreelError:
    return cause if isinstance(cause, FleetreelError) else InvalidEntryError(f"A {kind} can't be read: {cause!r}.")


#: Those that are closed, too: a child needs their locks anew, and what they dropped since is told at the end.
_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _close_all() -> None:
    """At the end of the interpreter: all of them at a time."""
    clients = list(_clients)
    for client in clients:
        client._begin_close()
    for client in clients:
        client._finish_close()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
