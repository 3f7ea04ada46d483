"""The real process: it starts, answers as `translate` does, outlives rude clients, and ends when it is told to."""

import http.client
import json
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing, contextmanager

import pytest
from tiny_runs import call, child, command, environment

pytest.importorskip("fastapi", reason="the extra serve is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from pytorch_dl.serving import extra, server  # noqa: E402 - what may be missing is asked for first


@contextmanager
def serving(run, *options):
    """A server in a process of its own, and its port."""
    words = command("serve", run, "--port", 0, "--device", "cpu", *options)
    process = subprocess.Popen(words, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        assert "http://127.0.0.1:" in line, line + process.stderr.read()
        yield process, int(line.split("http://127.0.0.1:")[1].split()[0])
    finally:
        process.kill()
        process.communicate()


def ask(port, body):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/translate", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_starts_translates_and_ends(tiny_run, tmp_path, number):
    told = child("translate", tiny_run, "--text", "ab cd ef", "--text", "gh", "--json", cwd=tmp_path).out.splitlines()
    best = [json.loads(line)["translations"][0] for line in told]
    with serving(tiny_run) as (process, port):
        for sent in (b"\0\0\0", b"POST /translate HTTP/1.1\r\nContent-Le", b"GET / HTTP/9\r\n\r\n", b""):
            with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as rude:
                rude.sendall(sent)
        with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as leaving:  # before its answer
            body = json.dumps({"text": ["ab cd"] * 50, "beam": 10}).encode()
            head = (
                f"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            )
            leaving.sendall(head.encode() + b"\r\n\r\n" + body)
        status, found = ask(port, {"text": ["ab cd ef", "gh"]})
        assert status == 200
        assert [(line["text"], line["score"]) for line in found["translations"]] == [
            (one["text"], one["score"]) for one in best
        ]
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_a_port_in_use_is_one_line(tiny_run, capsys):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        result = call(capsys, "serve", tiny_run, "--port", port)
    assert result.code == 6
    assert result.err == (
        f"pytorch-dl: error: cannot listen at 127.0.0.1:{port}: Address already in use. "
        "Fix: give another --port, or another --host.\n"
    )


def test_a_host_that_is_none(tiny_run, capsys):
    result = call(capsys, "serve", tiny_run, "--host", "no..such")
    assert (result.code, result.err.splitlines()) == (
        2,
        ["pytorch-dl: error: --host no..such: no such address. Fix: give one of this machine, as 127.0.0.1."],
    )


def test_a_folder_that_is_no_run(tmp_path, capsys):
    result = call(capsys, "serve", tmp_path, "--port", 0)
    assert result.code in (3, 4)
    assert str(tmp_path) in result.err


def test_without_the_extra_the_command_to_install_it_is_told(tiny_run, capsys, monkeypatch):
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    result = call(capsys, "serve", tiny_run)
    assert result.code == 2
    assert result.err == (
        "pytorch-dl: error: serving needs fastapi and uvicorn. Fix: pip install 'pytorch-dl[serve]'.\n"
    )


def test_limits_are_options(tiny_run, capsys):
    result = call(capsys, "serve", tiny_run, "--port", 0, "--max-lines", 20, "--max-waiting", 10)
    assert (result.code, result.err) == (
        2,
        "pytorch-dl: error: 20 lines of a request are more than the 10 that may wait. "
        "Fix: raise --max-waiting, or lower --max-lines.\n",
    )
    with serving(tiny_run, "--max-characters", 5, "--max-lines", 2) as (_, port):
        assert ask(port, {"text": ["12345", "1"]})[0] == 200
        assert [ask(port, {"text": text})[0] for text in ("123456", ["1", "2", "3"])] == [422, 422]
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("GET", "/health")
            told = json.loads(connection.getresponse().read())
    assert (told["model"], told["device"], told["precision"]) == (tiny_run.name, "cpu", "fp32")
    assert told["version"] and told["limits"]["characters"] == 5


def test_silent_connections_are_closed(monkeypatch):
    monkeypatch.setattr(server, "SILENCE", 0.2)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=server.ImpatientProtocol, ws="none", lifespan="off", log_level="warning")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        for whole, begun in (
            (b"", b""),
            (b"", b"GET / HTTP/1.1\r\nX: "),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GE"),
        ):
            with closing(socket.create_connection(listening.getsockname(), timeout=10)) as silent:
                silent.sendall(whole)
                if whole:
                    assert silent.recv(4096).startswith(b"HTTP/1.1 200")
                silent.sendall(begun)
                began = time.monotonic()
                assert silent.recv(4096) == b""
                assert time.monotonic() - began < 3  # uvicorn itself waits 5 s for a next request
    finally:
        running.should_exit = True
        thread.join(30)
        listening.close()
