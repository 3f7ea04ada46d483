"""Export to ONNX, for onnxruntime and what else reads it: an encoder, and a decoder that writes one token at a time.

    encoder.onnx    src (B, S), padded -> keys, values (L, B, G, S, D) of the source; bias (B, 1, 1, S)
    decoder.onnx    tokens, positions (B, 1), past_keys, past_values (L, B, G, T, D), keys, values, bias
                    -> log_probs (B, V) of the next token; new_keys, new_values (L, B, G, T + 1, D)

B sentences or beams, S source, T tokens written (0 at first), L decoder layers, G key heads, D head_dim, V vocabulary.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import ConfigError
from pytorch_dl.export.folder import Origin, exported_folder, write_notes
from pytorch_dl.export.pairs import Pairs
from pytorch_dl.export.parity import Parity, Reference, require_exact
from pytorch_dl.export.script import onnx_script
from pytorch_dl.files import write_file
from pytorch_dl.models.kv_cache import KeyValue
from pytorch_dl.models.masks import additive, segment_mask
from pytorch_dl.models.optimized_transformer import OptimizedTransformer, Side

NAME = "ONNX"
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
_READ = ("keys", "values", "bias")  # what the encoder hands to the decoder
_PAST, _GROWN = ("past_keys", "past_values"), ("new_keys", "new_values")
_BATCH = 16


def export(
    model: OptimizedTransformer, tokenizers: TokenizerPair, out: Path, *, pairs: Pairs, origin: Origin
) -> Parity:
    """Write the folder `out`: encoder and decoder, compared with the model on `pairs`, tokenizers, and how to use them.

    Whatever goes wrong, `out` is left as it was.
    """
    versions = require()
    with exported_folder(out) as new:
        reference = Reference(model, tokenizers, pairs)
        with _quietly():
            _write(model, new)
        engine = OnnxEngine(new, model, tokenizers)
        parity = reference.compare(engine)
        require_exact(parity, engine=NAME)
        tokenizers.save(new / "tokenizer")
        shape = (len(model.decoder_layers), 1, model.n_kv_heads, 0, model.head_dim)
        write_file(new / "translate.py", onnx_script(tokenizers, max_seq_len=model.max_seq_len, past_shape=shape))
        write_notes(new, to="onnx", origin=origin, versions=versions, weights="float32", parity={"float32": parity})
    return parity


def require() -> dict[str, str]:
    """Raise unless what exports and runs ONNX is installed; return the versions."""
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed", fix="pip install 'pytorch-dl[onnx]'") from None
    return {part.__name__: str(part.__version__) for part in (onnx, onnxscript, onnxruntime)}


class Encoder(nn.Module):
    """What is done once for a source."""

    def __init__(self, model: OptimizedTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, src: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Padded src (B, S) -> its keys and values for each decoder layer, and the bias that hides the padding."""
        positions = torch.arange(src.size(1), device=src.device).expand_as(src)
        side = Side(src, (src != self.model.pad_token_id).long(), positions)  # no pad id stands inside a source
        memory = self.model.encode(side)
        layers: Any = self.model.decoder_layers
        parts = [layer.project_memory(memory) for layer in layers]
        bias = additive(segment_mask(torch.ones_like(src[:, :1]), side.segments), memory.dtype)
        return torch.stack([part.keys for part in parts]), torch.stack([part.values for part in parts]), bias


