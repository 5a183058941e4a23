"""The way of one kind of entries to the collector: a bounded queue, and one request at a time until it is settled.

Nothing here waits or locks: the client calls it under its lock, and its thread makes the requests.
"""

from __future__ import annotations

import random
import secrets
import time
from collections import deque
from dataclasses import dataclass
from typing import Optional, Protocol

from ._errors import FleetreelError, InvalidEntryError, RequestError
from ._limits import (
    CLOSING_RETRY_SECONDS,
    INTERNAL_ERRORS_MAX,
    REFUSED_LINES_MAX,
    RETRY_SECONDS_MAX,
    RETRY_SECONDS_MIN,
)

#: Why an entry will not be stored: it can't be (``invalid``), the queue was full (``full``, the oldest go first), the
#: collector refused it (``rejected``), or the client ended before it was acknowledged (``closed``).
DropReason = str

REASONS = ("invalid", "full", "rejected", "closed")


@dataclass(frozen=True)
class KindStats:
    """Counts since the client was made. ``given`` is the sum of ``waiting``, ``acknowledged`` and what was dropped."""

    given: int
    #: In memory, a request that is under way included.
    waiting: int
    waiting_bytes: int
    #: Taken by the log: they will not be lost.
    acknowledged: int
    dropped: dict[DropReason, int]
    #: Requests that were made once more, or will be.
    retries: int


class Report(Protocol):
    def drop(self, kind: str, reason: DropReason, count: int, error: Optional[FleetreelError]) -> None: ...

    def trouble(self, error: FleetreelError) -> None: ...


@dataclass(frozen=True)
class Bounds:
    batch_count: int
    batch_bytes: int
    flush_seconds: float
    queue_count: int
    queue_bytes: int


class Batch:
    """What one request brings."""

    def __init__(self, id: str, place: int, lines: list[bytes]) -> None:
        #: The same for each attempt: the collector knows by it what it has taken already.
        self.id = id
        #: How many entered the queue before its oldest line.
        self.place = place
        self.lines = lines
        self.size = sum(map(len, lines))
        #: How often the collector failed at it.
        self.internal_errors = 0
        #: Lines that were taken out because the collector refused them.
        self.refused = 0


