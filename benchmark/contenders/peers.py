"""Others that train the same model size on the same text, each as fast as we could make it, in our own plain loop.

bf16 where the machine gains by it, batches of like lengths, fused AdamW, all logits with F.cross_entropy: what somebody
who knows PyTorch would write around torch.nn.Transformer, Hugging Face's Marian and x-transformers.

Shapes: B batch, S source, T target, V vocabulary.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.contenders.baseline import LEARNING_RATE, PlainTransformer, whole_loss
from pytorch_dl.config import Config
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.training.precision import autocast, choose_precision

Forward = Callable[[Batch], Tensor]  # a batch on the device -> logits (B, T, V)


class TunedPeer:
    """One model in the tuned loop."""

    def __init__(self, name: str, what: str, model: nn.Module, forward: Forward, config: Config) -> None:
        self.name, self.model, self.forward = name, model, forward
        self.device = next(model.parameters()).device
        self.precision = choose_precision(config.training.mixed_precision, self.device)
        self.what = f"{what}, {self.precision}, batches of like lengths, fused AdamW, all logits with F.cross_entropy"
        self.label_smoothing = config.training.label_smoothing
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)

    def step(self, batch: Batch) -> float:
        """One step of training; returns the loss of a target token."""
        batch = batch.to(self.device)
        with autocast(self.precision, self.device):
            loss = whole_loss(self.forward(batch), batch, label_smoothing=self.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def torch_transformer(config: Config, *, vocab_size: int, pad_id: int, device: torch.device) -> TunedPeer:
    """torch.nn.Transformer."""
    model = PlainTransformer(vocab_size=vocab_size, pad_id=pad_id, config=config).to(device)
    return TunedPeer("torch.nn", "torch.nn.Transformer", model, lambda batch: model(batch.src, batch.tgt_in), config)


def marian(config: Config, *, vocab_size: int, pad_id: int, device: torch.device) -> TunedPeer:
    """Hugging Face's Marian, the encoder-decoder of its translation models."""
    model = marian_model(config, vocab_size=vocab_size, pad_id=pad_id).to(device)

    def forward(batch: Batch) -> Tensor:
        logits: Tensor = model(
            input_ids=batch.src,
            attention_mask=batch.src_segments,
            decoder_input_ids=batch.tgt_in,
            use_cache=False,
        ).logits
        return logits

    return TunedPeer("marian", "Hugging Face MarianMTModel", model, forward, config)


def marian_model(config: Config, *, vocab_size: int, pad_id: int) -> Any:
    """A MarianMTModel of the configuration's size."""
    from transformers import MarianConfig, MarianMTModel

    model = config.model
    width = model.d_ff or 4 * model.d_model
    settings = MarianConfig(
        vocab_size=vocab_size,
        d_model=model.d_model,
        encoder_layers=model.num_encoder_layers,
        decoder_layers=model.num_decoder_layers,
        encoder_attention_heads=model.n_heads,
        decoder_attention_heads=model.n_heads,
        encoder_ffn_dim=width,
        decoder_ffn_dim=width,
        max_position_embeddings=model.max_seq_len,
        dropout=model.dropout,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=pad_id,
        decoder_start_token_id=pad_id,
        eos_token_id=0,
        forced_eos_token_id=None,
    )
    return MarianMTModel(settings).train()


def x_transformers(config: Config, *, vocab_size: int, pad_id: int, device: torch.device) -> TunedPeer:
    """x-transformers' encoder and decoder, with rotary positions."""
    from x_transformers import Decoder, Encoder, TransformerWrapper

    settings = config.model
    options: dict[str, Any] = {
        "dim": settings.d_model,
        "heads": settings.n_heads,
        "attn_dim_head": settings.d_model // settings.n_heads,
        "ff_mult": (settings.d_ff or 4 * settings.d_model) / settings.d_model,
        "rotary_pos_emb": True,
        "attn_dropout": 0.0,
        "ff_dropout": settings.dropout,
        "layer_dropout": 0.0,
    }
    rows: dict[str, Any] = {"num_tokens": vocab_size, "max_seq_len": settings.max_seq_len, "use_abs_pos_emb": False}
    encoder = TransformerWrapper(
        **rows, emb_dropout=settings.dropout, attn_layers=Encoder(depth=settings.num_encoder_layers, **options)
    )
    decoder = TransformerWrapper(
        **rows,
        emb_dropout=settings.dropout,
        tie_embedding=True,
        attn_layers=Decoder(depth=settings.num_decoder_layers, cross_attend=True, **options),
    )
    decoder.token_emb = encoder.token_emb
    model = nn.ModuleDict({"encoder": encoder, "decoder": decoder}).to(device).train()

    def forward(batch: Batch) -> Tensor:
        mask = batch.src_segments.bool()
        memory = encoder(batch.src, mask=mask, return_embeddings=True)
        logits: Tensor = decoder(batch.tgt_in, context=memory, context_mask=mask)
        return logits

    return TunedPeer("x-transformers", "x-transformers", model, forward, config)


PEERS = {"torch.nn": torch_transformer, "marian": marian, "x-transformers": x_transformers}
NEEDED = {"torch.nn": "torch", "marian": "transformers", "x-transformers": "x_transformers"}


def found_peers() -> list[str]:
    """The peers that are installed."""
    return [name for name in PEERS if importlib.util.find_spec(NEEDED[name])]
