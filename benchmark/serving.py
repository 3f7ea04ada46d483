"""A server under mixed load: `python benchmark/serving.py RUN --minutes 10`.

A real process on loopback, and many clients at once: good ones, whose answers are checked against ones computed before,
and rude ones, who send too much, or nonsense, or a byte at a time, or leave before their answer. Writes serving.json;
exit code 1 when an answer was wrong, a status 5xx, or the process gone.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.measuring.command_line import positive, say
from benchmark.measuring.machine import RESULTS, ROOT, machine
from pytorch_dl.data import dates_file
from pytorch_dl.dataset.text_lines import read_lines
from pytorch_dl.files import write_json
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.translator import load

BEAMS = (1, 5)
SCORES_ALIKE = 1e-5
PIECE = 4  # bytes that a dribbling client sends at a time
MALFORMED = [
    *(b"", b"{", b"null", b"[" * 100_000, b"\0" * 1000),
    *(b'{"text": 1}', b'{"text": "\xff"}', b'{"text": "\\ud800"}', b'{"text": "\\u0000"}', b'{"text": []}'),
    *(b'{"text": "a", "beam": 1e9}', b'{"text": "a", "beam": true}', b'{"other": "a"}'),
]
GARBAGE = [
    b"\0\xff" * 100,
    b"GET / HTTP/9\r\n\r\n",
    b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /translate HTTP/1.1\r\n" * 9,
]
Expected = dict[tuple[str, int], tuple[str, float]]


@dataclass
class Load:
    """What the clients need, and what they saw."""

    port: int
    expected: Expected
    texts: list[str]
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[Any] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def count(self, kind: str, outcome: object) -> None:
        """Note what became of a request."""
        self.counts.setdefault(kind, Counter())[str(outcome)] += 1


Client = Callable[[Load, random.Random], Awaitable[None]]


async def valid(load: Load, chance: random.Random) -> None:
    """A good request; its answers are checked, and its time is taken."""
    texts, beam = chance.sample(load.texts, chance.choice((1, 1, 1, 4, 20))), chance.choice(BEAMS)
    wish: dict[str, Any] = {"text": texts, "beam": beam, "nbest": chance.choice((1, beam))}
    wish["attention"] = len(texts) == 1 and chance.random() < 0.3
    began = time.perf_counter()
    status, answer = await exchange(load.port, post(json.dumps(wish).encode()))
    load.count("valid", status)
    if status == 200:
        load.seconds.append(time.perf_counter() - began)
        check(load, texts, beam, answer)


async def huge(load: Load, chance: random.Random) -> None:
    """A body of some megabytes, with its length told or not."""
    body = b'{"text": "' + b"a" * chance.randrange(2_000_000, 8_000_000) + b'"}'
    load.count("huge", (await exchange(load.port, post(body, told=chance.random() < 0.5)))[0])


async def malformed(load: Load, chance: random.Random) -> None:
    """A good head and a bad body."""
    load.count("malformed", (await exchange(load.port, post(chance.choice(MALFORMED))))[0])


async def garbage(load: Load, chance: random.Random) -> None:
    """What is hardly HTTP."""
    load.count("garbage", (await exchange(load.port, chance.choice(GARBAGE), ends=True))[0])


async def dribbling(load: Load, chance: random.Random) -> None:
    """A good request, a few bytes at a time: in good time, too slow in its head, or too slow in its body."""
    text = chance.choice(load.texts)
    kind, pause = chance.choice((("dribbling", 0.02), ("a slow head", 1.0), ("a slow body", 2.0)))
    sent = post(json.dumps({"text": text, "beam": 1}).encode())
    at_once = sent.index(b"\r\n\r\n") + 4 if kind == "a slow body" else 0
    status, answer = await exchange(load.port, sent, pause=pause, at_once=at_once)
    load.count(kind, status)
    if status == 200:
        check(load, [text], 1, answer)


async def leaving(load: Load, chance: random.Random) -> None:
    """A good request of much work, whose client does not wait."""
    _, writer = await asyncio.open_connection("127.0.0.1", load.port)
    writer.write(post(json.dumps({"text": chance.sample(load.texts, 20), "beam": 10}).encode()))
    await writer.drain()
    await asyncio.sleep(chance.random() / 5)
    writer.transport.abort()
    load.count("leaving", "left")


CLIENTS: dict[Client, float] = {valid: 60, huge: 4, malformed: 12, garbage: 8, dribbling: 6, leaving: 10}


def check(load: Load, texts: list[str], beam: int, answer: bytes) -> None:
    """Note each answer that is not the one computed before."""
    lines = json.loads(answer)["translations"]
    for text, line in zip(texts, lines, strict=True):
        best, score = load.expected[text, beam]
        # Who else is in the batch moved the score of one line in 500 by 1e-7, without any server; never a word.
        if line["text"] != best or abs(line["score"] - score) > SCORES_ALIKE:
            load.wrong.append({"text": text, "beam": beam, "found": [line["text"], line["score"]], "is": [best, score]})


def post(body: bytes, *, told: bool = True) -> bytes:
    """A request to translate; without its length told it comes as one chunk."""
    head = b"POST /translate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    if told:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


async def exchange(
    port: int, sent: bytes, *, pause: float = 0.0, at_once: int = 0, ends: bool = False
) -> tuple[int | str, bytes]:
    """Send and read to the end -> the status, or what came in its place, and the body.

    With a pause a few bytes are sent at a time, behind the first `at_once`.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    starts = range(at_once, len(sent), PIECE) if pause else ()
    parts = [sent[:at_once], *(sent[start : start + PIECE] for start in starts)] if pause else [sent]
    try:
        async with asyncio.timeout(120):
            with suppress(ConnectionError):  # the answer may come before all is sent
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause)
                    if reader.at_eof():
                        break
                if ends:
                    writer.write_eof()
            with suppress(ConnectionError):
                while part := await reader.read(1 << 16):
                    received += part
    except TimeoutError:
        return "no answer in 120 s", b""
    finally:
        writer.transport.abort()
    head, _, body = received.partition(b"\r\n\r\n")
    return (int(head.split()[1]), body) if head.startswith(b"HTTP/1.1 ") else ("closed", b"")


