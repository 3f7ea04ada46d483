"""Tensors of strangers: files of safetensors that abuse the format, or hold what the model has no place for."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile_files import MEGABYTE, forget_peak, peak_bytes, quickly, safetensors, sign
from safetensors.torch import load_file, save_file
from tiny_runs import call, copied_run

import pytorch_dl
from pytorch_dl.config import load_config, to_yaml
from pytorch_dl.errors import CheckpointError

NORM = "encoder_norm.weight"  # (16,) in float32
F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
Tensors = dict[str, torch.Tensor]


def one(**changes: object) -> dict[str, dict[str, object]]:
    return {"a": {**F32, **changes}}


ABUSES = {
    "overlapping": safetensors({"a": F32, "b": F32}, bytes(4)),
    "with a hole": safetensors({"a": F32, "b": {**F32, "data_offsets": [8, 12]}}, bytes(12)),
    "with more behind": safetensors(one(), bytes(5)),
    "beyond the end": safetensors(one(data_offsets=[0, 1 << 40], shape=[1 << 38]), bytes(4)),
    "backwards": safetensors(one(data_offsets=[4, 0]), bytes(4)),
    "negative offsets": safetensors(one(data_offsets=[-4, 0]), bytes(4)),
    "huge shape": safetensors(one(shape=[1 << 62, 1 << 62]), bytes(4)),
    "shape that overflows to its size": safetensors(one(shape=[(1 << 62) + 1, 4]), bytes(4)),
    "many dimensions": safetensors(one(shape=[1] * 100_000), bytes(4)),
    "negative shape": safetensors(one(shape=[-1]), bytes(4)),
    "shape in fractions": safetensors(one(shape=[1.0]), bytes(4)),
    "no bytes of a huge shape": safetensors(one(shape=[0, 1 << 62], data_offsets=[0, 0])),
    "unknown kind": safetensors(one(dtype="F31"), bytes(4)),
    "kind of Python": safetensors(one(dtype="O"), bytes(4)),
    "half bytes": safetensors(one(dtype="F4", shape=[8]), bytes(4)),
    "8 bits": safetensors(one(dtype="F8_E4M3", shape=[4]), bytes(4)),
    "metadata of numbers": safetensors({"__metadata__": {"format": 1}, **one()}, bytes(4)),
    "twice": safetensors(b'{"a":%b,"a":%b}' % ((json.dumps(F32).encode(),) * 2), bytes(4)),
    "no object": safetensors(b"[]"),
    "nested": safetensors(b"[" * 100_000),
    "header of zeros": safetensors(bytes(64)),
    "header that is not UTF-8": safetensors(b'{"\xff":{}}'),
    "header of no bytes": safetensors(b""),
    "header longer than the file": safetensors(b"{}", length=1 << 20),
    "header of 2 ** 63 bytes": safetensors(b"{}", length=1 << 63),
    "less than a length": bytes(7),
    "nothing": b"",
}


LONG = {"header of 120 MB": 120_000_000, "header of 90 MB": 90_000_000}  # of zeros


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: change(tensors[name])})


def of_other_kinds(name: str, *kinds: torch.dtype) -> dict[str, Callable[[Tensors], None]]:
    return {f"{name} of {kind}": changed(name, lambda t, kind=kind: torch.ones_like(t).to(kind)) for kind in kinds}


KINDS = (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8)
UNFIT: dict[str, Callable[[Tensors], object]] = {
    "NaN": changed(NORM, lambda t: t.fill_(torch.nan)),
    "one infinity": changed(NORM, lambda t: t.index_fill(0, torch.tensor([3]), -torch.inf)),
    "another shape of as many": changed(NORM, lambda t: t.view(4, 4)),
    "no shape": changed(NORM, lambda t: t.sum()),
    "missing": lambda tensors: tensors.pop(NORM),
    "one more": lambda tensors: tensors.update({"x" * 10_000: torch.zeros(1)}),
    **of_other_kinds(NORM, *KINDS, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint16),
}
PARTS = ("step", "exp_avg", "exp_avg_sq")
OPTIMIZER_UNFIT: dict[str, Callable[[Tensors], object]] = {
    **{name: change for part in PARTS for name, change in of_other_kinds(f"{NORM}/{part}", *KINDS).items()},
    **{f"no {part}": lambda tensors, part=part: tensors.pop(f"{NORM}/{part}") for part in PARTS},
    "many steps": changed(f"{NORM}/step", lambda t: t.expand(1000).clone()),
    "NaN": changed(f"{NORM}/exp_avg_sq", lambda t: t.fill_(torch.nan)),
    "of no parameter": lambda tensors: tensors.update({"os.system/exp_avg": torch.zeros(1)}),
}


def spoilt_tensors(content: bytes | int | Callable[[Tensors], object], path: Path) -> None:
    """Put the abuse in the place of a file, or change the file's tensors, with right checksums."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, int):
        path.write_bytes(safetensors(b"{", length=content))
        os.truncate(path, 8 + content)
    else:
        tensors = load_file(path)
        content(tensors)
        save_file(tensors, path, metadata={"optimizer": "AdamW"})
    sign(path.parent)


