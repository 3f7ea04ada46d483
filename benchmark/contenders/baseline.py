"""The side that is compared with: a plain Transformer of 2017, made of what torch has, trained and read out plainly.

Post-norm, ReLU, LayerNorm, sinusoidal positions, dropout also in attention, float32, batches padded to their longest
pair, all logits at once, Adam; each decoding step runs the decoder over the whole prefix again.

Shapes: B batch, S source, T target, d d_model, V vocabulary.
"""

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.config import Config
from pytorch_dl.dataset.batching import IGNORED_LABEL, Batch

LEARNING_RATE = 1e-4  # the measure is time, not quality: low enough for a post-norm model without warm-up


class PlainTransformer(nn.Module):
    """torch.nn.Transformer with tied embeddings, positions and output."""

    positions: Tensor

    def __init__(self, *, vocab_size: int, pad_id: int, config: Config) -> None:
        super().__init__()
        model = config.model
        self.d_model, self.pad_id = model.d_model, pad_id
        self.embedding = nn.Embedding(vocab_size, model.d_model)
        self.register_buffer("positions", sinusoids(model.max_seq_len, model.d_model), persistent=False)
        self.dropout = nn.Dropout(model.dropout)
        self.transformer = nn.Transformer(
            d_model=model.d_model,
            nhead=model.n_heads,
            num_encoder_layers=model.num_encoder_layers,
            num_decoder_layers=model.num_decoder_layers,
            dim_feedforward=model.d_ff or 4 * model.d_model,
            dropout=model.dropout,
            batch_first=True,
        )
        nn.init.normal_(self.embedding.weight, std=model.d_model**-0.5)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Padded src (B, S) and tgt (B, T), which starts with bos -> logits (B, T, V)."""
        return self.project(self.decode(tgt, self.encode(src), src))

    def encode(self, src: Tensor) -> Tensor:
        """src (B, S) -> memory (B, S, d)."""
        memory: Tensor = self.transformer.encoder(self._embed(src), src_key_padding_mask=src == self.pad_id)
        return memory

    def decode(self, tgt: Tensor, memory: Tensor, src: Tensor) -> Tensor:
        """tgt (B, T) and the memory of src -> hidden states (B, T, d). Padding is at the end, where nobody sees it."""
        future = torch.ones(tgt.size(1), tgt.size(1), dtype=torch.bool, device=tgt.device).triu(1)  # True = hidden
        hidden: Tensor = self.transformer.decoder(
            self._embed(tgt), memory, tgt_mask=future, memory_key_padding_mask=src == self.pad_id, tgt_is_causal=True
        )
        return hidden

    def project(self, hidden: Tensor) -> Tensor:
        """hidden (..., d) -> logits (..., V)."""
        return F.linear(hidden, self.embedding.weight)

    def _embed(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) * math.sqrt(self.d_model) + self.positions[: tokens.size(1)]  # (B, T, d)
        out: Tensor = self.dropout(x)
        return out


def sinusoids(length: int, d_model: int) -> Tensor:
    """Sines and cosines (length, d_model) of Vaswani et al. 2017, section 3.5."""
    frequencies = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
    angles = torch.arange(length).unsqueeze(1) * frequencies  # (length, d / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


def whole_loss(logits: Tensor, batch: Batch, *, label_smoothing: float) -> Tensor:
    """logits (B, T, V), all at once -> the mean loss of a target token."""
    return F.cross_entropy(
        logits.flatten(0, 1),
        batch.labels.flatten(),
        ignore_index=IGNORED_LABEL,
        label_smoothing=label_smoothing,
    )


class Baseline:
    """Trains and reads out the plain model."""

    name = "baseline"
    what = (
        "torch.nn.Transformer of 2017: post-norm, ReLU, LayerNorm, fp32, random batches padded to the longest pair, "
        "all logits with F.cross_entropy, torch.optim.Adam, the prefix run again at each decoding step"
    )

    def __init__(self, config: Config, *, vocab_size: int, pad_id: int, bos_id: int, device: torch.device) -> None:
        torch.manual_seed(config.system.seed)
        self.model = PlainTransformer(vocab_size=vocab_size, pad_id=pad_id, config=config).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-9)
        self.label_smoothing, self.bos_id, self.device = config.training.label_smoothing, bos_id, device

    def step(self, batch: Batch) -> float:
        """One step of training; returns the loss of a target token."""
        batch = batch.to(self.device)
        logits = self.model(batch.src, batch.tgt_in)  # (B, T, V)
        loss = whole_loss(logits, batch, label_smoothing=self.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    @torch.inference_mode()
    def decode(self, src: Tensor, new_tokens: int) -> Tensor:
        """src (B, S) -> the likeliest tokens, one after another, (B, new_tokens)."""
        self.model.eval()
        src = src.to(self.device)
        with warnings.catch_warnings():  # torch's encoder leaves the padding out by itself, and says so
            warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
            memory = self.model.encode(src)
        tokens = src.new_full((src.size(0), 1), self.bos_id)
        for _ in range(new_tokens):
            last = self.model.decode(tokens, memory, src)[:, -1]  # (B, d)
            tokens = torch.cat((tokens, self.model.project(last).argmax(dim=-1, keepdim=True)), dim=1)
        self.model.train()
        return tokens[:, 1:]
