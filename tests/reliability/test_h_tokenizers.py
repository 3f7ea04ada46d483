"""Crafted tokenizers: whatever a parser does with them, this process goes on and refuses them."""

import json
import os
import random
import struct
from pathlib import Path

import pytest
from hostile_files import quickly, sign
from tiny_runs import TINY, call, copied_run, write_tsv

from pytorch_dl.dataset import pretrained_process
from pytorch_dl.dataset.pretrained_process import load_pretrained
from pytorch_dl.errors import CheckpointError


def nested(depth: int) -> dict[str, object]:
    inner: dict[str, object] = {"type": "NFC"}
    for _ in range(depth):
        inner = {"type": "Sequence", "normalizers": [inner]}
    return inner


# What a parser may do when it is given a crafted file, and what is then said
DEEDS = {
    "ctypes.string_at(0)": "was ended by SIGSEGV",
    "os.abort()": "was ended by SIGABRT",
    "os.kill(os.getpid(), 9)": "was ended by SIGKILL",
    "os._exit(0)": "ended with code 0 and no answer",
    "sys.exit('enough')": "ended with code 1 and no answer (enough)",
    "fill()": "MemoryError",
    "spin()": "took longer than 1 s of a CPU",
    "time.sleep(60)": "took longer than 2 s",
    "nest()": "cannot be loaded: maximum recursion depth exceeded",
    "'no tokenizer'": "has only a slow tokenizer (str)",
}
STUB = """
import ctypes, os, sys, time

def fill():
    kept = []
    while True:
        kept.append(bytearray(1 << 24))

def spin():
    while True:
        pass

def nest():
    return nest()

class AutoTokenizer:
    @staticmethod
    def from_pretrained(place, **options):
        return eval(open(os.path.join(place, "deed")).read())
"""


def test_h6_parsers_that_crash_hang_or_fill_memory(case, tmp_path, capsys, monkeypatch):
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers/__init__.py").write_text(STUB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained_process, "MEMORY_BYTES", 1 << 29)
    folder, times = tmp_path / "tokenizer", case.size(1, 5)
    folder.mkdir()
    for deed, says in [*DEEDS.items()] * times:
        (folder / "deed").write_text(deed)
        monkeypatch.setattr(pretrained_process, "CPU_SECONDS", 1 if deed == "spin()" else 60)
        monkeypatch.setattr(pretrained_process, "FOLDER_SECONDS", 2 if "sleep" in deed else 60)
        with pytest.raises(CheckpointError) as caught:
            load_pretrained(str(folder))
        assert says in str(caught.value), deed
    command = ("train", tmp_path / "c.yaml", "--out", tmp_path / "run", *TINY, f"data.tokenizer_name={folder}")
    (tmp_path / "c.yaml").write_text(f"data: {{train_data_path: {write_tsv(tmp_path / 'text.tsv')}}}")
    result = call(capsys, *(word for word in command if word != "data.tokenizer_name=char"))
    assert (result.code, "has only a slow tokenizer" in result.error_lines[0]) == (4, True), result.err
    crafted = crafted_sentencepiece(case, tmp_path / "crafted", monkeypatch)
    case.survived(
        times * len(DEEDS) + crafted,
        injected="a crafted SentencePiece model, or a parser that crashes, hangs or fills memory",
        lost="nothing: refused, the process went on",
    )


def test_h6_pipes_and_devices_in_the_folder_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is a pipe or device"):
        load_pretrained(str(tmp_path))


BOMB = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
DEFINITIONS = {
    "pattern without end": ({"pre_tokenizer": BOMB}, "it fails on this text"),
    "replacement without end": (
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": ""}},
        "it fails on this text",
    ),
    "charsmap of nothing": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}},
        "it fails on this text",
    ),
    "charsmap that leads out": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP///38="}},
        "it fails on this text",
    ),
    "no charsmap": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "not a tokenizer definition"),
    "no token for the unknown": (
        {"model": {"type": "WordLevel", "unk_token": "nowhere"}},
        "it fails on this text",
    ),
    "growth": (
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40,
            }
        },
        "can make a text 1.1e+12 times longer",
    ),
    "growth of what is decoded": (
        {
            "decoder": {
                "type": "Sequence",
                "decoders": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 1000}] * 4,
            }
        },
        "can make a text 1e+12 times longer",
    ),
    "nested": ({"normalizer": nested(300)}, "not a tokenizer definition"),
    "padding to a million million": (
        {
            "padding": {
                "strategy": {"Fixed": 10**12},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "<pad>",
            }
        },
        None,
    ),
}


