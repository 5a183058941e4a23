from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
import unittest
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, Dict, List, Tuple
from unittest import mock
from urllib.parse import parse_qs, urlsplit

from fleetreel import Client, ConfigurationError, Drop, FleetreelError, KindStats, RequestError

from .scripted import TAKEN, ScriptedServer, eventually, nobody

KEY = "frk_k1_abcdefghijklmnopqrstuvwxyz"


def total(stats: KindStats) -> int:
    return stats.waiting + stats.acknowledged + sum(stats.dropped.values())


class ClientCase(unittest.TestCase):
    def setUp(self) -> None:
        self.errors: List[FleetreelError] = []
        self.drops: List[Drop] = []

    def client(self, url: str, **options: Any) -> Client:
        """One that sends at once and says nothing."""
        given: Dict[str, Any] = {
            "flush_seconds": 0.01,
            "on_error": lambda error, count: self.errors.append(error),
            "on_drop": self.drops.append,
            **options,
        }
        client = Client(url, KEY, **given)
        self.addCleanup(client.close, 0.1)
        return client


class Sending(ClientCase):
    def test_entries_go_in_requests_of_so_many_each_with_an_id_and_the_key(self) -> None:
        with ScriptedServer() as server:
            client = self.client(server.url, batch_count=100, flush_seconds=60)
            before = time.time() * 1000
            for value in range(250):
                client.measure("queue.length", value, {"shard": "a", "hot": True, "size": 1.5, "none": None})  # type: ignore[dict-item]
            client.event("deployed", "version 3", {"by": "ana"}, severity="warning", time=1, end=datetime.fromtimestamp(2, timezone.utc))
            self.assertTrue(client.close())
            measures = [seen for seen in server.seen if seen.path == "/api/v1/measure"]
            self.assertEqual([len(seen.entries) for seen in measures], [100, 100, 50])
            self.assertEqual([entry["value"] for seen in measures for entry in seen.entries], list(range(250)))
            first = measures[0].entries[0]
            self.assertTrue(before - 1 <= first.pop("time") <= time.time() * 1000 + 1)
            self.assertEqual(
                first, {"name": "queue.length", "value": 0, "metadata": {"shard": "a", "hot": True, "size": 1.5}}
            )
            (event,) = [seen for seen in server.seen if seen.path == "/api/v1/event"]
            self.assertEqual(
                event.entries,
                [
                    {
                        "name": "deployed",
                        "text": "version 3",
                        "time": 1000,
                        "end": 2000,
                        "severity": "warning",
                        "metadata": {"by": "ana"},
                    }
                ],
            )
            self.assertEqual(len({seen.id for seen in server.seen}), 4)
            self.assertEqual({seen.authorization for seen in server.seen}, {f"Bearer {KEY}"})
        self.assertEqual((self.errors, self.drops), ([], []))
        self.assertEqual(client.stats().measure.acknowledged, 250)

    def test_what_fails_is_sent_again_under_its_id_after_growing_pauses_and_what_was_asked_for(self) -> None:
        answers: List[Any] = [
            (503, {}, "nothing that can be read"),
            (408, {}, ""),
            (429, {"Retry-After": "1"}, {"code": "busy", "detail": "Later."}),
            (500, {}, ""),
        ]
        with ScriptedServer(lambda seen, index: answers[index] if index < 4 else TAKEN) as server:
            client = self.client(server.url)
            client.measure("m", 1)
            eventually("the first", lambda: client.stats().measure.acknowledged == 1)
            client.measure("m", 2)
            self.assertTrue(client.close())
            self.assertEqual(server.values, [1, 1, 1, 1, 1, 2])
            self.assertEqual(len({seen.id for seen in server.seen[:5]}), 1)
            self.assertNotEqual(server.seen[5].id, server.seen[0].id)
            self.assertGreaterEqual(server.seen[3].at - server.seen[2].at, 0.99)
        self.assertEqual([error.code for error in self.errors], ["http_503", "http_408", "busy", "http_500"])
        self.assertIn("Later.", [str(error) for error in self.errors])
        self.assertEqual(client.stats().measure.retries, 4)

    def test_a_connection_that_was_closed_while_it_was_idle_is_made_again(self) -> None:
        with ScriptedServer(keeps=False) as server:
            client = self.client(server.url)
            for value in range(5):
                client.measure("m", value)
                self.assertTrue(client.flush())
            self.assertEqual(server.values, list(range(5)))
        self.assertEqual(self.errors, [])

    def test_a_request_that_the_collector_always_fails_at_is_given_up(self) -> None:
        always = mock.patch("fleetreel._lane.RETRY_SECONDS_MIN", 0.01)
        with always, ScriptedServer(lambda seen, index: (500, {}, "") if seen.entries[0]["value"] == 1 else TAKEN) as server:
            client = self.client(server.url, batch_count=1)
            client.measure("m", 1)
            client.measure("m", 2)
            eventually("the second", lambda: client.stats().measure.acknowledged == 1)
        self.assertEqual(client.stats().measure.dropped["rejected"], 1)

    def test_what_is_refused_is_dropped_and_told_of_once(self) -> None:
        problem = {"code": "forbidden", "detail": f"The key {KEY} may not write.", "parameter": "name"}
        with ScriptedServer(lambda seen, index: (403, {}, problem)) as server:
            client = self.client(server.url, batch_count=10)
            for value in range(50):
                client.measure("m", value)
            self.assertTrue(client.flush())
            eventually("it was told", lambda: len(self.drops) == 1)
            client.close()
        self.assertEqual(client.stats().measure.dropped["rejected"], 50)
        self.assertEqual(sum(drop.count for drop in self.drops), 50)
        self.assertLessEqual(len(self.drops), 2)
        error = self.drops[0].error
        assert isinstance(error, RequestError)
        self.assertEqual((error.status, error.code, error.parameter), (403, "forbidden", "name"))
        self.assertNotIn(KEY, repr((client, self.drops, vars(error))) + str(error))

    def test_without_the_entries_that_are_refused_one_by_one_the_others_are_sent(self) -> None:
        def script(seen: Any, index: int) -> Any:
            bad = [place for place, entry in enumerate(seen.entries) if entry["value"] in (3, 7)]
            return (400, {}, {"code": "bad_entry", "detail": "Bad.", "index": bad[0]}) if bad else TAKEN

        with ScriptedServer(script) as server:
            client = self.client(server.url, flush_seconds=60)
            for value in range(10):
                client.measure("m", value)
            self.assertTrue(client.close())
            self.assertEqual([entry["value"] for entry in server.seen[-1].entries], [0, 1, 2, 4, 5, 6, 8, 9])
            self.assertEqual(len({seen.id for seen in server.seen}), 3)
        self.assertEqual(client.stats().measure.dropped["rejected"], 2)

    def test_beyond_its_bounds_the_queue_drops_the_oldest_and_says_how_many(self) -> None:
        port, url = nobody()
        client = self.client(url, queue_count=1000, batch_count=100)
        for value in range(10_000):
            client.measure("m", value)
        eventually("it was told", lambda: any(error.code == "connection" for error in self.errors))
        stats = client.stats().measure
        self.assertLessEqual(stats.waiting, 1000)
        self.assertEqual(total(stats), 10_000)
        with ScriptedServer(port=port) as server:
            self.assertTrue(client.flush(20))
            self.assertEqual(server.values[-900:], list(range(9100, 10_000)))
            self.assertEqual(client.stats().measure.acknowledged, len(server.values))
            client.close()
        self.assertEqual({drop.reason for drop in self.drops}, {"full"})
        self.assertEqual(sum(drop.count for drop in self.drops), client.stats().measure.dropped["full"])

    def test_bytes_bound_the_queue_as_well(self) -> None:
        client = self.client(nobody()[1], queue_bytes=20_000, batch_bytes=1000)
        for value in range(1000):
            client.measure("m", value, {"text": "x" * 100})
        stats = client.stats().measure
        self.assertLessEqual(stats.waiting_bytes, 20_000)
        self.assertGreater(stats.waiting, 100)

    def test_threads_write_at_a_time(self) -> None:
        with ScriptedServer() as server:
            client = self.client(server.url)

            def write(number: int) -> None:
                for value in range(2000):
                    client.measure("m", number * 2000 + value)

            threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertTrue(client.close(20))
            self.assertEqual(sorted(server.values), list(range(8000)))

    def test_a_signal_handler_may_write(self) -> None:
        with ScriptedServer() as server:
            client = self.client(server.url)
            before = signal.signal(signal.SIGALRM, lambda *_: client.measure("signal", 1))
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            end = time.monotonic() + 0.5
            count = 0
            while time.monotonic() < end:
                client.measure("m", 0)
                count += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self.assertTrue(client.close(20))
            self.assertGreater(len(server.values), count)
            self.assertEqual(len(server.values), client.stats().measure.acknowledged)

    def test_what_a_signal_handler_gives_is_counted_wherever_it_comes_and_one_thread_sends(self) -> None:
        started: List[str] = []
        start = threading.Thread.start

        def counted(thread: threading.Thread) -> None:
            started.append(thread.name)
            start(thread)

        def given_between(client: Client, place: int) -> bool:
            """Gives a measure, and another at the begin or end of the so-manieth call within; whether there are so many."""
            left = place

            def between(*_: object) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    client.measure("between", 1)

            sys.setprofile(between)
            try:
                client.measure("m", 1)
            finally:
                sys.setprofile(None)
            return left <= 0

        with ScriptedServer() as server, mock.patch("threading.Thread.start", counted):
            place = 0
            is_within = True
            while is_within:
                place += 1
                started.clear()
                client = self.client(server.url, flush_seconds=60)
                is_within = given_between(client, place)
                self.assertTrue(client.flush(30))
                stats = client.stats().measure
                count = 2 if is_within else 1
                self.assertEqual((place, stats.given, stats.acknowledged, stats.waiting_bytes), (place, count, count, 0))
                self.assertEqual((place, started.count("fleetreel")), (place, 1))
                client.close()
            self.assertGreater(place, 20)

    def test_where_no_thread_can_be_started_what_is_wrong_is_told_and_closing_sends(self) -> None:
        with ScriptedServer() as server:
            client = self.client(server.url)
            with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
                client.measure("m", 1)
                self.assertEqual([error.code for error in self.errors], ["no_thread"])
                client.measure("", 1)
                self.assertEqual([error.code for error in self.errors], ["no_thread", "invalid_entry"])
            self.assertTrue(client.close(30))
            self.assertEqual(server.values, [1])


