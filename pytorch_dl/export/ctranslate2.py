"""Export to CTranslate2, the inference engine in C++ (https://github.com/OpenNMT/CTranslate2).

    model -> specification -> folder with model.bin, config.json, vocabularies

`convert` does that alone; `export` also compares the result with the model, and adds the tokenizer and an example.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair
from pytorch_dl.errors import ConfigError
from pytorch_dl.export.folder import Origin, exported_folder, write_notes
from pytorch_dl.export.pairs import Pairs
from pytorch_dl.export.parity import Parity, Reference, require_exact, require_near
from pytorch_dl.export.script import ctranslate2_script
from pytorch_dl.export.specification import specification
from pytorch_dl.files import new_folder, write_file
from pytorch_dl.models.optimized_transformer import OptimizedTransformer

NAME = "CTranslate2"


def convert(
    model: OptimizedTransformer, tokenizers: TokenizerPair, folder: Path, *, quantization: str | None = None
) -> None:
    """Write `folder` for CTranslate2, replacing an old one, without a comparison.

    CTranslate2 can also quantize while it loads (`compute_type`); `quantization` makes the files small.
    """
    require(quantization)
    with new_folder(folder) as new:
        _write(model, tokenizers, new, quantization)


def export(
    model: OptimizedTransformer,
    tokenizers: TokenizerPair,
    out: Path,
    *,
    pairs: Pairs,
    quantization: str = "float32",
    origin: Origin,
) -> dict[str, Parity]:
    """Write the folder `out`: the model, compared with the export on `pairs`, its tokenizers, and how to use them.

    Returns what the comparison came to: in float32, and of the quantized weights, if they are. Whatever goes wrong,
    `out` is left as it was.
    """
    version = require(quantization)
    with exported_folder(out) as new:
        reference = Reference(model, tokenizers, pairs)
        _write(model, tokenizers, new, None)
        found = {"float32": reference.compare(CTranslate2Engine(new, tokenizers, compute_type="float32"))}
        require_exact(found["float32"], engine=NAME)
        if quantization != "float32":
            _write(model, tokenizers, new, quantization)
            engine = CTranslate2Engine(new, tokenizers, compute_type=_computed(quantization))
            found[quantization] = reference.compare(engine)
            require_near(found[quantization], engine=NAME)
        tokenizers.save(new / "tokenizer")
        write_file(new / "translate.py", ctranslate2_script(tokenizers, max_seq_len=model.max_seq_len))
        versions = {"ctranslate2": version}
        write_notes(new, to="ctranslate2", origin=origin, versions=versions, weights=quantization, parity=found)
    return found


class CTranslate2Engine:
    """An exported folder, loaded."""

    def __init__(self, folder: Path, tokenizers: TokenizerPair, *, compute_type: str) -> None:
        import ctranslate2

        self._src, self._tgt = _tokens(tokenizers.src), _tokens(tokenizers.tgt)
        self._ids = {token: id for id, token in enumerate(self._tgt)}
        self._eos = self._src[tokenizers.src.eos_id]
        self._never = [[self._tgt[id]] for id in (tokenizers.tgt.pad_id, tokenizers.tgt.bos_id)]
        self._engine: Any = ctranslate2.Translator(
            str(folder), device="cpu", compute_type=compute_type, intra_threads=torch.get_num_threads()
        )

    def score(self, pairs: Pairs) -> list[list[float]]:
        """The log-probability of each target token, the end mark included."""
        targets = [[self._tgt[id] for id in ids] for ids in pairs.tgt]
        found = self._engine.score_batch(self._sources(pairs.src), targets, max_batch_size=16, max_input_length=0)
        return [list(result.log_probs) for result in found]

    def write(self, sources: Sequence[Sequence[int]], *, limit: int) -> list[list[int]]:
        """What greedy search writes."""
        found = self._engine.translate_batch(
            self._sources(sources),
            beam_size=1,
            max_batch_size=16,
            max_input_length=0,
            max_decoding_length=limit,
            min_decoding_length=0,  # an output may be empty, as it is with ours
            disable_unk=True,
            suppress_sequences=self._never,
        )
        return [[self._ids[token] for token in result.hypotheses[0]] for result in found]

    def _sources(self, sources: Sequence[Sequence[int]]) -> list[list[str]]:
        return [[*(self._src[id] for id in ids), self._eos] for ids in sources]


def _write(model: OptimizedTransformer, tokenizers: TokenizerPair, folder: Path, quantization: str | None) -> None:
    src, tgt = tokenizers.src, tokenizers.tgt
    for side, tokenizer, embedding in (("source", src, model.src_embedding), ("target", tgt, model.tgt_embedding)):
        size = embedding.weight.size(0)
        if size != tokenizer.vocab_size:
            raise ConfigError(
                f"the model has {size:,} {side} embeddings, but the {side} vocabulary {tokenizer.vocab_size:,} tokens",
                fix="give the tokenizers that the model was made for",
            )
    spec = specification(model)
    spec.register_source_vocabulary(_tokens(src))
    spec.register_target_vocabulary(_tokens(tgt))
    config, token = spec.config, tgt.token
    config.unk_token, config.bos_token, config.eos_token = token(tgt.unk_id), token(tgt.bos_id), token(tgt.eos_id)
    config.decoder_start_token = config.bos_token
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))


def _tokens(tokenizer: Tokenizer) -> list[str]:
    """The names of all ids, which CTranslate2 wants to be different."""
    tokens = [tokenizer.token(id) for id in range(tokenizer.vocab_size)]
    assert len(set(tokens)) == len(tokens), "an unused id has the name of a token"
    return tokens


def _computed(quantization: str) -> str:
    """How this CPU computes with weights that are stored so."""
    import ctranslate2

    in_its_place = "int8_float32" if quantization.startswith("int8") else "float32"
    return quantization if quantization in ctranslate2.get_supported_compute_types("cpu") else in_its_place


def require(quantization: str | None) -> str:
    """Raise unless ctranslate2 is installed and has this quantization; return its version."""
    try:
        import ctranslate2
        from ctranslate2.specs.model_spec import ACCEPTED_MODEL_TYPES
    except ImportError:
        raise ConfigError("ctranslate2 is not installed", fix="pip install 'pytorch-dl[ct2]'") from None
    if quantization is not None and quantization not in ACCEPTED_MODEL_TYPES:
        raise ConfigError(
            f"unknown quantization {quantization!r}", fix=f"give one of {', '.join(ACCEPTED_MODEL_TYPES)}"
        )
    return str(ctranslate2.__version__)
