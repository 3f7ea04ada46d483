"""Without the packages for ONNX the way to them is told."""

import sys
from pathlib import Path

import pytest
from export_models import TOKENIZERS, tiny

from pytorch_dl.errors import ConfigError
from pytorch_dl.export import onnx
from pytorch_dl.export.folder import Origin
from pytorch_dl.export.pairs import random_pairs


def test_the_way_to_the_packages_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    pair = TOKENIZERS["shared"]
    pairs = random_pairs(pair, max_seq_len=24, why="test", count=1)
    with pytest.raises(ConfigError, match=r"onnx is not installed\. Fix: pip install 'pytorch-dl\[onnx\]'"):
        onnx.export(tiny(pair), pair, tmp_path / "out", pairs=pairs, origin=Origin("run", "1"))
    assert list(tmp_path.iterdir()) == []