class Refusing(ClientCase):
    def test_what_can_not_be_is_told_and_counted_and_nothing_is_raised(self) -> None:
        class Unreadable(Dict[str, float]):
            def items(self) -> Any:
                raise RuntimeError("not now")

        anything: Any = object()
        cases: List[Any] = [
            (lambda c: c.measure(anything, 1), r"name of a measure .* type object"),
            (lambda c: c.measure("a b", 1), r'not "a b"'),
            (lambda c: c.measure("m\n", 1), r"name of a measure"),
            (lambda c: c.measure("m", None), r'"m" has a value .*: None'),
            (lambda c: c.measure("m", True), r"True"),
            (lambda c: c.measure("m", float("nan")), r"nan"),
            (lambda c: c.measure("m", 10**400), r"type int"),
            (lambda c: c.measure("m", Decimal(1)), r"type Decimal"),
            (lambda c: c.measure("m", "x" * 8193), r"8193 characters; 8192"),
            (lambda c: c.measure("m", "\U0001f600" * 4097), r"8194 characters; 8192"),
            (lambda c: c.measure("m", 1, [1]), r"no mapping"),
            (lambda c: c.measure("m", 1, {"a": anything}), r'under "a"'),
            (lambda c: c.measure("m", 1, {1: 1}), r"type int: a key"),
            (lambda c: c.measure("m", 1, Unreadable()), r"not now"),
            (lambda c: c.measure("m", 1, time=datetime.now()), r"without a time zone"),
            (lambda c: c.event("e", anything), r'"e" has a text that is none'),
            (lambda c: c.event("e", "", severity="loud"), r'severity "loud"'),
            (lambda c: c.event("e", "", time=2, end=1), r"ends before it begins"),
        ]
        for give, message in cases:
            with self.subTest(message):
                self.errors.clear()
                client = self.client(nobody()[1])
                give(client)
                self.assertTrue(client.close())
                self.assertEqual(len(self.errors), 1)
                self.assertRegex(str(self.errors[0]), message)
                stats = client.stats()
                self.assertEqual(stats.measure.dropped["invalid"] + stats.event.dropped["invalid"], 1)

    def test_a_client_that_can_not_be_is_not_made(self) -> None:
        cases: List[Any] = [
            (("", KEY), {}, '"url"'),
            ((None, KEY), {}, '"url"'),
            (("ftp://h", KEY), {}, '"url"'),
            (("http://h:nonsense", KEY), {}, '"url"'),
            ((f"http://u:{KEY}@h", KEY), {}, "user name or a password"),
            (("http://h", ""), {}, "no key"),
            (("http://h", f"{KEY}\n"), {}, "characters that no key has"),
            (("http://h", KEY), {"batch_count": 0}, '"batch_count" is a whole number'),
            (("http://h", KEY), {"flush_seconds": -1}, '"flush_seconds" is a number'),
            (("http://h", KEY), {"queue_count": 10}, "no more than the queue"),
            (("http://h", KEY), {"on_drop": 1}, '"on_drop" can\'t be called'),
        ]
        for arguments, options, message in cases:
            with self.subTest(message):
                with self.assertRaisesRegex(ConfigurationError, message) as raised:
                    Client(*arguments, **options)
                # What collects errors takes the variables of each frame with them, from the client's on.
                frames = traceback.TracebackException.from_exception(raised.exception, capture_locals=True)
                own = [frame for frame in frames.stack if "fleetreel" in frame.filename]
                self.assertNotIn(KEY, "".join(str(frame.locals) for frame in own if "_client" in frame.filename))
                self.assertNotIn(KEY, str(raised.exception))

    def test_what_the_application_does_with_what_it_is_told_does_not_reach_it(self) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("mine")

        client = self.client(nobody()[1], on_error=fail, on_drop=fail, queue_count=1, batch_count=1)
        with self.assertLogs("fleetreel", "ERROR"):
            client.measure("", 1)
            for value in range(5):
                client.measure("m", value)
            self.assertFalse(client.close(0.2))

    def test_what_it_does_with_what_it_is_told_does_not_end_the_sending(self) -> None:
        with ScriptedServer(lambda seen, index: (503, {}, "") if index == 0 else TAKEN) as server:
            client = self.client(server.url, on_error=lambda *_: sys.exit(1))
            with self.assertLogs("fleetreel", "ERROR"):
                client.measure("m", 1)
                eventually("it is sent", lambda: client.stats().measure.acknowledged == 1)

    def test_a_collector_that_says_nothing_is_left_after_the_time_and_asked_again(self) -> None:
        with ScriptedServer(lambda seen, index: None if index == 0 else TAKEN) as server:
            client = self.client(server.url, request_seconds=0.2)
            client.measure("m", 1)
            eventually("the second attempt", lambda: client.stats().measure.acknowledged == 1)
            self.assertEqual([str(error) for error in self.errors], [f"{server.url} did not answer within 0.2 s."])

    def test_what_says_yes_and_is_no_collector_has_taken_nothing(self) -> None:
        others: List[Any] = [(200, {"Content-Type": "text/html"}, "<!doctype html>"), (200, {}, {"ok": True}), (200, {}, "null")]
        with ScriptedServer(lambda seen, index: others[index] if index < len(others) else TAKEN) as server:
            client = self.client(server.url)
            client.measure("m", 1)
            eventually("the last attempt", lambda: client.stats().measure.acknowledged == 1)
            self.assertEqual(len({seen.id for seen in server.seen}), 1)
            self.assertEqual(len(server.seen), 4)
            self.assertRegex(str(self.errors[0]), "^The answer of .* can't be read")
            with self.assertRaisesRegex(FleetreelError, "is none of a collector"):
                next(client.measures())

    def test_the_key_is_not_sent_on_to_another_address(self) -> None:
        with ScriptedServer() as other, ScriptedServer(lambda s, i: (307, {"Location": other.url}, "")) as server:
            client = self.client(server.url)
            client.measure("m", 1)
            client.close()
            self.assertEqual(other.seen, [])
            self.assertEqual([drop.error.code for drop in self.drops if drop.error], ["redirected"])

    def test_the_key_is_in_nothing_that_shows_a_client(self) -> None:
        client = self.client(nobody()[1])
        self.assertNotIn(KEY, repr(client) + repr(vars(client)) + repr(vars(client._address)))
        with self.assertRaises(TypeError):
            pickle.dumps(client._address)


