"""What all trainings of a comparison share: the record of what is compared, text, tokenizers, token stores, budget.

comparison.json   settings of the arms, seeds, budget, fingerprints of the text: what the folder is a comparison of
data/             the text, where pairs were held out of it: once, whatever the seed
tokenizers/       those of the arms, each once
cache/            token stores, each once
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pytorch_dl.building import choose_device
from pytorch_dl.changes import flat_settings, free_settings
from pytorch_dl.config import Config
from pytorch_dl.config.load import checked, with_values
from pytorch_dl.dataset.efficient_dataloader import DataModule, Texts, source, texts_of
from pytorch_dl.dataset.text_files import PairStream
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import CheckpointError, ConfigError
from pytorch_dl.experiments.arms import TEXTS, Budget
from pytorch_dl.files import TEMPORARY, damage, new_folder, read_json, remove_leftovers, write_json
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.plain_files import refuse_strange, strange_entries
from pytorch_dl.prepare import new_tokenizers
from pytorch_dl.run import check_texts, refuse_errors
from pytorch_dl.training.precision import choose_precision

Say = Callable[[str], None]
Record = dict[str, Any]
COUNTING = {"training.time_limit"}  # free in a run that goes on, but not between two
TOKENIZER_SETTINGS = {*TEXTS, "data.tokenizer_name", "data.vocab_size", "data.shared_vocabulary"}
TEXT_SETTINGS = {*TEXTS, "data.val_data_path", "data.val_tgt_path", "data.val_split"}


@dataclass(frozen=True)
class Prepared:
    """An arm that can be trained: its whole configuration but for the seed, and what comes of it."""

    config: Config
    tokenizers: TokenizerPair
    texts: Mapping[str, list[str]]
    """Fingerprints of training and validation text."""
    parameters: int


@dataclass
class Ground:
    """The folder of a comparison, and what was found or made there."""

    folder: Path
    say: Say
    _tokenizers: dict[str, TokenizerPair] = field(default_factory=dict)
    _modules: dict[str, DataModule] = field(default_factory=dict)

    @property
    def record(self) -> Path:
        """What is compared here."""
        return self.folder / "comparison.json"

    def refuse_other_folder(self) -> None:
        """Raise where the folder holds something that is no comparison."""
        for folder in (self.folder, *self.folder.glob("runs/*")):
            refuse_strange(strange_entries(folder, deep=False))
        found = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        found = {name for name in found if name != ".lock" and not name.startswith(TEMPORARY)}
        if found and not self.record.exists():
            raise ConfigError("the folder holds something else", where=str(self.folder), fix="choose another --out")

    def begin(self, arms: Mapping[str, Config], terms: Record) -> Record:
        """Check the text and write the record, or find that it is of the same comparison; returns what was decided."""
        remove_leftovers(self.folder)
        wanted = _record(arms, terms)
        _refuse_other_scoring(arms, wanted["arms"])
        if self.record.exists():
            known = self._read()
            _refuse_difference(known, wanted, where=self.folder)
            return dict(known["decided"])
        self._tokenizers = self._check(arms)
        decided = _decide(arms, at_once=terms["at_once"])
        write_json(self.record, {**wanted, "decided": decided})
        return decided

    def prepare(self, config: Config, decided: Record, budget: Budget | None) -> Prepared:
        """An arm on its shared text, tokenizers and token stores."""
        key = _key(config, TOKENIZER_SETTINGS)
        config = with_values(config, {**self._split(config), **self._own(config, decided)})
        texts = texts_of(config.data, seed=config.system.seed)
        tokenizers = self._shared_tokenizers(key, config, texts)
        module = self._module(config, tokenizers, texts)
        config = checked(with_values(config, _limits(budget, module, config)))
        sums = {side: [text.fingerprint() for text in getattr(texts, side)] for side in Texts._fields}
        return Prepared(config, tokenizers, sums, _parameters(config, tokenizers))

    def _read(self) -> Record:
        try:
            found = read_json(self.record)
            return {**found, "decided": dict(found["decided"]), "arms": dict(found["arms"])}
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(
                f"cannot be read: {error}", where=str(self.record), fix="restore it, or choose another --out"
            ) from None

    def _check(self, arms: Mapping[str, Config]) -> dict[str, TokenizerPair]:
        """Look at each text before anything is trained on it; returns the tokenizers that this took."""
        texts, found = set(), {}
        for config in arms.values():
            if (text := _key(config, TEXT_SETTINGS)) in texts:
                continue
            texts.add(text)
            report, tokenizers = check_texts(config, self.say)
            for line in report.lines():
                self.say(line)
            refuse_errors(report)
            assert tokenizers is not None
            found[_key(config, TOKENIZER_SETTINGS)] = tokenizers
        return found

    def _shared_tokenizers(self, key: str, config: Config, texts: Texts) -> TokenizerPair:
        folder = self.folder / "tokenizers" / key
        if damage(folder) is None:
            if key not in self._tokenizers:
                self._tokenizers[key] = TokenizerPair.load(folder)
        else:
            if key not in self._tokenizers:
                self._tokenizers[key] = new_tokenizers(config, texts, self.say)
            self._tokenizers[key].save(folder)
        return self._tokenizers[key]

    def _module(self, config: Config, tokenizers: TokenizerPair, texts: Texts) -> DataModule:
        """The data of arms that do not differ in it."""
        same = json.dumps([config.data.model_dump(), config.training.batch_size])
        if same not in self._modules:
            self._modules[same] = DataModule(
                data=config.data,
                batch_size=config.training.batch_size,
                seed=config.system.seed,
                tokenizers=tokenizers,
                texts=texts,
                cache_dir=config.data.cache_dir,
                report=self.say,
            )
            self._modules[same].setup()
        return self._modules[same]

    def _own(self, config: Config, decided: Record) -> Record:
        """Settings that are the comparison's, not the arm's."""
        precision = (
            {"training.mixed_precision": decided["precision"]} if config.training.mixed_precision is True else {}
        )
        return {
            "data.cache_dir": str(self.folder / "cache"),
            "logging.log_dir": None,
            "system.num_threads": config.system.num_threads or decided["threads"],
            **precision,
        }

    def _split(self, config: Config) -> Record:
        """Settings by which all seeds have the same pairs held out: files of both sides in place of the text."""
        data, folder = config.data, self.folder / "data"
        if not data.val_split:
            return {}
        if damage(folder) is not None:
            texts = texts_of(data, seed=config.system.seed)
            test = [source(data, data.test_data_path, data.test_tgt_path)] if data.test_data_path else []
            with new_folder(folder) as new:
                for number, text in enumerate(texts.train):
                    _write(new / _training_file(number), text)
                for text in texts.val:
                    _write(new / "val.jsonl", text)
                for text in test:
                    _write(new / "test.jsonl", text)
        weights = [*([1.0] if data.train_data_path else []), *(corpus.weight for corpus in data.corpora)]
        corpora = [{"src": str(folder / _training_file(n)), "weight": weight} for n, weight in enumerate(weights)]
        first = corpora.pop(0)["src"] if data.train_data_path else None
        return {
            **{f"data.{name}": None for name in ("train_tgt_path", "val_tgt_path", "test_tgt_path")},
            **{f"data.{name}": None for name in ("src_suffix", "tgt_suffix", "src_column", "tgt_column")},
            "data.train_data_path": first,
            "data.corpora": corpora,
            "data.val_data_path": str(folder / "val.jsonl"),
            "data.test_data_path": str(folder / "test.jsonl") if data.test_data_path else None,
            "data.val_split": 0,
        }


def _training_file(number: int) -> str:
    return f"train-{number}.jsonl"


def _write(path: Path, text: PairStream) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps({"src": pair.src, "tgt": pair.tgt}, ensure_ascii=False) + "\n" for pair in text)


def _key(config: Config, names: set[str]) -> str:
    """What is the same where these settings are."""
    settings = flat_settings(config)
    return hashlib.sha256(json.dumps([settings[name] for name in sorted(names)]).encode()).hexdigest()[:16]


def _record(arms: Mapping[str, Config], terms: Record) -> Record:
    texts: dict[str, Record] = {}
    found: Record = {"arms": {}, **terms}
    for name, config in arms.items():
        key = _key(config, TEXT_SETTINGS)
        if key not in texts:
            data = config.data.model_copy(update={"val_split": 0})
            sides = texts_of(data, seed=config.system.seed)
            test = [source(data, data.test_data_path, data.test_tgt_path)] if data.test_data_path else []
            texts[key] = {
                side: [text.fingerprint() for text in streams]
                for side, streams in (("train", sides.train), ("val", sides.val), ("test", test))
            }
        ignored = free_settings(config) - COUNTING | {"logging.log_dir"}
        settings = {key: value for key, value in flat_settings(config).items() if key not in ignored}
        found["arms"][name] = {"settings": settings, "texts": texts[key]}
    return dict(json.loads(json.dumps(found)))


def _refuse_other_scoring(arms: Mapping[str, Config], recorded: Mapping[str, Record]) -> None:
    """Raise where arms are not scored on the same pairs: what tells how to read the training text is for all texts."""
    first, *others = arms
    for name, (side, told) in itertools.product(others, (("val", "validation"), ("test", "test"))):
        if recorded[name]["texts"][side] != recorded[first]["texts"][side]:
            here, there = flat_settings(arms[first]), flat_settings(arms[name])
            settings = " and ".join(setting for setting in sorted(TEXTS) if here[setting] != there[setting])
            raise ConfigError(
                f"the arms {first!r} and {name!r} read the {told} text differently, by {settings}",
                fix=f"give a {told} text that all arms read alike, as two files are",
            )


def _refuse_difference(known: Record, wanted: Record, *, where: Path) -> None:
    """Raise with all that differs between the comparison of the folder and the one that is asked for."""
    there, here = known["arms"], wanted["arms"]
    told = _differing(known, {name: value for name, value in wanted.items() if name != "arms"})
    if list(there) != list(here):
        told.append(f"its arms are {', '.join(there)}, here {', '.join(here)}")
    for arm in (arm for arm in here if arm in there):
        if there[arm]["texts"] != here[arm]["texts"]:
            sides = [side for side in here[arm]["texts"] if there[arm]["texts"].get(side) != here[arm]["texts"][side]]
            told.append(f"the {' and '.join(sides)} text is another")
        told += _differing(there[arm]["settings"], here[arm]["settings"])
    if told:
        raise CheckpointError(
            f"the folder holds another comparison: {'; '.join(dict.fromkeys(told))}",
            where=str(where),
            fix="give the same command again, or choose another --out",
        )


def _differing(there: Record, here: Record) -> list[str]:
    return [
        f"{name} is {there.get(name)!r} there, {here[name]!r} here" for name in here if there.get(name) != here[name]
    ]


def _decide(arms: Mapping[str, Config], *, at_once: int) -> Record:
    """What a timing or the machine decides, once for all trainings."""
    wanted = [config for config in arms.values() if config.training.mixed_precision is True]
    precision = choose_precision(True, choose_device(wanted[0].system.device)) if wanted else "fp32"
    threads = max(1, torch.get_num_threads() // at_once) if at_once > 1 else None
    return {"precision": False if precision == "fp32" else precision, "threads": threads}


def _limits(budget: Budget | None, module: DataModule, config: Config) -> Record:
    """The settings that give a training its budget."""
    if budget is None:
        return {}
    if budget.kind == "time":
        return {"training.time_limit": budget.amount}
    if budget.kind == "steps":
        return {"training.max_steps": int(budget.amount)}
    loader = module.train_dataloader()
    plan = loader.plan(0)
    labels = int(loader.planner.lengths.tgt[plan.pairs].sum())
    in_step = labels / len(plan) * config.training.gradient_accumulation_steps
    return {"training.max_steps": max(1, round(budget.amount / in_step))}


def _parameters(config: Config, tokenizers: TokenizerPair) -> int:
    with torch.device("meta"):
        return OptimizedTransformer(
            src_vocab_size=tokenizers.src.vocab_size,
            tgt_vocab_size=tokenizers.tgt.vocab_size,
            **{**config.model.__dict__, "pad_token_id": tokenizers.tgt.pad_id},
        ).num_parameters()
