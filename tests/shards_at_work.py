"""What each process of tests/training/test_sharding.py does: trains divided models beside whole ones.

What it finds is written to FOLDER/RANK.json.
"""

import gc
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_loader, tiny_model, tiny_trainer
from torch import Tensor

from pytorch_dl.config.model_config import OptimizerConfig
from pytorch_dl.errors import ConfigError, NonFiniteError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.models.transformer_blocks import TransformerEncoderLayer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training import update as update_module
from pytorch_dl.training.optimizer import make_optimizer
from pytorch_dl.training.peers import Peers, joined
from pytorch_dl.training.sharding import gathered, held, held_parameters, whole_copy
from pytorch_dl.training.trainer import OptimizedTrainer
from pytorch_dl.training.validation import Decoded

STEPS, TOO_HIGH = 4, 2.0**30
SETTINGS = {"ema_decay": 0.5, "max_grad_norm": 0.5, "gradient_accumulation_steps": 5, "label_smoothing": 0.1}
Found = dict[str, Any]


def main() -> None:
    """Go through all cases."""
    torch.set_num_threads(1)
    found: Found = {}
    with joined(torch.device("cpu")) as peers:
        for name, case in CASES.items():
            found[name] = case(peers)
    (Path(sys.argv[1]) / f"{peers.rank}.json").write_text(json.dumps(found))


def fused(model: OptimizedTransformer) -> torch.optim.Optimizer:
    """Gradients that are nothing but rounding, as those of the biases of keys, shall move nothing."""
    return make_optimizer(model, OptimizerConfig(name="adamw", eps=1e-4), learning_rate=0.01)


def momentum(model: OptimizedTransformer) -> torch.optim.Optimizer:
    return make_optimizer(model, OptimizerConfig(name="sgd"), learning_rate=0.01)


def plain(model: OptimizedTransformer) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(model.parameters(), lr=0.01, eps=1e-3)


def pair(
    peers: Peers,
    optimizer: Callable[[OptimizedTransformer], torch.optim.Optimizer] = fused,
    *,
    settings: Found | None = None,
    **shape: Any,
) -> tuple[OptimizedTrainer, OptimizedTrainer]:
    """A trainer of a model that is divided, and one of the same model as a whole, in this process alone."""
    made = []
    for shard in (True, False):
        model = tiny_model(**{"d_model": 20, "d_ff": 30, **shape})  # rows that no number of processes divides
        made.append(
            tiny_trainer(
                model=model,
                optimizer=optimizer(model),
                settings={**SETTINGS, **(settings or {})},
                peers=peers if shard else Peers(),
                shard=shard,
                val_dataloader=tiny_loader(20, seed=2),
            )
        )
    return made[0], made[1]


def compared(peers: Peers, *given: Any, scale: float | None = None, steps: int = STEPS, **changes: Any) -> Found:
    """Steps of five batches, which neither two nor three processes divide; what they tell, and the weights after."""
    divided, whole = trainers = pair(peers, *given, **changes)
    batches = list(tiny_loader(24).batches(0))[:5]
    assert len(batches) == 5
    for one in trainers if scale else ():
        one.update.scaler.update(scale)
    before = {name: weight.clone() for name, weight in ckpt.model_weights(whole.model).items()}
    told = [[vars(one.train_step(batches, total_steps=steps)) for one in trainers] for _ in range(steps)]
    losses = [one.validate()[0]["val_loss"] for one in trainers]
    return {
        "steps": told,
        "val_loss": losses,
        "scale": [one.update.scaler.get_scale() for one in trainers],
        "moved": distance(before, ckpt.model_weights(whole.model)),
        "weights": distance(gathered(ckpt.model_weights(divided.model)), ckpt.model_weights(whole.model)),
        "average": 0.0
        if not divided.update.average or not whole.update.average
        else distance(gathered(divided.update.average.weights), whole.update.average.weights),
    }


