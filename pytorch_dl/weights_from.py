"""A training that begins with the weights of another model: what is taken of them, and where a run folder keeps them.

weights_from/       of the run folder: the other model as it was, an export that `load` and the commands read
weights_from.json   where it is from, and what of it was taken

Both lie there before config.yaml does, so whatever kills a run that was begun leaves them. What is taken is a function
of them, the configuration and the text: a run that was killed before its first checkpoint begins again with the same
bits, and the other model's own folder is needed no more.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from pytorch_dl import __version__
from pytorch_dl.config import Config
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import CheckpointError
from pytorch_dl.export import safetensors
from pytorch_dl.export.folder import Origin
from pytorch_dl.export.hub import is_on_hub
from pytorch_dl.files import damage, read_json, sha256, write_json
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.transfer import Transfer, could_fit, transfer
from pytorch_dl.translator import load

Say = Callable[[str], None]
# Settings by which the same numbers are other layers.
_MEANING = ("n_heads", "n_kv_heads", "activation", "norm_type", "norm_first", "positions")


class OtherModel(NamedTuple):
    """A model that gives its weights, with what tells what they mean."""

    name: str
    model: OptimizedTransformer
    tokenizers: TokenizerPair
    config: Config

    @classmethod
    def read(cls, run: str | Path) -> Self:
        """That of a run, an export or hf://ORG/NAME; of an unfinished run, its best checkpoint so far."""
        translator = load(run, device="cpu")
        name = str(run) if is_on_hub(run) else str(Path(run).resolve())
        return cls(name, translator.model, translator.tokenizers, translator.read_config())

    def require_some_fit(self, config: Config) -> None:
        """Raise where no tensor could fit into a model of this configuration, whatever its vocabulary."""
        with torch.device("meta"):
            own = OptimizedTransformer(src_vocab_size=1, tgt_vocab_size=1, **config.model.__dict__)
        if not could_fit(own.state_dict(), ckpt.model_weights(self.model)):
            raise self._nothing_fits(config)

    def give(
        self, model: OptimizedTransformer, tokenizers: TokenizerPair, *, config: Config | None, say: Say
    ) -> Transfer:
        """Give the weights that fit, and say in a line each what did not, and the counts."""
        found = transfer(model, tokenizers, ckpt.model_weights(self.model), self.tokenizers)
        if not found.taken:
            raise self._nothing_fits(config)
        for line in found.lines():
            say(line)
        if config and (different := self._differences(config, _MEANING)):
            say(f"warning: {different}: what was taken has another meaning until training has changed it")
        say(f"weights taken from {self.name}: {found.summary()}")
        return found

    def _nothing_fits(self, config: Config | None) -> CheckpointError:
        different = self._differences(config, ("d_model",)) if config else ""
        return CheckpointError(
            f"none of its weights fits into the model{f': {different}' if different else ''}",
            where=self.name,
            fix="give the model the same width (model.d_model), or begin without these weights",
        )

    def _differences(self, config: Config, names: Sequence[str]) -> str:
        now, before = (one.model.model_dump() for one in (config, self.config))
        return ", ".join(
            f"model.{name} is {now[name]} here and {before[name]} there" for name in names if now[name] != before[name]
        )


def take_weights(
    model: OptimizedTransformer, tokenizers: TokenizerPair, run: str | Path, *, say: Say = print
) -> Transfer:
    """Give a model the weights of another run, an export or hf://ORG/NAME, as far as names and shapes agree.

    `tokenizers` are the model's own: rows of embeddings and of the output projection go to the same tokens. `say` is
    told in a line each what was not taken. Raises CheckpointError where nothing fits, or the folder is damaged.
    """
    return OtherModel.read(run).give(model, tokenizers, config=None, say=say)


def keep(folder: RunFolder, other: OtherModel) -> None:
    """Put the other model into a run folder that is being made."""
    origin = Origin(other.name, __version__)
    safetensors.export(other.model, other.tokenizers, other.config, folder.weights_from, origin=origin)
    write_json(folder.weights_taken, {"run": other.name, "sha256": _sum(folder)})


def are_due(folder: RunFolder) -> bool:
    """Whether a run that goes on is to begin with the weights that its folder keeps."""
    return folder.weights_taken.exists() and not ckpt.checkpoints(folder.checkpoints)


def take_kept(
    folder: RunFolder,
    model: OptimizedTransformer,
    tokenizers: TokenizerPair,
    *,
    config: Config,
    is_first: bool,
    say: Say,
) -> None:
    """Give the model of a run the weights that its folder keeps; the first process notes what was taken."""
    fix = "restore it, or begin another run"
    if problem := damage(folder.weights_from):
        raise CheckpointError(problem, where=str(folder.weights_from), fix=fix)
    noted, other = _noted(folder), OtherModel.read(folder.weights_from)
    if noted.get("sha256") != _sum(folder):
        raise CheckpointError("does not tell of the weights beside it", where=str(folder.weights_taken), fix=fix)
    other = other._replace(name=str(noted.get("run")))
    found = other.give(model, tokenizers, config=config, say=say)
    if is_first:
        write_json(folder.weights_taken, {"run": other.name, "sha256": noted["sha256"], **found.to_json()})


def _noted(folder: RunFolder) -> dict[str, Any]:
    try:
        found = read_json(folder.weights_taken)
    except (OSError, ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _sum(folder: RunFolder) -> str:
    """SHA-256 of the weights that the folder keeps."""
    return sha256(RunFolder(folder.weights_from).model / ckpt.MODEL)
