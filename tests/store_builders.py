"""Processes that build the token store of one text in one cache, all at the same moment."""

import os
import subprocess
import sys
from pathlib import Path

from stores import PAIRS

from pytorch_dl.dataset.text_files import TextSource

ROOT = Path(__file__).resolve().parent.parent
BUILDER = """
import sys
from pathlib import Path
from pytorch_dl.dataset.text_files import TextSource
from pytorch_dl.dataset.token_store import open_or_build
from pytorch_dl.dataset.tokenizer import build_tokenizers
folder = Path(sys.argv[1])
source = TextSource(str(folder / "a.src"), str(folder / "a.tgt"))
pair = build_tokenizers([source], name="byte", vocab_size=300, shared=True)
print("ready", flush=True)
sys.stdin.readline()
store = open_or_build([source], pair, cache_dir=folder / "cache", report=lambda line: print(line, flush=True))
print(len(store), store.src_ids.sum(), flush=True)
"""


def write_text(folder: Path, *, times: int) -> TextSource:
    """The text that they build from, of so many times 57 pairs."""
    for name, side in (("a.src", 0), ("a.tgt", 1)):
        (folder / name).write_text("".join(f"{pair[side]}\n" for pair in PAIRS) * times)
    return TextSource(str(folder / "a.src"), str(folder / "a.tgt"))


def build_at_once(folder: Path, count: int) -> "list[subprocess.Popen[str]]":
    """Start them; each prints what it reports, and at last the pairs of its store and the sum of the source's ids."""
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for builder in builders:
        assert builder.stdout is not None and builder.stdout.readline() == "ready\n"
    for builder in builders:
        assert builder.stdin is not None
        builder.stdin.write("go\n")
        builder.stdin.flush()
    return builders
