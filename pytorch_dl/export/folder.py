"""The folder of an export: made whole or not at all, never over something else, with notes on what is in it."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import tokenizers
import torch

from pytorch_dl.errors import ConfigError
from pytorch_dl.export.card import Card
from pytorch_dl.export.parity import Parity
from pytorch_dl.files import MANIFEST, new_folder, read_json, write_file, write_json

NOTES = "export.json"
_USE = {
    "ctranslate2": (
        "A model for CTranslate2",
        [
            "pip install ctranslate2 tokenizers",
            "python translate.py < in.txt > out.txt    # 5 beams; translate.py 1: greedy",
        ],
    ),
    "onnx": (
        "A model in ONNX: an encoder, and a decoder for one token at a time",
        ["pip install onnxruntime tokenizers", "python translate.py < in.txt > out.txt    # greedy"],
    ),
    "safetensors": (
        "A model in safetensors",
        ["pip install pytorch-dl", "pytorch-dl translate . in.txt > out.txt    # in Python: pytorch_dl.load(FOLDER)"],
    ),
}


class Origin(NamedTuple):
    """Where an export is from."""

    run: str
    version: str
    """Of this program."""
    card: Card | None = None
    """Told of a model that is for others."""


@contextlib.contextmanager
def exported_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` on a clean exit; an older export there is replaced, else refused."""
    refuse_another(out)
    with new_folder(out) as new:
        yield new


def write_notes(
    folder: Path, *, to: str, origin: Origin, versions: Mapping[str, str], weights: str, parity: Mapping[str, Parity]
) -> None:
    """Write export.json for programs and README.md for people."""
    command = f"pytorch-dl export {origin.run} --to {to}"
    command += "" if weights == "float32" else f" --quantization {weights}"
    every = {"pytorch-dl": origin.version, "torch": torch.__version__, "tokenizers": tokenizers.__version__, **versions}
    facts = {"to": to, "run": origin.run, "command": command, "weights": weights, "versions": every}
    write_json(folder / NOTES, {**facts, "parity": {name: asdict(found) for name, found in parity.items()}})
    what, use = _USE[to]
    card = origin.card
    if card and "/" in card.name:  # of a hub
        use = [line.replace(" . ", f" hf://{card.name} ") for line in use]
    lines = [f"# {what}", "", "```bash", *use, "```", "", f"Made by `{command}`. Weights: {weights}."]
    lines += [f"Versions: {', '.join(f'{name} {version}' for name, version in every.items())}."]
    if parity:
        first = next(iter(parity.values()))
        lines += ["", f"Compared with the model on {first.pairs} {first.origin}:", ""]
        lines += [f"- {name}: {found}" for name, found in parity.items()]
    lines += card.lines() if card else []
    head = card.metadata(to) if card else ""
    write_file(folder / "README.md", head + "\n".join([*lines, ""]))


def refuse_another(out: Path) -> None:
    """Raise when `out` is there and holds anything but an export."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = read_json(out / MANIFEST)
        known = {*manifest, MANIFEST} if NOTES in manifest else set()
    except (OSError, ValueError, TypeError, RecursionError):
        known = set()
    others = [
        path for path in sorted(out.rglob("*")) if path.is_file() and path.relative_to(out).as_posix() not in known
    ]
    if not known or others:
        held = f"the file {others[0].relative_to(out)}" if others else "something else"
        raise ConfigError(
            f"it is there already and holds {held}, which is not of an export",
            where=str(out),
            fix="choose another --out, or move it away",
        )