class Lane:
    def __init__(self, kind: str, bounds: Bounds, report: Report) -> None:
        self.kind = kind
        self._bounds = bounds
        self._report = report
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        # How many of the queue are sent without waiting for more, and when all of them are: monotonic seconds.
        self._due = 0
        self._due_at: Optional[float] = None
        # The batch that is being delivered; its request is under way, or it waits to be tried again.
        self._current: Optional[Batch] = None
        self._is_under_way = False
        self._failures = 0
        self._rest_until = 0.0
        # Whether the collector asked for the pause, and that because it has too much to do.
        self._is_asked = False
        self._is_busy = False
        self.is_ending = False
        # A process that was forked has another: what it sends is not what its parent has sent.
        self._session = secrets.token_hex(16)
        self._batches = 0
        self._given = 0
        # Those of the given that came into the queue.
        self._entered = 0
        self._acknowledged = 0
        self._retries = 0
        self._dropped = dict.fromkeys(REASONS, 0)

    def put(self, line: bytes, is_closed: bool) -> bool:
        """Takes an entry. Returns whether the thread has something to do because of it."""
        if len(line) > self._bounds.batch_bytes:
            self.refuse(
                InvalidEntryError(
                    f"An entry of {len(line)} bytes is larger than a request; {self._bounds.batch_bytes} is the most."
                )
            )
            return True
        self._given += 1
        if is_closed:
            self._drop("closed", 1)
            return True
        self._queue.append(line)
        self._queue_bytes += len(line)
        self._entered += 1
        was_waited_for = self._due_at is not None
        if not was_waited_for:
            self._due_at = time.monotonic() + self._bounds.flush_seconds
        has_dropped = self._make_room()
        # While a batch is being delivered the thread comes back by itself.
        return has_dropped or (self._current is None and (not was_waited_for or self._is_full))

    def refuse(self, error: FleetreelError) -> None:
        """Counts an entry that can't be."""
        self._given += 1
        self._drop("invalid", 1, error)

    @property
    def stats(self) -> KindStats:
        return KindStats(
            self._given, self._waiting, self._waiting_bytes, self._acknowledged, dict(self._dropped), self._retries
        )

    @property
    def is_empty(self) -> bool:
        return self._waiting == 0

    def is_settled(self, place: int) -> bool:
        """Whether all that entered before is settled: some is dropped sooner than what is older, so counts do not tell."""
        return (self._queue_place if self._current is None else self._current.place) >= place

    def flush(self) -> int:
        """All that there is is sent without waiting for more. Returns the place behind it."""
        self._due = len(self._queue)
        if not self._is_asked or (self.is_ending and not self._is_busy):
            self._rest_until = 0.0
        return self._entered

    def ready_at(self, now: float) -> Optional[float]:
        """When the next request can be made: monotonic seconds; None while there is nothing to send."""
        if self._is_under_way:
            return None
        if self._current is not None or self._due > 0 or self._is_full:
            return max(now, self._rest_until)
        return None if self._due_at is None else max(self._due_at, self._rest_until)

    def next(self, now: float) -> Optional[Batch]:
        """The batch of the next request, which is under way from now on."""
        if self._is_under_way or self._rest_until > now:
            return None
        if self._current is None:
            if self._due_at is not None and self._due_at <= now:
                self._due = len(self._queue)
            if self._due > 0 or self._is_full:
                self._current = self._seal()
        self._is_under_way = self._current is not None
        return self._current

    def settle(self, batch: Batch, error: Optional[FleetreelError]) -> None:
        """Takes the outcome of a request: no error is that the log has all of it."""
        self._is_under_way = False
        if batch is not self._current:
            return  # Given up meanwhile.
        if error is None:
            self._failures = 0
            self._current = None
            self._acknowledged += len(batch.lines)
        elif not self._is_without_refused(batch, error):
            if _is_final(batch, error):
                self._failures = 0
                self._current = None
                self._drop("rejected", len(batch.lines), error)
            else:
                self._report.trouble(error)
                self._retries += 1
                self._failures += 1
                self._rest(error)

    def abandon(self) -> None:
        """Gives up what is not acknowledged yet."""
        count = self._waiting
        self._current = None
        self._queue.clear()
        self._queue_bytes = 0
        self._due = 0
        self._due_at = None
        if count > 0:
            self._drop("closed", count)

    @property
    def _queue_place(self) -> int:
        """How many entered before the oldest of the queue."""
        return self._entered - len(self._queue)

    @property
    def _waiting(self) -> int:
        return len(self._queue) + (0 if self._current is None else len(self._current.lines))

    @property
    def _waiting_bytes(self) -> int:
        return self._queue_bytes + (0 if self._current is None else self._current.size)

    @property
    def _is_full(self) -> bool:
        """Whether there is enough for a request."""
        return len(self._queue) >= self._bounds.batch_count or self._queue_bytes >= self._bounds.batch_bytes

    def _make_room(self) -> bool:
        """The oldest go first: the batch that waits to be tried again, then the queue's. A request under way stays."""
        has_dropped = False
        while self._waiting > self._bounds.queue_count or self._waiting_bytes > self._bounds.queue_bytes:
            if self._current is not None and not self._is_under_way:
                batch, self._current = self._current, None
                self._drop("full", len(batch.lines))
            elif self._queue:
                self._queue_bytes -= len(self._queue.popleft())
                self._due = max(0, self._due - 1)
                self._drop("full", 1)
            else:
                break
            has_dropped = True
        return has_dropped

    def _drop(self, reason: DropReason, count: int, error: Optional[FleetreelError] = None) -> None:
        self._dropped[reason] += count
        self._report.drop(self.kind, reason, count, error)

    def _seal(self) -> Optional[Batch]:
        """The oldest of the queue as one request."""
        lines: list[bytes] = []
        size = 0
        place = self._queue_place
        queue, bounds = self._queue, self._bounds
        while queue and len(lines) < bounds.batch_count and size + len(queue[0]) <= bounds.batch_bytes:
            line = queue.popleft()
            size += len(line)
            lines.append(line)
        if not lines:
            return None
        self._queue_bytes -= size
        self._due = max(0, self._due - len(lines))
        self._due_at = time.monotonic() + bounds.flush_seconds if queue else None
        return Batch(self._new_id(), place, lines)

    def _new_id(self) -> str:
        self._batches += 1
        return f"{self._session}-{self._batches}"

    def _is_without_refused(self, batch: Batch, error: FleetreelError) -> bool:
        """Takes out the line that was refused, for which nothing of the others was stored."""
        index = error.index if isinstance(error, RequestError) else None
        if index is None or index >= len(batch.lines) or len(batch.lines) < 2 or batch.refused >= REFUSED_LINES_MAX:
            return False
        batch.size -= len(batch.lines.pop(index))
        batch.refused += 1
        # Another batch than the one that was refused.
        batch.id = self._new_id()
        self._drop("rejected", 1, error)
        return True

    def _rest(self, error: FleetreelError) -> None:
        asked = error.retry_after_seconds if isinstance(error, RequestError) else None
        self._is_busy = isinstance(error, RequestError) and error.status == 429
        # While closing, one that is only away for now is asked sooner.
        if self.is_ending and not self._is_busy:
            asked = None
        self._is_asked = asked is not None
        longest = CLOSING_RETRY_SECONDS if self.is_ending else RETRY_SECONDS_MAX
        doubled: float = min(longest, RETRY_SECONDS_MIN * 2 ** min(self._failures - 1, 20))
        pause = asked if asked is not None else doubled * (0.5 + random.random() / 2)
        self._rest_until = time.monotonic() + pause


def _is_final(batch: Batch, error: FleetreelError) -> bool:
    """Whether another attempt would end the same."""
    if not isinstance(error, RequestError):
        return False
    # It does not pass with time as long as the application goes on with new names, and what comes after must not wait.
    if error.code == "too_many_custom_names":
        return True
    if error.status == 500:
        batch.internal_errors += 1
        return batch.internal_errors >= INTERNAL_ERRORS_MAX
    return error.status < 500 and error.status not in (408, 429)
