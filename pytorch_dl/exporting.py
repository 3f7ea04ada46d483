"""The command `export`: from a run folder to a folder for another program, or to a repository of the hub."""

import sys
import tempfile
from pathlib import Path

from pytorch_dl import __version__
from pytorch_dl.config import Config
from pytorch_dl.errors import ConfigError
from pytorch_dl.export import ctranslate2, onnx, safetensors
from pytorch_dl.export.card import Card, without_paths
from pytorch_dl.export.folder import Origin, refuse_another
from pytorch_dl.export.hub import PREFIX, is_on_hub, put, require_library
from pytorch_dl.export.pairs import pairs_of
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.translator import Translator, load

FORMS = ("ctranslate2", "onnx", "safetensors")


def export_run(run: Path, *, to: str, out: str, quantization: str | None, private: bool = False) -> None:
    """Write the model of a run in the form `to`, to the folder `out` or to the repository hf://ORG/NAME."""
    folder, to_hub = RunFolder(run), is_on_hub(out)
    config = folder.read_config()
    _check(to=to, quantization=quantization)
    if to_hub:
        require_library()
        name = out.removeprefix(PREFIX)
        card = Card.of(name, config, folder.read_report())
        with tempfile.TemporaryDirectory(prefix="pytorch-dl-export-") as scratch:
            place = Path(scratch) / "export"
            origin = Origin(run.resolve().name, __version__, card)
            _write(load(run, device="cpu"), config, place, to=to, quantization=quantization, origin=origin)
            _say(put(place, name, private=private or None))
        return
    if private:
        raise ConfigError("is for repositories", where="--private", fix=f"leave it out, or give --out {PREFIX}ORG/NAME")
    place = Path(out)
    _check_place(run, place)
    _write(
        load(run, device="cpu"), config, place, to=to, quantization=quantization, origin=Origin(str(run), __version__)
    )
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    _say(f"{place}: {size / 1e6:,.1f} MB")


def _write(
    translator: Translator, config: Config, out: Path, *, to: str, quantization: str | None, origin: Origin
) -> None:
    model, tokenizers = translator.model, translator.tokenizers
    if to == "safetensors":
        safetensors.export(model, tokenizers, without_paths(config) if origin.card else config, out, origin=origin)
        return
    pairs = pairs_of(config, tokenizers, max_seq_len=model.max_seq_len)
    _say(f"comparing on {len(pairs)} {pairs.origin}")
    if to == "onnx":
        found = {"float32": onnx.export(model, tokenizers, out, pairs=pairs, origin=origin)}
    else:
        found = ctranslate2.export(
            model, tokenizers, out, pairs=pairs, quantization=quantization or "float32", origin=origin
        )
    for name, parity in found.items():
        _say(f"{name}: {parity}")


def _check(*, to: str, quantization: str | None) -> None:
    """Refuse what cannot be done before anything is loaded."""
    if to not in FORMS:
        raise ConfigError(f"unknown form {to!r}", where="--to", fix=f"give one of {', '.join(FORMS)}")
    if quantization and to != "ctranslate2":
        raise ConfigError(
            f"got {quantization}, but --to {to} keeps the weights as they are",
            where="--quantization",
            fix="leave it out, or export to ctranslate2",
        )
    if to == "ctranslate2":
        ctranslate2.require(quantization)
    elif to == "onnx":
        onnx.require()


def _check_place(run: Path, out: Path) -> None:
    if out.resolve() == run.resolve():
        raise ConfigError("the export would take the place of the run", where=str(out), fix="choose another --out")
    refuse_another(out)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
