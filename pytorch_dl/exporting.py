"""The command `export`: from a run folder to a folder for another program."""

import sys
from pathlib import Path

from pytorch_dl import __version__
from pytorch_dl.errors import ConfigError
from pytorch_dl.export import ctranslate2, onnx, safetensors
from pytorch_dl.export.folder import Origin, refuse_another
from pytorch_dl.export.pairs import pairs_of
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.translator import load

FORMS = ("ctranslate2", "onnx", "safetensors")


def export_run(run: Path, *, to: str, out: Path, quantization: str | None) -> None:
    """Write the model of a run to the folder `out` in the form `to`."""
    config, origin = RunFolder(run).read_config(), Origin(str(run), __version__)
    _check(run, to=to, out=out, quantization=quantization)
    translator = load(run, device="cpu")
    model, tokenizers = translator.model, translator.tokenizers
    if to == "safetensors":
        safetensors.export(model, tokenizers, config, out, origin=origin)
    else:
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
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    _say(f"{out}: {size / 1e6:,.1f} MB")


def _check(run: Path, *, to: str, out: Path, quantization: str | None) -> None:
    """Refuse what cannot be done before anything is loaded."""
    if to not in FORMS:
        raise ConfigError(f"unknown form {to!r}", where="--to", fix=f"give one of {', '.join(FORMS)}")
    if quantization and to != "ctranslate2":
        raise ConfigError(
            f"got {quantization}, but --to {to} keeps the weights as they are",
            where="--quantization",
            fix="leave it out, or export to ctranslate2",
        )
    if out.resolve() == run.resolve():
        raise ConfigError("the export would take the place of the run", where=str(out), fix="choose another --out")
    refuse_another(out)
    if to == "ctranslate2":
        ctranslate2.require(quantization)
    elif to == "onnx":
        onnx.require()


def _say(line: str) -> None:
    print(line, file=sys.stderr)
