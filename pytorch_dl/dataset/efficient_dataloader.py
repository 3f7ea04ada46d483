"""The front door of the folder: from the paths of texts to loaders of batches.

streams of text pairs -> tokenizers -> token store -> plan of an epoch -> batches
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pytorch_dl.config.contradictions import data_contradictions
from pytorch_dl.config.load import merged
from pytorch_dl.config.model_config import Config, CorpusConfig, DataConfig
from pytorch_dl.dataset.batching import Special, TokenIds
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.dataset.packing import WIDEST_ROW
from pytorch_dl.dataset.pairs_in_memory import PairsInMemory
from pytorch_dl.dataset.planning import Lengths, Planner
from pytorch_dl.dataset.split import hold_out
from pytorch_dl.dataset.text_files import PairStream, TextPair, TextSource, is_number, report_dropped
from pytorch_dl.dataset.token_store import TokenStore, open_or_build
from pytorch_dl.dataset.tokenizer import TokenizerPair, build_tokenizers
from pytorch_dl.errors import ConfigError, DataError

MANY_LEFT_OUT = 0.1


class Texts(NamedTuple):
    """The streams of text pairs to train and to validate on."""

    train: list[PairStream]
    val: list[PairStream]


@dataclass(frozen=True)
class RecordedText:
    """A PairStream of which only the fingerprint is left: enough to find its token store, not to build it."""

    name: str
    weight: float
    sha256: str
    dropped = 0  # of the class: it is not recorded

    def __iter__(self) -> Iterator[TextPair]:
        raise DataError("the text is gone, and so is its token store", where=self.name, fix="restore the text")

    def fingerprint(self) -> str:
        """What the text's was."""
        return self.sha256


