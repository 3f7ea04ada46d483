"""Recorded passes against a training without; what a CUDA graph would replay is here done again each time."""

from collections.abc import Callable

import pytest
import torch

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models import cuda_graphs
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import compilation
from pytorch_dl.training import trainer as trainer_module
from pytorch_dl.training.optimizer import gradient_norm
from pytorch_dl.training.recorded_passes import RecordedPasses, can_record
from pytorch_dl.training.trainer import OptimizedTrainer

VOCAB = 20


class Fixed:
    """A stand-in for a CUDA graph: each replay writes its results to where those of the first run lie."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        work()
        passes: RecordedPasses = work.__self__  # type: ignore[attr-defined]
        places = (*passes._gradients, passes._totals)

        def replay() -> None:
            work()
            for place, found in zip(places, (*passes._gradients, passes._totals), strict=True):
                if place is not None:
                    place.copy_(found)
            passes._gradients, passes._totals = places[:-1], places[-1]

        return replay


def model(**changes: object) -> OptimizedTransformer:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_heads": 2, "num_encoder_layers": 2, "num_decoder_layers": 1, "dropout": 0.2}
    return OptimizedTransformer(src_vocab_size=VOCAB, tgt_vocab_size=VOCAB, **{**sizes, **changes})


def batches(count: int) -> list[Batch]:
    """Of one shape, with padding in other places."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for index in range(count):
        src, tgt = (torch.randint(4, VOCAB, (3, width), generator=generator) for width in (7, 6))
        src[index % 3, 3:], tgt[(index + 1) % 3, 2:] = 0, 0
        found.append(Batch.from_padded(src, tgt, pad_id=0, first_pair=3 * index))
    return found


def trained(*, group: int, record: Callable[..., object] | None) -> tuple[OptimizedTrainer, list[float]]:
    made = model()
    trainer = OptimizedTrainer(made, [], seed=3, mixed_precision=False)
    if record:
        trainer._passes.recorded = RecordedPasses(made, precision="fp32", label_smoothing=0.1, record=record)
    rows = batches(12)
    losses = [
        trainer.train_step(rows[at : at + group], total_steps=12 // group).loss for at in range(0, len(rows), group)
    ]
    return trainer, losses


@pytest.mark.parametrize("group", [1, 3])
def test_a_training_has_the_same_bits(group: int) -> None:
    record = Fixed()
    (plain, expected), (recorded, found) = trained(group=group, record=None), trained(group=group, record=record)
    assert record.recorded == 1 and len(set(expected)) == 12 // group
    assert found == expected
    for one, other in zip(plain.model.parameters(), recorded.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert any(
        not torch.equal(one, first) for one, first in zip(plain.model.parameters(), model().parameters(), strict=True)
    )


def test_gradients_lie_as_the_weights_do() -> None:
    made = model()
    passes = RecordedPasses(made, precision="fp32", label_smoothing=0.0, record=Fixed())
    batch = batches(1)[0]
    keys = (torch.zeros_like(batch.src), torch.zeros_like(batch.tgt_in))
    passes(batch, keys, tokens=batch.num_tgt_tokens)
    assert all(p.grad is not None and p.grad.stride() == p.stride() for p in made.parameters())
    assert gradient_norm(made.parameters()) > 0


def test_only_what_is_known_to_be_the_same_each_time_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_record(model(), "bf16"), "there is no GPU"
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert can_record(model(), "bf16") and can_record(model(), "fp32")
    assert not can_record(model(), "fp16")
    changed = ({"attention_dropout": 0.1}, {"use_checkpointing": True}, {"norm_type": torch.nn.LayerNorm})
    for changes in (*changed, {"activation": torch.tanh}):
        assert not can_record(model(**changes), "bf16"), changes

    class Own(OptimizedTransformer):
        pass

    assert not can_record(Own(src_vocab_size=VOCAB, tgt_vocab_size=VOCAB, d_model=16, n_heads=2), "bf16")


@pytest.mark.parametrize("compiled", [True, False])
def test_a_training_on_compiled_layers_records(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loader(list):
        has_one_shape = True

    monkeypatch.setattr(compilation, "compiles", lambda *_, **__: compiled)
    monkeypatch.setattr(trainer_module, "can_record", lambda *_: True)
    record = Fixed()
    monkeypatch.setattr(cuda_graphs, "record", record)
    trainer = OptimizedTrainer(model(), Loader(batches(4)), seed=3, mixed_precision=False)
    trainer.train(num_epochs=2)
    assert record.recorded == compiled and trainer._passes.recorded is None, "what it held is free again"


def test_another_shape_is_refused() -> None:
    passes = RecordedPasses(model(), precision="fp32", label_smoothing=0.0, record=Fixed())
    first, (src, tgt) = batches(1)[0], torch.full((2, 1, 3), 5)
    other = Batch.from_padded(src, tgt, pad_id=0)
    passes(first, (first.src, first.tgt_in), tokens=1)
    with pytest.raises(AssertionError, match=r"recorded for src \(3, 7\) got \(1, 3\)"):
        passes(other, (other.src, other.tgt_in), tokens=1)


def test_a_weight_that_is_not_used_has_no_gradient() -> None:
    made = model(tie_embeddings="decoder")
    made.spare = torch.nn.Parameter(torch.ones(3))
    passes, batch = RecordedPasses(made, precision="fp32", label_smoothing=0.0, record=Fixed()), batches(1)[0]
    for _ in range(2):
        passes(batch, (batch.src, batch.tgt_in), tokens=1)
    assert made.spare.grad is None and made.output.weight.grad is not None