@pytest.mark.parametrize("what", DEFINITIONS)
def test_h6_definitions_in_a_run(tiny_run, tmp_path, capsys, what):
    """Where a text brings out that a definition is none, it is refused as well."""
    run = copied_run(tiny_run, tmp_path)
    path = run / "tokenizer/tokenizer.json"
    definition = json.loads(path.read_bytes())
    changes, says = DEFINITIONS[what]
    for name, value in changes.items():
        definition[name] = {"vocab": definition[name]["vocab"], **value} if name == "model" else value
    path.write_text(json.dumps(definition))
    sign(path.parent)
    with quickly(2, what):
        result = call(capsys, "translate", run, "--text", "a" * 60 + "!")
    assert result.code == (4 if says else 0), result.err
    assert (says or "") in "".join(result.error_lines)


# ---- SentencePiece


def field(number: int, value: bytes | int | float) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    if isinstance(value, int):
        return bytes([number << 3]) + varint(value)
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def piece(text: str, score: float, kind: int) -> bytes:
    return field(1, field(1, text.encode()) + field(2, score) + field(3, kind))


def model(*, charsmap: bytes = b"", kind: int = 1, pieces: bytes | None = None) -> bytes:
    """A SentencePiece model of a few letters, whole unless another part is given."""
    if pieces is None:
        control = piece("<unk>", 0.0, 2) + piece("<s>", 0.0, 3) + piece("</s>", 0.0, 3)
        pieces = control + b"".join(piece(letter, -1.0 - place, 1) for place, letter in enumerate("\u2581abcdefgh"))
    return pieces + field(2, field(3, kind) + field(4, 12)) + field(3, field(1, b"nmt_nfkc") + field(2, charsmap))


CRAFTED = {
    "charsmap that is no trie": model(charsmap=b"\xff" * 64),
    "charsmap longer than itself": model(charsmap=struct.pack("<I", 1 << 30) + bytes(16)),
    "charsmap whose trie leads out": model(charsmap=struct.pack("<I", 1024) + b"\xff\xff\xff\x7f" * 256 + b"x\0"),
    "charsmap of one byte": model(charsmap=b"\1"),
    "scores that are no numbers": model(pieces=piece("<unk>", 0.0, 2) + piece("a", float("nan"), 1)),
    "scores without end": model(pieces=piece("<unk>", 0.0, 2) + piece("a", float("inf"), 1) * 2),
    "no pieces": model(pieces=b""),
    "the same piece a thousand times": model(pieces=piece("a", 1.0, 1) * 1000),
    "pieces of unknown kinds": model(pieces=piece("a", 1.0, 200) + piece("b", 1.0, 0)),
    "a piece of a megabyte": model(pieces=piece("a" * (1 << 20), 1.0, 1)),
    "an unknown kind of model": model(kind=77),
    "byte pieces that are none": model(pieces=piece("<unk>", 0.0, 2) + piece("<0xZZ>", 0.0, 6) * 256),
    "cut off": model()[:-7],
    "nested without end": field(1, b"\x0a\x7f" * 5000),
    "no model": b"\x80\x04cposix\nsystem\n.",
}
NAMES = {
    "T5Tokenizer": "spiece.model",
    "LlamaTokenizer": "tokenizer.model",
    "XLMRobertaTokenizer": "sentencepiece.bpe.model",
    "SiglipTokenizer": "spiece.model",
    "PreTrainedTokenizerFast": "tokenizer.model",
}


def crafted_sentencepiece(case, folder: Path, monkeypatch) -> int:
    """Under the names of several tokenizers, read by the real library; at full size, with random bits flipped too."""
    monkeypatch.undo()
    folder.mkdir()
    rng = random.Random(6)
    flipped = {}
    for number in range(case.size(0, 40)):
        content = bytearray(model(charsmap=struct.pack("<I", 16) + bytes(20)))
        for _ in range(1 + number % 4):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        flipped[f"bits {number}"] = bytes(content)
    every = [*{**CRAFTED, **flipped}.items()]
    some = every[: case.size(1, len(every))]
    for number, (what, content) in enumerate(some):
        kind, name = list(NAMES.items())[number % len(NAMES)]
        for path in folder.iterdir():
            path.unlink()
        (folder / name).write_bytes(content)
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
        try:
            load_pretrained(str(folder))
        except CheckpointError as error:
            assert "cannot be loaded" in str(error) or "slow tokenizer" in str(error), what
    return len(some)
