"""Pairs of texts in memory, and a cache of token stores made from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytorch_dl.dataset.text_files import PairStream
from pytorch_dl.dataset.text_pair import TextPair
from pytorch_dl.dataset.token_store import TokenStore, open_or_build
from pytorch_dl.dataset.tokenizer import TokenizerPair, build_tokenizers

PAIRS = [(f"the cat {number}", f"die Katze {number} 中 </s>") for number in range(57)]


@dataclass
class Pairs:
    """A stream that lies in memory."""

    pairs: Sequence[tuple[str, str]] = field(default_factory=lambda: list(PAIRS))
    name: str = "memory"
    weight: float = 1.0
    fingerprints: Iterator[str] | None = None
    dropped: int = 0

    def __iter__(self) -> Iterator[TextPair]:
        return (TextPair(src, tgt, number) for number, (src, tgt) in enumerate(self.pairs, 1))

    def fingerprint(self) -> str:
        return next(self.fingerprints) if self.fingerprints else str(self.pairs)


class Cache:
    """A cache folder, and what was reported."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.reports = folder, list[str]()

    def open(self, *streams: PairStream, tokenizers: TokenizerPair | None = None) -> TokenStore:
        self.reports.clear()
        return open_or_build(streams, tokenizers or BYTES, cache_dir=self.folder, report=self.reports.append)

    @property
    def stores(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir())

    @property
    def built(self) -> bool:
        return bool(self.reports)


BYTES = build_tokenizers([Pairs()], name="byte", vocab_size=300, shared=True)


def assert_holds(store: TokenStore, pairs: list[tuple[str, str]], tokenizers: TokenizerPair = BYTES) -> None:
    assert len(store) == len(pairs)
    for number, (src, tgt) in enumerate(pairs):
        assert store.src(number).tolist() == tokenizers.src.encode(src)
        assert store.tgt(number).tolist() == tokenizers.tgt.encode(tgt)