def distance(some: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """The largest difference between the weights of two models; 0 where there are none, in all processes but one."""
    assert not some or some.keys() == others.keys()
    return max((float((some[name] - others[name]).abs().max()) for name in some), default=0.0)


def scaled(peers: Peers) -> Found:
    """fp16, whose first steps overflow."""
    return compared(peers, settings={"mixed_precision": "fp16"}, scale=TOO_HIGH, steps=16)


def late(peers: Peers) -> Found:
    """As on a GPU."""
    update_module.LATE_DEVICES = ("cpu",)
    try:
        return compared(peers)
    finally:
        update_module.LATE_DEVICES = ("cuda",)


def memory(peers: Peers) -> Found:
    """Numbers that this process holds after a step, a validation and while it waits, and those of the whole."""
    (divided, whole), batches = pair(peers), list(tiny_loader(24).batches(0))[:5]
    kept: Found = {}
    apply = divided.update.apply

    def noting(*given: Any, **how: Any) -> Tensor:
        kept["gradients"] = sum(p.grad.numel() for p in held_parameters(divided.model) if p.grad is not None)
        kept["other gradients"] = sum(p.grad is not None for p in divided.model.parameters())
        return apply(*given, **how)

    divided.update.apply = noting  # type: ignore[method-assign]
    for one in (divided, whole):
        one.train_step(batches, total_steps=STEPS)
        one.validate()
    kept["weights"] = sum(held(p).numel() for p in divided.model.parameters())
    kept["state"] = sum(
        value.numel() for state in divided.update.optimizer.state.values() for value in state.values() if value.ndim
    )
    kept["average"] = sum(held(p).numel() for p in divided.update.average.weights.values())  # type: ignore[union-attr]
    kept["whole"] = whole.model.num_parameters()
    kept["open"] = sum(not hasattr(p, "device_mesh") for p in divided.model.parameters())
    size = next(p for p in whole.model.parameters() if p.ndim == 2).shape
    del whole, one
    gc.collect()
    kept["embeddings"] = sum(type(t) is Tensor and t.shape == size for t in map(plain_tensor, gc.get_objects()))
    return kept


def plain_tensor(thing: object) -> object:
    """A tensor that has memory of its own, or None."""
    if type(thing) not in (Tensor, torch.nn.Parameter) or thing.is_meta:  # type: ignore[attr-defined]
        return None
    return thing.detach() if thing.untyped_storage().nbytes() else None  # type: ignore[attr-defined]


def translated(peers: Peers) -> Found:
    """What the first process is given to translate with."""
    divided, whole = pair(peers)
    asked: list[int] = []

    def decode(model: OptimizedTransformer, poll: Callable[[], None]) -> Decoded:
        src = torch.tensor([[3, 4, 5], [6, 7, 0]])
        cache = model.start_decoding(src)
        for _ in range(3 + peers.rank):  # the others need not follow
            hidden = model.decode_step(torch.tensor([[1], [1]]), cache)
        asked.append(int(type(model) is OptimizedTransformer and not model.training))
        return Decoded({"exact_match": float(hidden.detach().sum())}, [])

    divided.decode = decode
    values, _ = divided.validate()
    with whole_copy(divided.model) as copied:
        same = peers.rank or distance(ckpt.model_weights(copied), ckpt.model_weights(whole.model))
    return {"asked": asked, "score": values["exact_match"], "same": same}


def spoiled(peers: Peers) -> Found:
    """A weight of the last process that is not finite, and one that an update has made so."""
    found: Found = {}
    divided, _ = pair(peers)
    last = peers.rank == peers.size - 1
    with torch.no_grad():
        held(divided.model.output.weight)[-1:] = math.inf if last else 0.0
    try:
        divided.train_step(list(tiny_loader(24).batches(0))[:5], total_steps=STEPS)
    except NonFiniteError as error:
        found["step"] = str(error)
    try:
        divided.update.check_weights(7)
    except NonFiniteError as error:
        found["weights"] = str(error)
    return found


def refused(peers: Peers) -> Found:
    """Weights that are not the same to begin with, and an optimizer that has begun."""
    found: Found = {}
    try:
        tiny_trainer(model=tiny_model(seed=peers.rank), peers=peers, shard=True, **FIVE)
    except ConfigError as error:
        found["weights"] = str(error)
    model = tiny_model()
    optimizer = plain(model)
    model.output.weight.grad = torch.ones_like(model.output.weight)
    optimizer.step()
    try:
        tiny_trainer(model=model, optimizer=optimizer, peers=peers, shard=True, **FIVE)
    except ConfigError as error:
        found["begun"] = str(error)
    shared = TransformerEncoderLayer(16, 2)
    model = tiny_model(num_encoder_layers=2, encoder_layer=lambda *_, **__: shared)
    try:
        tiny_trainer(model=model, peers=peers, shard=True, **FIVE)
    except ConfigError as error:
        found["shared"] = str(error)
    return found


FIVE: Found = {"gradient_accumulation_steps": 5}
CASES: dict[str, Callable[[Peers], Found]] = {
    "fused": compared,
    "momentum": lambda peers: compared(peers, momentum),
    "plain": lambda peers: compared(peers, plain),
    "not tied": lambda peers: compared(peers, tie_embeddings="none", bias=True, norm_type="layernorm"),
    "checkpointing": lambda peers: compared(peers, use_checkpointing=True),
    "fp16": scaled,
    "late": late,
    "memory": memory,
    "translated": translated,
    "spoiled": spoiled,
    "refused": refused,
}


if __name__ == "__main__":
    main()
