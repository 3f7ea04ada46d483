"""What a run trains on: its texts, tokenizers and token stores, found in its folder or made.

data.json there holds the fingerprints of the texts, so that a resumed run trains on what it began with.
"""

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pytorch_dl.config import Config
from pytorch_dl.config.model_config import DataConfig
from pytorch_dl.dataset.efficient_dataloader import DataModule, RecordedText, Texts, texts_of
from pytorch_dl.dataset.text_files import PairStream, TextSource
from pytorch_dl.dataset.text_pair import Fault
from pytorch_dl.dataset.tokenizer import TokenizerPair, build_tokenizers
from pytorch_dl.errors import CheckpointError, DataError
from pytorch_dl.files import damage, read_json, write_json
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.peers import Peers
from pytorch_dl.training.run_folder import RunFolder

Say = Callable[[str], None]
Record = dict[str, list[RecordedText]]  # of each field of Texts


def prepare(folder: RunFolder, config: Config, say: Say, *, cache: Path | None = None) -> DataModule:
    """Tokenizers and token stores, found in the folder or made; the stores in `cache`, where that is given."""
    texts = _same_texts(folder, config, say)
    data = DataModule(
        data=_with_number(config),
        batch_size=config.training.batch_size,
        seed=config.system.seed,
        tokenizers=_tokenizers(folder, config, texts, say),
        texts=texts,
        cache_dir=cache or config.data.cache_dir or folder.cache,
        report=say,
    )
    data.setup()
    _require_recorded(folder, data)
    return data


def _with_number(config: Config) -> DataConfig:
    """As long as it is not known how a step is divided, it is one batch."""
    if config.data.max_tokens_per_batch != "auto":
        return config.data
    return config.data.model_copy(update={"max_tokens_per_batch": config.training.tokens_per_step})


def text_of(folder: RunFolder, config: Config, side: Literal["train", "val"]) -> list[PairStream]:
    """The text of a run, to look at again; a DataError where it is gone or is another by now."""
    texts: list[PairStream] = getattr(texts_of(config.data, seed=config.system.seed), side)
    recorded = recorded_texts(folder)
    if recorded is None:
        raise DataError("the run does not hold what tells its text", where=str(folder.data))
    for text, before in itertools.zip_longest(texts, recorded[side]):
        if not (text and before) or text.fingerprint() != before.sha256:
            raise DataError("has changed since the run", where=(text or before).name, fix="restore the text")
    return texts


def text_states(config: Config) -> dict[Path, tuple[int, int]]:
    """Size and time of the last change of each file of the training and validation text that is there."""
    states = {}
    for text in _undivided(config):
        with contextlib.suppress(DataError, OSError):
            for path in text.paths if isinstance(text, TextSource) else []:
                found = path.stat()
                states[path] = (found.st_size, found.st_mtime_ns)
    return states


def require_same_texts(peers: Peers, config: Config) -> None:
    """Raise on all processes, naming the text, where a path leads to another content on another machine.

    Only the first process must be able to read its texts: the others find them prepared.
    """
    if peers.size == 1:
        return
    own = {}
    for text in _undivided(config):
        with contextlib.suppress(DataError, OSError):
            own[text.name] = text.fingerprint()[:16]
    firsts = peers.tell(own)
    comparable = {name: own.get(name, first) for name, first in firsts.items()}
    peers.refuse_difference(comparable, what="the fingerprints of the text")


def _undivided(config: Config) -> Iterator[PairStream]:
    """The training and validation texts as they lie on the disk: to choose what is held out would read them."""
    data = config.data.model_copy(update={"val_split": 0})
    return itertools.chain(*texts_of(data, seed=config.system.seed))


def _tokenizers(folder: RunFolder, config: Config, texts: Texts, say: Say) -> TokenizerPair:
    """Those of the folder, which must be whole once a model was trained with them."""
    if ckpt.checkpoints(folder.checkpoints) or damage(folder.tokenizer) is None:
        return TokenizerPair.load(folder.tokenizer)
    tokenizers = new_tokenizers(config, texts, say)
    tokenizers.save(folder.tokenizer)
    return tokenizers


def new_tokenizers(config: Config, texts: Texts, say: Say) -> TokenizerPair:
    """Tokenizers as the configuration wants them, trained on the texts unless they are pretrained."""
    return build_tokenizers(
        texts.train,
        name=config.data.tokenizer_name,
        vocab_size=config.data.vocab_size,
        shared=config.data.shared_vocabulary,
        report=say,
    )


def _same_texts(folder: RunFolder, config: Config, say: Say) -> Texts:
    """The texts, which must be those that the run began with; the token stores do in place of texts that are gone."""
    recorded = recorded_texts(folder)
    try:
        texts = texts_of(config.data, seed=config.system.seed)
        now = {side: [_record(text) for text in getattr(texts, side)] for side in Texts._fields}
    except DataError as error:
        if recorded is None:
            raise
        if not (isinstance(error, Fault) and error.kind == "file"):
            raise _changed(folder, str(error)) from None
        say(f"the text cannot be read, its prepared form does instead: {error.where}: {error.what}")
        return Texts([*recorded["train"]], [*recorded["val"]])
    if _sums(now) != _sums(recorded):
        if recorded and ckpt.checkpoints(folder.checkpoints):
            raise _changed(folder, _first_change(recorded, now))
        if recorded:
            say("the text has changed before the first checkpoint: it is prepared anew")
            shutil.rmtree(folder.tokenizer, ignore_errors=True)
        write_json(folder.data, {side: [asdict(text) for text in now[side]] for side in Texts._fields})
    return texts


def _require_recorded(folder: RunFolder, data: DataModule) -> None:
    """Refuse a text that has changed between its fingerprint and its token store: the record would tell another."""
    recorded = recorded_texts(folder)
    assert recorded is not None, "the folder tells of no text"
    for side, store in (("train", data.train_store), ("val", data.val_store)):
        for text, made_from in zip(recorded[side], store.texts if store else [], strict=True):
            if text.sha256 != made_from:
                fix = f"go on with `pytorch-dl resume {folder.path}` when it is final"
                raise DataError("the text changed while it was prepared", where=text.name, fix=fix)


def _changed(folder: RunFolder, how: str) -> CheckpointError:
    return CheckpointError(
        f"the text has changed since the run began: {how}",
        where=str(folder.path),
        fix="restore the text, or begin another run",
    )


def _record(text: PairStream) -> RecordedText:
    return RecordedText(text.name, text.weight, text.fingerprint())


def _sums(texts: Record | None) -> dict[str, list[str]] | None:
    """What must stay the same: the contents, wherever the files lie."""
    return {side: [text.sha256 for text in texts[side]] for side in texts} if texts else None


def _first_change(recorded: Record, now: Record) -> str:
    for side in Texts._fields:
        for old, new in itertools.zip_longest(recorded[side], now[side]):
            if (old and old.sha256) != (new and new.sha256):
                name = (new or old).name
                before, after = (text.sha256[:12] if text else "none" for text in (old, new))
                return f"{name} has the fingerprint {after}, expected {before}"
    return "other texts"


def recorded_texts(folder: RunFolder) -> Record | None:
    """The texts that a run began with, by their fingerprints; None where it does not hold them."""
    if not folder.data.exists():
        return None
    try:
        sides = read_json(folder.data)
        return {side: [RecordedText(**text) for text in sides[side]] for side in Texts._fields}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"cannot be read: {error}", where=str(folder.data), fix="restore it from a backup"
        ) from None