async def press(load: Load, clients: int, seconds: float) -> None:
    """Let all clients go on until the time is over, each with a chance of its own."""
    until = time.monotonic() + seconds

    async def one(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < until:
            client = chance.choices(list(CLIENTS), list(CLIENTS.values()))[0]
            try:
                await client(load, chance)
            except OSError as error:
                load.count(client.__name__, type(error).__name__)
                await asyncio.sleep(0.1)

    await asyncio.gather(*map(one, range(clients)))


def computed(run: Path, texts: list[str]) -> Expected:
    """What each text becomes, by the same model in this process."""
    translator, expected = load(run), {}
    for beam in BEAMS:
        found = translator.hypotheses(texts, SearchSettings(beam_size=beam))
        expected |= {(text, beam): (best[0].text, best[0].score) for text, best in zip(texts, found, strict=True)}
    return expected


def resident_mb(process: int) -> float:
    """Memory of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"p{share}": round(1000 * cuts[share - 1], 1) for share in (50, 90, 99)} | {
        "max": round(1000 * max(seconds), 1)
    }


def measure(run: Path, *, minutes: float, clients: int) -> dict[str, Any]:
    """Start a server, press it, end it."""
    found: dict[str, Any] = {"machine": machine(), "minutes": minutes, "clients": clients}
    texts = list(dict.fromkeys(raw.decode().partition("\t")[0] for raw in islice(read_lines(dates_file("test")), 300)))
    expected = computed(run, texts)
    words = [sys.executable, "-m", "pytorch_dl", "serve", str(run), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        line = process.stderr.readline()
        if "http://" not in line:
            raise SystemExit(f"the server does not start: {line}{process.stderr.read()}")
        pressed = Load(int(line.split("http://127.0.0.1:")[1].split()[0]), expected, texts)
        asyncio.run(press(pressed, clients, 2.0))  # what is loaded and grown at first is no leak
        before = resident_mb(process.pid)
        pressed = Load(pressed.port, expected, texts)
        say(f"{clients} clients for {minutes:g} minutes")
        asyncio.run(press(pressed, clients, 60 * minutes))
        crashed = process.poll() is not None
        found["server_mb"] = {"before": round(before), "after": None if crashed else round(resident_mb(process.pid))}
        process.send_signal(signal.SIGTERM)
        found["exit_code"], found["crashes"] = process.wait(60), int(crashed)
        found["stderr"] = process.stderr.read()[-2000:]
    finally:
        process.kill()
        process.communicate()
    return found | told(pressed)


def told(pressed: Load) -> dict[str, Any]:
    """What the clients saw, in figures."""
    statuses = sum(pressed.counts.values(), Counter[str]())
    return {
        "requests": sum(counts.total() for counts in pressed.counts.values()),
        "outcomes": {kind: dict(sorted(counts.items())) for kind, counts in sorted(pressed.counts.items())},
        "answers_5xx": sum(n for status, n in statuses.items() if status.startswith("5")),
        "wrong_answers": len(pressed.wrong),
        "wrong_examples": pressed.wrong[:3],
        "valid_latency_ms": percentiles(pressed.seconds),
    }


def main() -> int:
    """Measure, write, and tell."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path, help="run folder")
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--clients", type=positive, default=16, help="at a time")
    options.add_argument("--out", type=Path, default=RESULTS / "serving.json")
    given = options.parse_args()
    found = measure(given.run, minutes=given.minutes, clients=given.clients)
    write_json(given.out, found)
    print(json.dumps({name: value for name, value in found.items() if name != "machine"}, indent=2))
    return int(any(found[name] for name in ("wrong_answers", "answers_5xx", "crashes", "exit_code")))


if __name__ == "__main__":
    raise SystemExit(main())
