"""The fused loss against torch's own cross-entropy on whole logits."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pytorch_dl.training import loss as module
from pytorch_dl.training.loss import linear_cross_entropy

IGNORED = -100
TOKENS, WIDTH, VOCAB = 23, 8, 37


def example(*, dtype: torch.dtype = torch.float64, ignored: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.randint(VOCAB, (TOKENS,), generator=generator)
    labels[torch.randperm(TOKENS, generator=generator)[:ignored]] = IGNORED
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), labels


def expected(hidden: Tensor, weight: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, labels, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)


@pytest.fixture(params=[4, 7, TOKENS, 1000], ids=lambda rows: f"{rows} rows a chunk")
def chunk_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(module.CHUNK_ROWS, "cpu", request.param)
    monkeypatch.setitem(module.BLOCK_NUMBERS, "cpu", 3 * VOCAB)
    monkeypatch.setitem(module.BLOCK_TOKENS, "cpu", 5)
    return request.param


@pytest.mark.usefixtures("chunk_rows")
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("ignored", [0, 5, TOKENS - 1])
def test_sums_and_gradients_are_those_of_cross_entropy(smoothing: float, ignored: int) -> None:
    hidden, weight, labels = example(ignored=ignored)
    oracle = expected(hidden, weight, labels, smoothing)
    oracle_grads = torch.autograd.grad(oracle, (hidden, weight))
    loss = linear_cross_entropy(hidden, weight, labels, ignored=IGNORED, label_smoothing=smoothing)
    grads = torch.autograd.grad(loss.smoothed * 3, (hidden, weight))
    assert oracle > 1
    torch.testing.assert_close(loss.smoothed, oracle, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss.nll, expected(hidden, weight, labels, 0.0), rtol=1e-12, atol=0)
    for grad, oracle_grad in zip(grads, oracle_grads, strict=True):
        torch.testing.assert_close(grad, 3 * oracle_grad, rtol=1e-12, atol=1e-12)


def test_leading_dimensions_are_flattened() -> None:
    hidden, weight, labels = example()
    flat = linear_cross_entropy(hidden[:20], weight, labels[:20], ignored=IGNORED)
    deep = linear_cross_entropy(hidden[:20].view(2, 10, WIDTH), weight, labels[:20].view(2, 10), ignored=IGNORED)
    assert flat.smoothed == deep.smoothed > 0


@pytest.mark.usefixtures("chunk_rows")
def test_nothing_but_ignored_labels_is_zero() -> None:
    hidden, weight, labels = example(ignored=TOKENS)
    loss = linear_cross_entropy(hidden, weight, labels, ignored=IGNORED, label_smoothing=0.1)
    grads = torch.autograd.grad(loss.smoothed, (hidden, weight))
    assert loss.smoothed == loss.nll == 0
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradcheck(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.CHUNK_ROWS, "cpu", 7)
    hidden, weight, labels = example()

    def smoothed(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, labels, ignored=IGNORED, label_smoothing=smoothing).smoothed

    assert torch.autograd.gradcheck(smoothed, (hidden, weight), fast_mode=True)


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    hidden, weight, labels = example()
    loss = linear_cross_entropy(hidden, weight, labels, ignored=IGNORED).smoothed
    (grad,) = torch.autograd.grad(loss**2, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_bfloat16_autocast_stays_close() -> None:
    hidden, weight, labels = example(dtype=torch.float32)
    oracle = expected(hidden, weight, labels, 0.1)
    oracle_grads = torch.autograd.grad(oracle, (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, labels, ignored=IGNORED, label_smoothing=0.1)
    grads = torch.autograd.grad(loss.smoothed, (hidden, weight))
    assert loss.smoothed.dtype == torch.float32
    assert loss.smoothed != oracle
    torch.testing.assert_close(loss.smoothed, oracle, rtol=0.01, atol=0)
    for grad, oracle_grad in zip(grads, oracle_grads, strict=True):
        assert grad.dtype == torch.float32
        assert (grad - oracle_grad).norm() < 0.02 * oracle_grad.norm()


def test_flat_logits_of_a_large_vocabulary_fit_into_float16() -> None:
    generator = torch.Generator().manual_seed(2)
    hidden = (0.05 * torch.randn(6, 16, generator=generator)).requires_grad_()
    weight = (torch.randn(120_000, 16, generator=generator) / 4).requires_grad_()
    labels = torch.randint(120_000, (6,), generator=generator)
    oracle = torch.autograd.grad(expected(hidden, weight, labels, 0.1), (hidden, weight))
    with torch.autocast("cpu", dtype=torch.float16):
        loss = linear_cross_entropy(hidden, weight, labels, ignored=IGNORED, label_smoothing=0.1)
    for grad, oracle_grad in zip(torch.autograd.grad(loss.smoothed, (hidden, weight)), oracle, strict=True):
        assert (grad - oracle_grad).norm() < 0.02 * oracle_grad.norm()


def test_gradients_of_tied_weights_add_up() -> None:
    _, weight, labels = example(ignored=0)
    tokens = labels.roll(1)
    oracle = expected(F.embedding(tokens, weight).tanh(), weight, labels, 0.1)
    (oracle_grad,) = torch.autograd.grad(oracle, weight)
    hidden = F.embedding(tokens, weight).tanh()
    loss = linear_cross_entropy(hidden, weight, labels, ignored=IGNORED, label_smoothing=0.1)
    (grad,) = torch.autograd.grad(loss.smoothed, weight)
    (output_only,) = torch.autograd.grad(
        linear_cross_entropy(hidden.detach(), weight, labels, ignored=IGNORED, label_smoothing=0.1).smoothed, weight
    )
    torch.testing.assert_close(grad, oracle_grad, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(grad, output_only)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_no_tensor_of_tokens_times_vocabulary_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.CHUNK_ROWS, "cpu", 4)
    hidden, weight, labels = example()
    saved: list[Tensor] = []
    with (
        LargestTensor() as probe,
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
    ):
        linear_cross_entropy(hidden, weight, labels, ignored=IGNORED, label_smoothing=0.1).smoothed.backward()
    assert {tensor.shape for tensor in saved} == {hidden.shape, weight.shape}
    assert probe.numel == max(VOCAB * WIDTH, 4 * VOCAB, TOKENS * WIDTH)
    with LargestTensor() as probe:
        expected(hidden, weight, labels, 0.1)
    assert probe.numel == TOKENS * VOCAB, "the probe sees whole logits where there are some"


def test_lean_is_the_same_in_smaller_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.CHUNK_ROWS, "cpu", 12)
    hidden, weight, labels = example()
    peaks, grads = {}, {}
    for lean in (False, True):
        with LargestTensor() as probe:
            loss = linear_cross_entropy(hidden, weight.detach(), labels, ignored=IGNORED, lean=lean).smoothed
        peaks[lean], grads[lean] = probe.numel, torch.autograd.grad(loss, hidden)[0]
    assert peaks == {False: 12 * VOCAB, True: max(4 * VOCAB, VOCAB * WIDTH)}
    torch.testing.assert_close(grads[True], grads[False], rtol=1e-12, atol=1e-12)


def test_without_gradients_none_are_computed() -> None:
    hidden, weight, labels = example()
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, labels, ignored=IGNORED)
    assert not loss.smoothed.requires_grad
    assert loss.smoothed == loss.nll > 0


@pytest.mark.parametrize("grad", [True, False])
def test_where_none_are_wanted_no_gradient_is_multiplied_out(grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, trained = module._forward_chunks, []
    monkeypatch.setattr(module, "_forward_chunks", lambda *args: (trained.append(args[-1]), forward(*args))[1])
    weight = torch.nn.Parameter(torch.randn(5, 4))
    with torch.set_grad_enabled(grad):
        module.linear_cross_entropy(torch.randn(3, 4), weight, torch.tensor([1, 2, 3]), ignored=-100)
    assert trained == [grad]