class Finding(ClientCase):
    def test_times_of_what_was_found_are_looked_for_as_they_are(self) -> None:
        row = {"id": "1", "time": 1763802964123.456, "name": "m", "value": 1, "text": None, "metadata": {}, "source": "k"}
        with ScriptedServer(lambda seen, index: (200, {}, {"measures": [row], "before": None})) as server:
            client = self.client(server.url)
            (found,) = client.measures()
            cases: List[Any] = [
                (found.time, "1763802964123.456"),
                (found.time.timestamp(), "1763802964123.456"),
                (datetime(2200, 1, 1, 0, 0, 0, 1, tzinfo=timezone.utc), "7258118400000.001"),
                (datetime(2026, 1, 1, tzinfo=timezone.utc), "1767225600000"),
                (1767225600, "1767225600000"),
                ("-1h", "-1h"),
            ]
            for given, text in cases:
                with self.subTest(text):
                    list(client.measures(from_=given, to=given))
                    query = parse_qs(urlsplit(server.seen[-1].path).query)
                    self.assertEqual((query["from"], query["to"]), ([text], [text]))


class Ending(ClientCase):
    def held(self) -> Tuple[ScriptedServer, threading.Event]:
        """A server that takes what comes, but not before it is let."""
        let_go = threading.Event()

        def script(seen: Any, index: int) -> Any:
            let_go.wait(30)
            return TAKEN

        server = ScriptedServer(script)
        self.addCleanup(server.__exit__)
        self.addCleanup(let_go.set)
        return server, let_go

    def test_what_is_given_while_it_closes_is_dropped_and_what_waited_is_sent(self) -> None:
        server, let_go = self.held()
        client = self.client(server.url)
        for value in range(3):
            client.measure("m", value)
        closed: List[bool] = []
        closing = threading.Thread(target=lambda: closed.append(client.close(30)))
        closing.start()
        eventually("it closes", lambda: client._is_closed)
        for value in range(3):
            client.measure("m", value)
        eventually("a request under way", lambda: len(server.seen) == 1)
        let_go.set()
        closing.join()
        self.assertEqual(closed, [True])
        stats = client.stats().measure
        self.assertEqual((stats.acknowledged, stats.dropped["closed"]), (3, 3))

    def test_flushing_waits_for_what_there_was_whatever_becomes_of_what_comes_later(self) -> None:
        has_returned = threading.Event()

        def script(seen: Any, index: int) -> Any:
            if index == 0:
                for value in range(3):
                    client.measure("", value)
                for value in range(20):
                    client.measure("m", value)
                has_returned.wait(0.5)
            return TAKEN

        with ScriptedServer(script) as server:
            client = self.client(server.url, batch_count=10, queue_count=10, flush_seconds=60)
            for value in range(3):
                client.measure("m", value)
            self.assertTrue(client.flush(30))
            stats = client.stats().measure
            has_returned.set()
            self.assertGreaterEqual(stats.acknowledged, 3)
            self.assertEqual((stats.dropped["invalid"], stats.dropped["full"]), (3, 13))
            self.assertTrue(client.close(30))

    def test_times_that_are_none_are_as_long_as_can_be_waited(self) -> None:
        server, let_go = self.held()
        client = self.client(server.url, close_seconds=30)
        client.measure("m", 1)
        eventually("a request under way", lambda: len(server.seen) == 1)
        self.assertFalse(client.flush(-1))
        threading.Timer(0.1, let_go.set).start()
        self.assertTrue(client.flush(float("nan")))
        client.measure("m", 2)
        self.assertTrue(client.flush(float("inf")))
        client.measure("m", 3)
        self.assertTrue(client.close(float("inf")))

    def test_closing_does_not_wait_until_a_collector_that_is_away_has_said_to_come_back(self) -> None:
        later = {"Retry-After": "300"}
        for status, is_sent in ((503, True), (429, False)):
            with self.subTest(status):
                with ScriptedServer(lambda seen, index: (status, later, "") if index == 0 else TAKEN) as server:
                    client = self.client(server.url)
                    client.measure("m", 1)
                    eventually("a pause", lambda: client.stats().measure.retries == 1)
                    self.assertEqual(client.close(30 if is_sent else 0.2), is_sent)
                    self.assertEqual(len(server.seen), 2 if is_sent else 1)

    def test_closing_waits_no_longer_than_it_may_and_what_comes_afterwards_is_counted(self) -> None:
        with ScriptedServer(lambda seen, index: None) as server:
            client = self.client(server.url)
            for value in range(3):
                client.measure("m", value)
            eventually("a request under way", lambda: len(server.seen) == 1)
            self.assertFalse(client.close(0.2))
            client.measure("m", 4)
            client.event("e", "late")
        stats = client.stats()
        self.assertEqual((stats.measure.waiting, stats.measure.dropped["closed"]), (0, 4))
        self.assertEqual(stats.event.dropped["closed"], 1)

    def test_it_may_be_closed_where_trouble_is_told(self) -> None:
        with ScriptedServer(lambda seen, index: (503, {}, "") if index == 0 else TAKEN) as server:
            closed: List[bool] = []
            client: Client = self.client(server.url, on_error=lambda *_: closed.append(client.close(30)))
            client.measure("m", 1)
            eventually("it closed", lambda: closed)
            self.assertEqual((closed, server.values), ([True], [1, 1]))

    def test_closing_without_a_thread_waits_no_longer_than_it_may(self) -> None:
        def script(seen: Any, index: int) -> Any:
            time.sleep(0.05)
            return TAKEN

        with ScriptedServer(script) as server:
            client = self.client(server.url, batch_count=1)
            with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
                for value in range(40):
                    client.measure("m", value)
            self.assertFalse(client.close(0.3))

    def test_it_may_be_closed_in_the_midst_of_a_call_as_a_signal_handler_does(self) -> None:
        with ScriptedServer() as server:
            client = self.client(server.url)
            client.measure("m", 1)
            with client._changed:
                self.assertTrue(client.close(30))
            self.assertEqual(server.values, [1])

    def run_program(self, text: str, url: str) -> "subprocess.CompletedProcess[str]":
        head = f"import os, time\nfrom fleetreel import Client\nclient = Client({url!r}, {KEY!r}, flush_seconds=60, close_seconds=1)\n"
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", head + text], capture_output=True, text=True, timeout=30
        )

    def test_what_was_given_before_the_end_of_a_process_is_sent(self) -> None:
        with ScriptedServer() as server:
            ended = self.run_program("for value in range(10): client.measure('m', value)", server.url)
            self.assertEqual((ended.returncode, ended.stderr), (0, ""))
            self.assertEqual(server.values, list(range(10)))

    def test_a_process_ends_within_the_time_when_the_collector_is_away_and_says_what_it_dropped(self) -> None:
        ended = self.run_program("for value in range(10): client.measure('m', value)", nobody()[1])
        self.assertEqual(ended.returncode, 0)
        self.assertIn("10 measures were dropped: they were not acknowledged when the client ended.", ended.stderr)

    def test_at_the_end_of_a_process_it_is_told_of_what_came_after_closing(self) -> None:
        ended = self.run_program("client.close()\nfor value in range(10): client.measure('m', value)", nobody()[1])
        told = [line for line in ended.stderr.splitlines() if "measures were dropped" in line]
        self.assertEqual([line.split()[0] for line in told], ["1", "9"])

    @unittest.skipUnless(hasattr(os, "fork"), "needs fork")
    def test_a_child_goes_on_where_another_thread_was_writing_after_closing(self) -> None:
        program = (
            "import threading\n"
            "client.close()\n"
            "is_held, may_end = threading.Event(), threading.Event()\n"
            "def hold():\n"
            "    with client._changed:\n"
            "        is_held.set()\n"
            "        may_end.wait()\n"
            "threading.Thread(target=hold).start()\n"
            "is_held.wait()\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    client.measure('m', 1)\n"
            "    os._exit(0)\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
            "may_end.set()\n"
        )
        self.assertEqual(self.run_program(program, nobody()[1]).returncode, 0)

    @unittest.skipUnless(hasattr(os, "fork"), "needs fork")
    def test_what_a_child_gives_is_sent_once_by_the_child_and_what_its_parent_gave_by_the_parent(self) -> None:
        program = (
            "client.measure('m', 1)\n"
            "client.flush()\n"
            "client.measure('m', 2)\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    client.measure('m', 3)\n"
            "    client.close()\n"
            "    os._exit(0)\n"
            "client.measure('m', 4)\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
        )
        with ScriptedServer() as server:
            ended = self.run_program(program, server.url)
            self.assertEqual((ended.returncode, ended.stderr), (0, ""))
            self.assertEqual(sorted(server.values), [1, 2, 3, 4])
            ids = [seen.id for seen in server.seen]
            self.assertEqual(len(set(ids)), len(ids))
            (childs,) = [seen for seen in server.seen if seen.entries[0]["value"] == 3]
            self.assertNotEqual(childs.id.split("-")[0], server.seen[0].id.split("-")[0])

    @unittest.skipUnless(hasattr(os, "fork"), "needs fork")
    def test_a_child_that_is_forked_while_a_request_is_under_way_goes_on(self) -> None:
        program = (
            "for value in range(5):\n"
            "    client.measure('m', value)\n"
            "    client.flush(0.05)\n"
            "    child = os.fork()\n"
            "    if child == 0:\n"
            "        client.measure('m', 10 + value)\n"
            "        os._exit(0 if client.close() else 1)\n"
            "    assert os.waitpid(child, 0)[1] == 0\n"
        )

        def script(seen: Any, index: int) -> Any:
            time.sleep(0.15)
            return TAKEN

        with ScriptedServer(script) as server:
            ended = self.run_program(program, server.url)
            self.assertEqual((ended.returncode, ended.stderr), (0, ""))
            self.assertEqual(set(server.values), {0, 1, 2, 3, 4, 10, 11, 12, 13, 14})

    def test_a_client_is_closed_by_its_context(self) -> None:
        with ScriptedServer() as server, self.client(server.url, flush_seconds=60) as client:
            client.measure("m", "idle")
        self.assertEqual(server.seen[0].entries[0]["text"], "idle")


if __name__ == "__main__":
    unittest.main()
