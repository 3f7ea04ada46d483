"""Take over a pretrained fast tokenizer of Hugging Face by name or folder.

Its definition comes out, altered so that the four special tokens are different, none of them can come out of a text,
and nothing is added, cut or padded. From then on `transformers` is not needed.
"""

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from pytorch_dl.dataset.tokenizer_folder import ROLES, Definition
from pytorch_dl.errors import CheckpointError


def take_over(name: str) -> Definition:
    """Take over the tokenizer `name` of the hub, or the local folder of that name, which goes first.

    In this process, which a crafted file may end: see `pretrained_process`.
    """
    loaded = _load_fast(name)
    definition = json.loads(loaded.backend_tokenizer.to_str())
    specials = _different({role: _text(getattr(loaded, f"{role}_token")) for role in ROLES}, definition)
    definition |= {"truncation": None, "padding": None, "post_processor": None}
    definition["added_tokens"] = _with_specials(definition, list(specials.values()))
    definition["pre_tokenizer"] = _splitting(definition["pre_tokenizer"], list(specials.values()))
    return Definition(json.dumps(definition, ensure_ascii=False), specials)


def _load_fast(name: str) -> Any:
    import transformers

    local = Path(name).is_dir()
    place = str(Path(name).absolute()) if local else name
    if local:
        _refuse_devices(Path(name))
    try:
        with _errors_only("huggingface_hub"):
            loaded = transformers.AutoTokenizer.from_pretrained(
                place, trust_remote_code=False, use_fast=True, local_files_only=local
            )
    except Exception as error:  # whatever a foreign file or the network makes transformers raise
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"the {'folder' if local else 'pretrained'} tokenizer {name!r} cannot be loaded: {reason}",
            fix="check the files in it" if local else "check its name and the network, or give a folder that holds it",
        ) from error
    if not isinstance(getattr(loaded, "backend_tokenizer", None), tokenizers.Tokenizer):
        raise CheckpointError(
            f"{name!r} has only a slow tokenizer ({type(loaded).__name__})", fix="choose one that has a tokenizer.json"
        )
    return loaded


def _refuse_devices(folder: Path) -> None:
    """Links pass: the hub's own folders are made of them."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointError("is a pipe or device, no file of a tokenizer", where=str(path), fix="delete it")


@contextlib.contextmanager
def _errors_only(logger_name: str) -> Iterator[None]:
    """Keep a library from telling of each retry what our one line tells in the end."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _text(token: object) -> str | None:
    return None if token is None else str(token)


def _different(wanted: dict[str, str | None], definition: dict[str, Any]) -> dict[str, str]:
    """Give each role a token of its own: the one that it has, where no earlier role has it, else a new one.

    What the model itself writes for unknown text stays the unknown token, whatever other role it has.
    """
    vocabulary = _vocabulary(definition)
    model_unk = _model_unk(definition["model"])
    order = ("unk", "eos", "bos", "pad") if model_unk else ("eos", "bos", "pad", "unk")
    chosen: dict[str, str] = {}
    for role in order:
        token = (model_unk if role == "unk" else None) or wanted[role]
        if not token or token in chosen.values():
            token = _new_name(role, vocabulary | set(chosen.values()))
        chosen[role] = token
    return {role: chosen[role] for role in ROLES}


def _vocabulary(definition: dict[str, Any]) -> set[str]:
    pieces = definition["model"]["vocab"]  # an object, or for unigram a list of (piece, score)
    tokens = set(pieces) if isinstance(pieces, dict) else {piece for piece, _ in pieces}
    return tokens | {token["content"] for token in definition["added_tokens"]}


def _model_unk(model: dict[str, Any]) -> str | None:
    """The token that the model writes for what it does not know."""
    if model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    token = model.get("unk_token")
    return token if token in model["vocab"] else None


def _new_name(role: str, taken: set[str]) -> str:
    name, number = f"<{role}>", 2
    while name in taken:
        name, number = f"<{role}_{number}>", number + 1
    return name


def _with_specials(definition: dict[str, Any], specials: list[str]) -> list[dict[str, Any]]:
    """The added tokens, with the four among them as special ones that take no neighbouring space with them."""
    known = {token["content"]: token for token in definition["added_tokens"]}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ids = tokenizers.Tokenizer.from_str(json.dumps(definition)).get_vocab(with_added_tokens=True)
    following = max(ids.values()) + 1
    for token in specials:
        if token not in ids:
            ids[token], following = following, following + 1
        known[token] = {"id": ids[token], "content": token, **plain}
    return sorted(known.values(), key=lambda token: int(token["id"]))


def _splitting(pre_tokenizer: dict[str, Any] | None, specials: list[str]) -> dict[str, Any] | None:
    """Split a special token's text after its first character, last of all, so that the model never sees it whole."""
    heads = [f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in specials if len(token) > 1]
    if not heads:
        return pre_tokenizer
    split = {"type": "Split", "pattern": {"Regex": "|".join(heads)}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [*([pre_tokenizer] if pre_tokenizer else []), split]}
