"""What a run leaves: no secrets of its environment, rights as the user's mask wants them, no word to the network."""

import os
import socket
import stat
from collections.abc import Iterator

import pytest
from tiny_runs import TINY, call, write_tsv

SECRETS = {
    "HF_TOKEN": "hf_QXJlIHlvdSBsb29raW5n",
    "WANDB_API_KEY": "9f8e7d6c5b4a39281706f5e4d3c2b1a098765432",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLE",
    "GITHUB_TOKEN": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "https_proxy": "http://someone:s3cr3t-of-the-proxy@proxy.example:3128",
    "MY_PASSWORD": "correct-horse-battery-staple",
}
TRACKED = ["logging.tensorboard=true", "training.eval_decode=5"]
COMMANDS = [
    ["run", "--src", "text.tsv", "--split", "12", "--out", "run", "--beam", "2", *TINY, *TRACKED],
    ["resume", "run"],
    ["translate", "run", "lines.txt", "--out", "out.txt"],
    ["evaluate", "run", "--src", "text.tsv", "--save", "saved.txt"],
    ["verify", "run"],
    ["export", "run", "--to", "safetensors", "--out", "safetensors"],
    ["export", "run", "--to", "ctranslate2", "--out", "ctranslate2"],
    ["translate", "run", "--text", "ab", "--device", "tpu"],  # an error
]


@pytest.fixture
def unconnected(monkeypatch) -> Iterator[list[str]]:
    """What was asked of the network, which does not answer."""
    asked: list[str] = []
    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, lambda *given, name=name: asked.append(f"{name} {given[1:]}"))
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, lambda *given, name=name: asked.append(f"{name} {given}"))
    yield asked


@pytest.fixture
def masked() -> Iterator[None]:
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


def test_h8_secrets_masks_and_network(case, tmp_path, capsys, monkeypatch, unconnected, masked):
    """Of all commands from text to export, under several masks."""
    pytest.importorskip("ctranslate2")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    masks = [0o022, 0o077, 0o027, 0o002, 0o007, 0o000][: case.size(2, 6)]
    files = 0
    for mask in masks:
        os.umask(mask)
        folder = tmp_path / f"{mask:o}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        write_tsv(folder / "text.tsv")
        (folder / "lines.txt").write_text("ab cd\nef gh\n")
        for words in COMMANDS:
            result = call(capsys, *words)
            assert result.code == (2 if "tpu" in words else 0), result.err
            assert_tells_nothing(result.out.encode() + result.err.encode(), words[0])
        for path in folder.rglob("*"):
            mode = stat.S_IMODE(path.lstat().st_mode)
            assert mode == (0o777 if path.is_dir() else 0o666) & ~mask, f"{path}: {mode:o} under the mask {mask:o}"
            if path.is_file():
                assert_tells_nothing(path.read_bytes(), str(path))
                files += 1
    assert files > 40 * len(masks)
    assert unconnected == []
    case.survived(
        files,
        injected="files under six masks, with six secrets in the environment",
        lost="no secret, no right, no call",
    )


def assert_tells_nothing(content: bytes, where: str) -> None:
    for name, value in SECRETS.items():
        for known in (value, value.partition("@")[0].rpartition(":")[2], name):
            assert known.encode() not in content, f"{where} tells {name}"