class Decoder(nn.Module):
    """What is done for each token."""

    def __init__(self, model: OptimizedTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The last token of each row, and all that was before -> log-probabilities of the next, and the new past."""
        model = self.model
        x = model.tgt_embedding(tokens) * math.sqrt(model.d_model)  # (B, 1, d)
        x, rotation = model.tgt_positions(x, positions)
        pasts = [Past(*past) for past in zip(past_keys.unbind(0), past_values.unbind(0), strict=True)]
        for index, (layer, past) in enumerate(zip(model.decoder_layers, pasts, strict=True)):
            x = layer(x, KeyValue(keys[index], values[index]), cross_bias=bias, rotation=rotation, cache=past)
        logits = model.project(model.decoder_norm(x))[:, 0]  # (B, V)
        grown = [past.grown for past in pasts]
        return (
            logits.log_softmax(-1),
            torch.stack([past.keys for past in grown]),
            torch.stack([past.values for past in grown]),
        )


class Past:
    """The cache of one layer as the layer sees it: one beam to a row, which sees all of its own past."""

    bias = None

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.grown = KeyValue(keys, values)

    def extend(self, new: KeyValue) -> KeyValue:
        """Append the keys and values (B, G, 1, D) of the new token."""
        self.grown = KeyValue(*(torch.cat(pair, dim=2) for pair in zip(self.grown, new, strict=True)))
        return self.grown


class OnnxEngine:
    """An exported folder, loaded."""

    def __init__(self, folder: Path, model: OptimizedTransformer, tokenizers: TokenizerPair) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._encoder, self._decoder = (
            onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in (ENCODER, DECODER)
        )
        self._special = tokenizers.tgt
        self._past_shape = (len(model.decoder_layers), model.n_kv_heads, model.head_dim)

    def score(self, pairs: Pairs) -> list[list[float]]:
        """The log-probability of each target token, the end mark included."""
        found: list[list[float]] = []
        for start in range(0, len(pairs), _BATCH):
            targets = [[*ids, self._special.eos_id] for ids in pairs.tgt[start : start + _BATCH]]
            state = self._read(pairs.src[start : start + _BATCH])
            scores: list[list[float]] = [[] for _ in targets]
            tokens = [self._special.bos_id] * len(targets)
            for place in range(max(map(len, targets))):
                log_probs = self._step(tokens, place, state)
                tokens = [ids[place] if place < len(ids) else self._special.eos_id for ids in targets]
                for row, ids in enumerate(targets):
                    if place < len(ids):
                        scores[row].append(float(log_probs[row, ids[place]]))
            found += scores
        return found

    def write(self, sources: Sequence[Sequence[int]], *, limit: int) -> list[list[int]]:
        """What greedy search writes."""
        special, found = self._special, []
        for start in range(0, len(sources), _BATCH):
            state = self._read(sources[start : start + _BATCH])
            rows = len(sources[start : start + _BATCH])
            tokens, written = [special.bos_id] * rows, np.zeros((rows, 0), dtype=np.int64)
            while written.shape[1] < limit and not (written == special.eos_id).any(1).all():
                log_probs = self._step(tokens, written.shape[1], state)
                log_probs[:, [special.pad_id, special.bos_id, special.unk_id]] = -np.inf
                tokens = log_probs.argmax(-1).tolist()
                written = np.concatenate([written, np.array(tokens, dtype=np.int64)[:, None]], axis=1)
            found += [_before(ids, special.eos_id) for ids in written.tolist()]
        return found

    def _read(self, sources: Sequence[Sequence[int]]) -> dict[str, Any]:
        width = 1 + max(map(len, sources))
        src = np.full((len(sources), width), self._special.pad_id, dtype=np.int64)
        for row, ids in enumerate(sources):
            src[row, : len(ids) + 1] = [*ids, self._special.eos_id]
        layers, heads, dim = self._past_shape
        nothing = np.zeros((layers, len(sources), heads, 0, dim), dtype=np.float32)
        read = dict(zip(_READ, self._encoder.run(None, {"src": src}), strict=True))
        return read | dict.fromkeys(_PAST, nothing)

    def _step(self, tokens: list[int], place: int, state: dict[str, Any]) -> Any:
        """Log-probabilities (B, V); the past in `state` grows by one token."""
        given = np.array(tokens, dtype=np.int64)[:, None]
        log_probs, *past = self._decoder.run(None, {"tokens": given, "positions": np.full_like(given, place), **state})
        state.update(zip(_PAST, past, strict=True))
        return log_probs


def _before(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id)] if eos_id in ids else ids


def _write(model: OptimizedTransformer, folder: Path) -> None:
    """Trace the two halves on sizes that stand for any: one of 0 or 1 would be taken for fixed."""
    encoder, decoder = Encoder(model).eval(), Decoder(model).eval()
    src = torch.full((3, min(4, model.max_seq_len)), model.pad_token_id + 1, device=next(model.parameters()).device)
    with torch.inference_mode():
        keys, values, bias = encoder(src)
    # Each input is a tensor of its own: two that are one would be traced as one.
    past_keys, past_values = (keys.new_zeros(*keys.shape[:3], 5, keys.size(-1)) for _ in _PAST)
    tokens, positions = src[:, :1].clone(), torch.ones_like(src[:, :1])
    of_past, of_source = {1: "batch", 3: "written"}, {1: "batch", 3: "source"}
    torch.onnx.export(
        encoder,
        (src,),
        folder / ENCODER,
        input_names=["src"],
        output_names=_READ,
        dynamic_shapes=({0: "batch", 1: "source"},),
        dynamo=True,
        verbose=False,
    )
    torch.onnx.export(
        decoder,
        (tokens, positions, past_keys, past_values, keys, values, bias),
        folder / DECODER,
        input_names=["tokens", "positions", *_PAST, *_READ],
        output_names=["log_probs", *_GROWN],
        dynamic_shapes=({0: "batch"}, {0: "batch"}, of_past, of_past, of_source, of_source, {0: "batch", 3: "source"}),
        dynamo=True,
        verbose=False,
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter from telling what concerns its makers alone; what it cannot convert is one line."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(
            f"torch.onnx cannot convert this model: {reason}", fix="export with --to ctranslate2 or safetensors"
        ) from error
    finally:
        logger.setLevel(level)
