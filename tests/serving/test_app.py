"""The HTTP interface: its answers are those of the translator, and hostile input has an answer in words."""

import threading

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

from starlette.testclient import TestClient

from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.serving.app import make_app
from pytorch_dl.serving.batcher import Batcher
from pytorch_dl.serving.wish import Limits, Settings

TEXTS = ["ab cd ef", "gh ij", "", "mn", "  ", "ab"]
JSON = {"content-type": "application/json"}


def ask(client, **body):
    answer = client.post("/translate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["translations"]


@pytest.mark.parametrize("settings", [{}, {"beam": 1}, {"beam": 3, "nbest": 2}, {"beam": 1, "nbest": 4}])
def test_answers_are_those_of_the_translator(client, translator, settings):
    nbest = settings.get("nbest", 1)
    search = SearchSettings(beam_size=max(settings.get("beam", 5), nbest), n_best=nbest)
    expected = translator.hypotheses(TEXTS, search)
    for line, best, source in zip(ask(client, text=TEXTS, **settings), expected, TEXTS, strict=True):
        assert (line["source"], line["text"], line["score"]) == (source, best[0].text, best[0].score)
        found = [(one["text"], one["score"], one["tokens"], one["finished"]) for one in line["alternatives"]]
        assert found == [(one.text, one.score, one.tokens, one.finished) for one in best]


def test_one_text_and_a_list_of_it_have_one_answer(client):
    assert ask(client, text="ab cd") == ask(client, text=["ab cd"])


def test_attention_is_that_of_the_translator(client, translator):
    [line] = ask(client, text="ab cd", nbest=2, attention=True)
    best = translator.hypotheses(["ab cd"], SearchSettings(n_best=2))[0]
    for row, translation in zip(line["alternatives"], best, strict=True):
        seen = translator.attention("ab cd", translation)
        assert (line["source_tokens"], row["target_tokens"]) == (seen.source, seen.target)
        assert row["attention"] == [pytest.approx(weights, abs=1e-4) for weights in seen.weights]


def test_maps_that_are_too_large_are_left_out_and_the_others_are_not(client, translator, monkeypatch):
    best = translator.hypotheses(["ab cd"], SearchSettings(n_best=2))[0]
    for most, count in ((0, 0), (len(translator.source_pieces("ab cd")) * min(len(one.tokens) for one in best), 1)):
        monkeypatch.setattr("pytorch_dl.serving.answers.MOST_CELLS", most)
        [line] = ask(client, text="ab cd", nbest=2, attention=True)
        assert sum(row["attention"] is not None for row in line["alternatives"]) >= count
        assert count or all(row["attention"] is None for row in line["alternatives"])
        assert all(row["target_tokens"] for row in line["alternatives"])


def test_a_text_longer_than_the_model_reads_says_so(client):
    assert [line["source_cut"] for line in ask(client, text=["ab " * 20, "ab"])] == [True, False]


def test_many_at_once(client, translator):
    expected = {text: translator.translate([text])[0] for text in TEXTS}
    found = {}

    def one(text):
        found[text] = ask(client, text=text)[0]["text"]

    threads = [threading.Thread(target=one, args=(text,)) for text in TEXTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


HOSTILE = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "not UTF-8": (b'{"text": "\xff"}', 400),
    "deep": (b"[" * 4000, 400),
    "deep in a key": (b'{"text":' + b"[" * 1500 + b"]" * 1500 + b"}", (400, 422)),
    "a huge number": (b'{"text": "a", "beam": ' + b"9" * 4000 + b"}", 422),
    "a text": (b'"ab"', 400),
    "a list": (b'["ab"]', 400),
    "null": (b"null", 400),
    "no text": (b"{}", 422),
    "a number for a text": (b'{"text": 3}', 422),
    "null for a text": (b'{"text": null}', 422),
    "a number in a list": (b'{"text": ["a", 3]}', 422),
    "no texts": (b'{"text": []}', 422),
    "too many texts": (b'{"text": ["a", "a", "a", "a", "a", "a", "a", "a", "a"]}', 422),
    "too long": (b'{"text": "' + b"a" * 61 + b'"}', 422),
    "NUL": (b'{"text": "a\\u0000b"}', 422),
    "a raw NUL": (b'{"text": "a\x00b"}', 400),
    "lone surrogate": (b'{"text": "a\\ud800b"}', 422),
    "surrogates in a wrong order": (b'{"text": "\\udc00\\ud800"}', 422),
    "beam 0": (b'{"text": "a", "beam": 0}', 422),
    "beam 11": (b'{"text": "a", "beam": 11}', 422),
    "beam true": (b'{"text": "a", "beam": true}', 422),
    "beam 1.5": (b'{"text": "a", "beam": 1.5}', 422),
    "beam NaN": (b'{"text": "a", "beam": NaN}', 422),
    "beam null": (b'{"text": "a", "beam": null}', 422),
    "nbest -1": (b'{"text": "a", "nbest": -1}', 422),
    "attention 1": (b'{"text": "a", "attention": 1}', 422),
    "attention of two": (b'{"text": ["a", "b"], "attention": true}', 422),
    "unknown key": (b'{"text": "a", "\\ud800beams": 3}', 422),
    "large": (b'{"text": "' + b"a" * 5000 + b'"}', 413),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies(client, name):
    body, status = HOSTILE[name]
    answer = client.post("/translate", content=body, headers=JSON)
    assert answer.status_code in (status if isinstance(status, tuple) else (status,)), answer.text
    assert set(answer.json()) == {"error"}
    assert ask(client, text="ab")  # it lives on


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/translate", 405),
        ("PUT", "/translate", 405),
        ("DELETE", "/health", 405),
        ("POST", "/", 405),
        ("GET", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/app.py", 404),
        ("GET", "/app.py", 404),
    ],
)
def test_wrong_methods_and_paths(client, method, path, status):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert "POST /translate" in answer.json()["error"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_other_kinds_of_body_are_refused(client, kind):
    headers = {} if kind is None else {"content-type": kind}
    answer = client.post("/translate", content=b'{"text": "a"}', headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (415, "send the header Content-Type: application/json")


def test_a_body_is_cut_off_while_it_comes(client):
    parts = (b" " * 1000 for _ in range(1000))
    assert client.post("/translate", content=parts, headers=JSON).status_code == 413


def slow_client(door, **limits):
    """A server whose work waits for the door."""
    batcher = Batcher(lambda texts, wish, is_wanted: door.wait(30) and [{"text": text} for text in texts], most=2)
    return TestClient(make_app(batcher, served={"model": "slow"}, limits=Limits(**limits))), batcher


def test_a_full_queue_says_when_to_come_again():
    door = threading.Event()
    client, batcher = slow_client(door)
    with client:
        first = batcher.submit(["a", "b"], Settings())
        refused = client.post("/translate", json={"text": "c"})
        door.set()
        first.result(30)
        assert client.post("/translate", json={"text": "c"}).json() == {"translations": [{"text": "c"}]}
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")


def test_time_runs_out_and_the_work_is_given_up():
    door = threading.Event()
    client, batcher = slow_client(door, seconds=0.05)
    with client:
        answer = client.post("/translate", json={"text": "a"})
        assert batcher.waiting == 0
        door.set()
    assert (answer.status_code, answer.json()) == (504, {"error": "no translation within 0.05 s; send less at a time"})


def test_after_its_end_it_refuses():
    client, batcher = slow_client(threading.Event())
    with client:
        batcher.close()
        assert client.post("/translate", json={"text": "a"}).status_code == 503


def test_a_failure_of_the_work_is_told_and_written_down(caplog):
    def fail(texts, wish, is_wanted):
        raise ValueError("a fault of ours")

    with TestClient(make_app(Batcher(fail), served={"model": "bad"}, limits=Limits())) as client:
        answer = client.post("/translate", json={"text": "a"})
    assert (answer.status_code, set(answer.json())) == (500, {"error"})
    assert "a fault of ours" in caplog.text


def test_health_and_headers(client):
    answer = client.get("/health")
    told = answer.json()
    assert (told["status"], told["model"], told["waiting"]) == ("ok", "tiny", 0)
    assert told["limits"]["characters"] == 60
    for path in ("/", "/page.css", "/page.js", "/health", "/nothing"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]


def test_the_page_needs_nothing_from_elsewhere(client):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "http" not in answer.text
    assert "innerHTML" not in client.get("/page.js").text
