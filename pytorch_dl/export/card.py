"""The card of a model on a hub: metadata that machines read at the head of README.md, and its scores for people.

It tells what is known: the languages where settings or file names tell them, the scores where the run was evaluated.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pytorch_dl.config import Config
from pytorch_dl.config.model_config import DataConfig
from pytorch_dl.config.units import written
from pytorch_dl.dataset.compression import without_ending
from pytorch_dl.scoring.names import BLEU, CHARACTER_ERROR_RATE, CHRF, EXACT_MATCH, TER, TOKEN_ERROR_RATE

_ISO_639_1 = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo "
    "es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka "
    "kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng "
    "nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su "
    "sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
CODES = frozenset(_ISO_639_1.split())
_LIBRARIES = {"safetensors": "pytorch-dl", "ctranslate2": "ctranslate2", "onnx": "onnx"}
_METRICS = {  # as the hub calls them
    BLEU: "sacrebleu",
    CHRF: "chrf",
    TER: "ter",
    EXACT_MATCH: "exact_match",
    TOKEN_ERROR_RATE: "wer",
    CHARACTER_ERROR_RATE: "cer",
}


class Card(NamedTuple):
    """What is told of a model."""

    name: str
    """Of the repository or the folder."""
    languages: Sequence[str] = ()
    evaluation: Mapping[str, Any] = {}
    """report.json of its run; empty where there is none."""

    @classmethod
    def of(cls, name: str, config: Config, evaluation: Mapping[str, Any]) -> "Card":
        """The card of a model by its configuration and report."""
        return cls(name, languages(config.data), evaluation)

    def metadata(self, to: str) -> str:
        """The head of README.md, of a model in the form `to`."""
        head: dict[str, Any] = {"library_name": _LIBRARIES[to], "pipeline_tag": "translation"}
        head["tags"] = ["pytorch-dl", "encoder-decoder", "transformer"]
        head |= {"language": [*self.languages]} if self.languages else {}
        metrics = [
            {"type": _METRICS[row["name"]], "name": row["name"], "value": round(row["value"], 2)}
            for row in self._scores()
            if row["name"] in _METRICS
        ]
        if metrics:
            result = {
                "task": {"type": "translation"},
                "dataset": {"type": "text", "name": f"{self.evaluation.get('text')} text of the run"},
                "metrics": metrics,
            }
            head["model-index"] = [{"name": self.name, "results": [result]}]
        return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"

    def lines(self) -> list[str]:
        """The scores, with what they were computed by."""
        rows = self._scores()
        facts = self.evaluation
        head = f"Scores of {facts.get('pairs')} pairs of the {facts.get('text')} text, beam {facts.get('beam_size')}:"
        return ["", head, "", *(_line(row) for row in rows)] if rows else []

    def _scores(self) -> list[Mapping[str, Any]]:
        rows = self.evaluation.get("scores")
        return [
            row
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict) and isinstance(row.get("name"), str) and isinstance(row.get("value"), int | float)
        ]


def languages(data: DataConfig) -> list[str]:
    """The codes of source and target, where columns, suffixes or the endings of two files are codes."""
    paths = (data.train_data_path, data.train_tgt_path)
    for pair in ((data.src_suffix, data.tgt_suffix), (data.src_column, data.tgt_column), tuple(map(_ending, paths))):
        found = [str(name).rpartition(".")[2] for name in pair]
        if CODES.issuperset(found):
            return list(dict.fromkeys(found))
    return []


def without_paths(config: Config) -> Config:
    """The configuration without what names places on this machine: for a model that others are to have."""
    tokenizer = config.data.tokenizer_name
    is_place = os.path.isabs(tokenizer) or os.path.isdir(tokenizer)
    data: dict[str, Any] = {
        **{name: None for name in DataConfig.model_fields if name.endswith("_path") or name == "cache_dir"},
        **{"corpora": [], "val_split": 0, "tokenizer_name": Path(tokenizer).name if is_place else tokenizer},
    }
    return config.model_copy(deep=True).update(data=data, logging={"log_dir": None})


def _ending(path: str | None) -> str | None:
    return None if path is None else without_ending(Path(path)).suffix.removeprefix(".")


def _line(row: Mapping[str, Any]) -> str:
    low, high = row.get("low"), row.get("high")
    between = (
        f" ({written(low, 2)} to {written(high, 2)})"
        if isinstance(low, int | float) and isinstance(high, int | float)
        else ""
    )
    return f"- {row['name']}: {written(row['value'], 2)}{between}, {row.get('signature', '')}".rstrip(", ")
