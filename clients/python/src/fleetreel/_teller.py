"""What the application is told of trouble: one kind at once, and what comes of it within the next minute together afterwards."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Callable, Optional

from ._limits import TELL_KINDS_MAX, TELL_SECONDS

log = logging.getLogger("fleetreel")

Tell = Callable[[int], object]


@dataclass
class _Trouble:
    #: What has come since it was told of last.
    count: int
    tell: Tell
    #: Before then it is not told of: monotonic seconds.
    at: float


class Teller:
    """Like the lanes, under the client's lock; what `due` returns is called without it."""

    def __init__(self) -> None:
        self._troubles: dict[str, _Trouble] = {}

    def add(self, kind: str, count: int, tell: Tell) -> None:
        if kind not in self._troubles and len(self._troubles) >= TELL_KINDS_MAX:
            kind = "other"
        known = self._troubles.get(kind)
        if known is None:
            self._troubles[kind] = _Trouble(count, tell, time.monotonic())
        else:
            known.count += count
            known.tell = tell

    def ready_at(self) -> Optional[float]:
        """When something is to be told: monotonic seconds."""
        return min((trouble.at for trouble in self._troubles.values() if trouble.count > 0), default=None)

    def due(self, is_all: bool = False) -> list[tuple[Tell, int]]:
        """What is to be told now, with how many there are."""
        now = time.monotonic()
        told: list[tuple[Tell, int]] = []
        for kind, trouble in list(self._troubles.items()):
            if not is_all and trouble.at > now:
                continue
            if trouble.count == 0:
                # A minute without it: it is news when it comes again.
                del self._troubles[kind]
                continue
            told.append((trouble.tell, trouble.count))
            trouble.count = 0
            trouble.at = now + TELL_SECONDS
        return told


def tell_all(told: list[tuple[Tell, int]]) -> None:
    """What the application does with what it is told must not end the sending."""
    for tell, count in told:
        try:
            tell(count)
        except (Exception, SystemExit):
            log.exception("on_error or on_drop raised")