class DataModule:
    """Text pairs prepared for training: `setup()` once, then the loaders.

    What is not given has the default of `DataConfig`; `data` gives all of it at once. `train_pairs` and `val_pairs` are
    texts in memory in place of paths: lists of (source, target), or of records, as a Hugging Face `Dataset` is one, in
    which data.src_column and data.tgt_column name the texts. `tokenizers` are used in place of training new ones,
    `texts` in place of all texts, and `report` is told what happens.
    """

    def __init__(
        self,
        train_data_path: str | None = None,
        val_data_path: str | None = None,
        *,
        tokenizer_name: str | None = None,
        batch_size: int | None = None,
        max_length: int | None = None,
        use_dynamic_batching: bool | None = None,
        max_tokens_per_batch: int | None = None,
        train_pairs: Iterable[object] | None = None,
        val_pairs: Iterable[object] | None = None,
        data: DataConfig | None = None,
        seed: int = 1,
        tokenizers: TokenizerPair | None = None,
        texts: Texts | None = None,
        cache_dir: str | Path | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        given = {
            "train_data_path": train_data_path,
            "val_data_path": val_data_path,
            "tokenizer_name": tokenizer_name,
            "max_length": max_length,
            "use_dynamic_batching": use_dynamic_batching,
            "max_tokens_per_batch": max_tokens_per_batch,
        }
        given = {name: value for name, value in given.items() if value is not None}
        size = {} if batch_size is None else {"batch_size": batch_size}
        config = merged(Config(data=data or DataConfig()), {"data": given, "training": size})
        if found := data_contradictions(config.data):
            raise ConfigError("; ".join(found), where="DataModule")
        if config.data.max_tokens_per_batch == "auto":
            raise ConfigError(
                "data.max_tokens_per_batch: auto is found by a run, which has a model to try",
                where="DataModule",
                fix="give a number",
            )
        self.data, self.batch_size = config.data, config.training.batch_size
        self.seed, self.report = seed, report
        self.cache_dir = Path(cache_dir or self.data.cache_dir or default_cache())
        self._tokenizers, self._texts, self._pairs = tokenizers, texts, (train_pairs, val_pairs)
        self.train_store: TokenStore | None = None
        self.val_store: TokenStore | None = None

    def setup(self) -> None:
        """Read the texts, train the tokenizers if need be, and prepare the token stores, or find them prepared."""
        train, val = self._all_texts()
        if self._tokenizers is None:
            self._tokenizers = build_tokenizers(
                train,
                name=self.data.tokenizer_name,
                vocab_size=self.data.vocab_size,
                shared=self.data.shared_vocabulary,
                report=self.report,
            )
        self.train_store = open_or_build(train, self.tokenizers, cache_dir=self.cache_dir, report=self.report)
        if val:
            self.val_store = open_or_build(val, self.tokenizers, cache_dir=self.cache_dir, report=self.report)
            if self.val_store.holds_the_same(self.train_store):
                self.report(
                    "warning: the validation text is the training text: it tells what was learnt by heart, no more"
                )

    @property
    def tokenizers(self) -> TokenizerPair:
        """The tokenizers of both sides."""
        if self._tokenizers is None:
            raise ConfigError("the data is not prepared", fix="call setup() first")
        return self._tokenizers

    @property
    def max_tokens(self) -> int:
        """Token positions of a batch on each side."""
        assert self.data.max_tokens_per_batch != "auto", "refused at the beginning"
        return self.data.max_tokens_per_batch

    @property
    def vocab_sizes(self) -> tuple[int, int]:
        """Tokens of the source and of the target vocabulary."""
        return self.tokenizers.src.vocab_size, self.tokenizers.tgt.vocab_size

    def train_dataloader(self) -> BatchLoader:
        """Batches of the training text, in another order each epoch."""
        if self.train_store is None:
            raise ConfigError("the data is not prepared", fix="call setup() first")
        return self._loader(self.train_store, name="training")

    def val_dataloader(self) -> BatchLoader | None:
        """Batches of the validation text, always the same; None when there is none."""
        return self._loader(self.val_store, name="validation") if self.val_store else None

    def _loader(self, store: TokenStore, *, name: str) -> BatchLoader:
        data, tgt = self.data, self.tokenizers.tgt
        lengths = Lengths(store.src_lengths.astype(np.int64) + 1, store.tgt_lengths.astype(np.int64) + 1)
        kept = np.flatnonzero((lengths.src <= data.max_length) & (lengths.tgt <= data.max_length))
        self._report_left_out(len(store) - len(kept), len(store), name)
        planner = Planner(
            lengths,
            kept,
            [(corpus.start, corpus.stop, corpus.weight) for corpus in store.corpora],
            seed=self.seed,
            max_tokens=self.max_tokens,
            batch_size=None if data.use_dynamic_batching else self.batch_size,
            packed=_are_packed(data, longest=int(max(lengths.src[kept].max(), lengths.tgt[kept].max()))),
        )
        return BatchLoader(
            planner,
            TokenIds(store.src_ids, store.src_offsets),
            TokenIds(store.tgt_ids, store.tgt_offsets),
            Special(tgt.pad_id, tgt.bos_id, tgt.eos_id),
            vocab_sizes=self.vocab_sizes,
            workers=data.num_workers,
            prefetch=data.prefetch_factor,
            pin_memory=data.pin_memory,
        )

    def _all_texts(self) -> Texts:
        train, val = self._pairs
        if train is None and val is None:
            return self._texts or texts_of(self.data, seed=self.seed)
        if train is None or self._texts:
            raise ConfigError("train_pairs or texts, and val_pairs with train_pairs only", where="DataModule")
        return texts_in_memory(train, val, self.data, seed=self.seed)

    def _report_left_out(self, left_out: int, total: int, name: str) -> None:
        limit = self.data.max_length
        if left_out == total:
            raise DataError(f"all {total:,} {name} pairs are longer than data.max_length ({limit})", fix="raise it")
        if left_out:
            loud = "warning: " if left_out > MANY_LEFT_OUT * total else ""
            share = 100 * left_out / total
            self.report(
                f"{loud}{left_out:,} of {total:,} {name} pairs ({share:.2f} %) are longer than "
                f"data.max_length ({limit}) and left out"
            )


def _are_packed(data: DataConfig, *, longest: int) -> bool:
    """What data.layout means for text whose longest side has so many tokens."""
    if data.layout == "auto":
        return data.use_dynamic_batching and longest <= WIDEST_ROW
    return data.layout == "packed"


def require_training_text(data: DataConfig) -> None:
    """Raise when the configuration names none."""
    if not data.train_data_path and not data.corpora:
        raise ConfigError("there is no training text", fix="give --src (and --tgt), or set data.train_data_path")


def texts_of(data: DataConfig, *, seed: int) -> Texts:
    """The training corpora, and the validation text or what is held out for it."""
    require_training_text(data)
    first = [CorpusConfig(src=data.train_data_path, tgt=data.train_tgt_path)] if data.train_data_path else []
    train: Sequence[TextSource] = [_corpus(data, corpus) for corpus in (*first, *data.corpora)]
    val = [source(data, data.val_data_path, data.val_tgt_path)] if data.val_data_path else []
    test = [source(data, data.test_data_path, data.test_tgt_path)] if data.test_data_path else []
    known = (*train, *val, *test)
    if data.src_column and not any(text.src_column for text in known):
        raise ConfigError(
            f"data.src_column ({data.src_column}) is for none of the texts: {', '.join(text.name for text in known)}",
            fix="columns have numbers in TSV, names in CSV, JSON lines and Parquet, and two files have none",
        )
    if data.val_split:
        return Texts(*_split(train, count=data.val_split, seed=seed))
    return Texts(list(train), list(val))


def texts_in_memory(train: Iterable[object], val: Iterable[object] | None, data: DataConfig, *, seed: int) -> Texts:
    """The texts of pairs in memory, and the validation text or what is held out for it."""
    for name in ("train_data_path", "val_data_path", "corpora", *(["val_split"] if val is not None else [])):
        if getattr(data, name):
            raise ConfigError(f"pairs in memory and data.{name} exclude each other", fix="give one of them")
    columns = (data.src_column, data.tgt_column) if data.src_column and data.tgt_column else None
    streams = [
        PairsInMemory(pairs, name, columns, on_blank=data.on_blank)
        for name, pairs in (("train_pairs", train), ("val_pairs", val))
        if pairs is not None
    ]
    if data.val_split:
        return Texts(*_split(streams, count=data.val_split, seed=seed))
    return Texts([streams[0]], [*streams[1:]])


def _split(train: Sequence[PairStream], *, count: int, seed: int) -> tuple[list[PairStream], list[PairStream]]:
    kept, held_out = hold_out(train, count=count, seed=seed)
    return [*kept], [held_out]


def read_pairs(streams: Iterable[PairStream], report: Callable[[str], None]) -> list[TextPair]:
    """All pairs; `report` is told of those that are left out."""
    pairs = []
    for stream in streams:
        pairs += list(stream)
        report_dropped(stream, report)
    return pairs


def source(data: DataConfig, src: str, tgt: str | None, *, weight: float = 1.0) -> TextSource:
    """A text that is read as the configuration says.

    The suffixes are for what is no file. The columns are for the training text, for what has its form, and for any form
    that can have them: numbers for TSV, names for others.
    """
    text = TextSource(src, tgt, weight=weight, on_blank=data.on_blank)
    if data.src_suffix and text.form not in ("two files", "Hugging Face") and not os.path.isfile(src):
        return replace(text, src_suffix=data.src_suffix, tgt_suffix=data.tgt_suffix)
    columns = [column for column in (data.src_column, data.tgt_column) if column]
    fits = all(is_number(column) == (text.form == "TSV") for column in columns)
    first = data.train_data_path
    in_one_file = first and not data.train_tgt_path and not (data.src_suffix and not os.path.isfile(first))
    alike = bool(first and in_one_file) and text.form == TextSource(str(first)).form
    if text.form == "two files" or not (fits or alike):
        return text
    return replace(text, src_column=data.src_column, tgt_column=data.tgt_column)


def _corpus(data: DataConfig, corpus: CorpusConfig) -> TextSource:
    """A corpus; its own suffixes or columns stand in place of those of all texts."""
    own = {name: getattr(corpus, name) for name in ("src_suffix", "tgt_suffix", "src_column", "tgt_column")}
    if not any(own.values()):
        return source(data, corpus.src, corpus.tgt, weight=corpus.weight)
    return TextSource(corpus.src, corpus.tgt, **own, weight=corpus.weight, on_blank=data.on_blank)


def default_cache() -> Path:
    """Where prepared stores lie outside a run: $XDG_CACHE_HOME/pytorch-dl, or ~/.cache/pytorch-dl."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytorch-dl"