def test_h3_abusive_tensors(case, tiny_run, tmp_path, capsys):
    """As weights for use, and as weights and optimizer of each checkpoint: refused in a moment, in the file's size."""
    weights, optimizer = {**ABUSES, **LONG, **UNFIT}, {**ABUSES, **OPTIMIZER_UNFIT}
    every = [
        *((what, "model/model.safetensors", "translate") for what in weights),
        *((what, "checkpoints/*/model.safetensors", "resume") for what in weights),
        *((what, "checkpoints/*/optimizer.safetensors", "resume") for what in optimizer),
    ]
    for number, (what, files, command) in enumerate(every := every[:: case.size(3, 1)]):
        run = copied_run(tiny_run, tmp_path / str(number))
        if command == "resume":
            shutil.rmtree(run / "model")
        paths = list(run.glob(files))
        for path in paths:
            spoilt_tensors((optimizer if "optimizer" in files else weights)[what], path)
        size, before = sum(path.stat().st_size for path in paths), forget_peak()
        with quickly(2 if size < MEGABYTE else 4, what):
            result = call(capsys, command, run, *(("-t", "ab") if command == "translate" else ()))
        assert result.code == 4, f"{what} in {files}: {result.err}"
        assert len(result.error_lines) == 1 and "Traceback" not in result.err
        assert peak_bytes() - before < 2 * size + 64 * MEGABYTE, f"{what} in {files}"
        shutil.rmtree(tmp_path / str(number))
    case.survived(len(every), injected="an abusive or unfit safetensors file", lost="all were refused")


def test_h3_a_bit_of_a_header(case, tiny_run, tmp_path):
    """A header with another bit is refused, or is white space and means the same."""
    run, rng, refused = copied_run(tiny_run, tmp_path), random.Random(3), 0
    path = run / "model/model.safetensors"
    whole, times = path.read_bytes(), case.size(20, 2000)
    expected = pytorch_dl.load(run).model.state_dict()
    for _ in range(times):
        content = bytearray(whole)
        content[rng.randrange(8 + int.from_bytes(whole[:8], "little"))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        sign(path.parent)
        try:
            found = pytorch_dl.load(run).model.state_dict()
        except CheckpointError:
            refused += 1
        else:
            assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert refused > 0.8 * times


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"d_model": 1 << 20}, "the model expects"),
        ({"num_encoder_layers": 1 << 40}, "tensors, too few for"),
        ({"d_ff": 1 << 40}, "the model expects"),
    ],
)
def test_h3_a_configuration_that_asks_for_more_than_there_is(tiny_run, tmp_path, capsys, changes, says):
    """Before any memory is taken for it."""
    run = copied_run(tiny_run, tmp_path)
    config = load_config(run / "config.yaml")
    config.update(model=changes)
    (run / "config.yaml").write_text(to_yaml(config))
    before = forget_peak()
    with quickly(2, says):
        result = call(capsys, "translate", run, "-t", "ab")
    assert (result.code, says in result.error_lines[0]) == (4, True), result.err
    assert peak_bytes() - before < 64 * MEGABYTE
