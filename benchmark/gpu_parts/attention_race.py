"""Which attention is fastest: forward and backward pass of each kernel on rows of several sentences, or of one.

Each is also compared with attention written out in float32, so that a fast one that is wrong is found out.

Shapes: B rows, T tokens of a row, H heads, D head width, N = B * T.
"""

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.gpu_parts.random_text import SEED, random_pairs
from benchmark.gpu_parts.scale import Bench, Found
from benchmark.measuring.device_time import median_seconds, relative_error
from pytorch_dl.models.attention import plain_attention, sdpa_attention
from pytorch_dl.models.masks import additive, segment_mask

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v (B, T, H, D) -> (B, T, H, D)
Seen = Literal["sentence", "earlier in sentence", "row", "earlier in row"]  # what a token attends to


@dataclass(frozen=True)
class Case:
    """Rows filled with sentences to the last token, and what attention is computed on."""

    segments: Tensor  # (B, T), from 1
    q: Tensor  # (B, T, H, D), as k, v and the gradient of the output
    k: Tensor
    v: Tensor
    grad: Tensor

    def bias(self, seen: Seen) -> Tensor | None:
        """What is added to the scores, (B, 1, T, T)."""
        if seen == "row":
            return None
        segments = torch.ones_like(self.segments) if seen.endswith("row") else self.segments
        return additive(segment_mask(segments, segments, causal=seen.startswith("earlier")), self.q.dtype)

    def starts(self) -> Tensor:
        """Where each sentence starts among the N tokens, and N, int32."""
        begins = torch.ones_like(self.segments, dtype=torch.bool)
        begins[:, 1:] = self.segments.diff(dim=1) != 0
        end = torch.tensor([begins.numel()], device=begins.device)
        return torch.cat((begins.flatten().nonzero().squeeze(1), end)).int()


@dataclass(frozen=True)
class Runner:
    """One that takes part."""

    prepare: Callable[[Case, Seen], Attend]
    seen: Seen = "sentence"
    only_on_gpu: bool = False
    compiled: bool = False
    cudnn: bool = True  # torch may choose cuDNN's kernel


def race(bench: Bench, found: Found) -> None:
    """All runners on rows of all lengths; those that are compiled come last, since they take long to begin."""
    found["missing"] = sorted({name for name, runner in RUNNERS.items() if not _can_run(runner, bench)})
    found["results"] = results = []
    for compiled in (False, True):
        for heads in bench.scale.heads:
            for length in bench.scale.rows:
                case = make_case(bench, length=length, heads=heads)
                for name, runner in RUNNERS.items():
                    if runner.compiled != compiled or name in found["missing"]:
                        continue
                    place = {"row": length, "heads": heads, "attention": name, "sees": runner.seen}
                    results.append({**place, **result_of(runner, case, bench)})
                bench.say(f"  rows of {length}, {heads} heads: {_fastest(results, length, heads)}")
                bench.save()


def result_of(runner: Runner, case: Case, bench: Bench) -> Found:
    """Milliseconds and errors of one runner, or why there are none."""
    if bench.time_left <= 0:
        return {"skipped": "no time left"}
    try:
        return measured(runner, case, bench)
    except Exception as error:  # a kernel that refuses a shape takes nothing from the others
        return {"failed": f"{type(error).__name__}: {str(error).strip()[:300]}"}
    finally:
        if runner.compiled:
            torch._dynamo.reset()


def measured(runner: Runner, case: Case, bench: Bench) -> Found:
    """Time and error of one runner."""
    attend, inputs = runner.prepare(case, runner.seen), (case.q, case.k, case.v)

    def work() -> tuple[Tensor, tuple[Tensor, ...]]:
        out = attend(*inputs)
        return out, torch.autograd.grad(out, inputs, case.grad)

    with cudnn_allowed(runner.cudnn):
        out, grads = work()
        seconds = median_seconds(work, bench.device, repeats=5 * bench.scale.repeats)
        forward = median_seconds(lambda: attend(*inputs), bench.device, repeats=5 * bench.scale.repeats)
    wanted_out, wanted_grads = oracle(case, runner.seen)
    return {
        "ms": 1000 * seconds,
        "forward_ms": 1000 * forward,
        "error": relative_error(out, wanted_out),
        "gradient_error": max(map(relative_error, grads, wanted_grads)),
    }


def oracle(case: Case, seen: Seen) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output and gradients of attention written out, in float32."""
    inputs = [tensor.detach().float().requires_grad_() for tensor in (case.q, case.k, case.v)]
    bias = case.bias(seen)
    q, k, v = (tensor.transpose(1, 2) for tensor in inputs)
    out = plain_attention(q, k, v, None if bias is None else bias.float(), 0.0).transpose(1, 2)
    return out, torch.autograd.grad(out, inputs, case.grad.float())


def make_case(bench: Bench, *, length: int, heads: int) -> Case:
    """Rows of one length, together `raced_tokens`."""
    scale = bench.scale
    generator = torch.Generator(bench.device).manual_seed(SEED)
    shape = (scale.raced_tokens // length, length, heads, scale.head_width)
    options: Any = {"device": bench.device, "dtype": torch.bfloat16, "generator": generator}
    q, k, v = (torch.randn(shape, **options).requires_grad_() for _ in range(3))
    return Case(full_rows(shape[0], length).to(bench.device), q, k, v, torch.randn(shape, **options))


def full_rows(rows: int, length: int) -> Tensor:
    """Segments (B, T) of rows that sentences fill to the last token: what does not fit into a row is cut there."""
    src, _ = random_pairs(rows * length // 2, vocabulary=100, longest=length)  # none has fewer than two tokens
    numbers = np.repeat(np.arange(len(src.offsets) - 1), np.diff(src.offsets) + 1)[: rows * length]
    sentences = torch.from_numpy(numbers).view(rows, length)
    return sentences - sentences[:, :1] + 1


@contextmanager
def cudnn_allowed(allowed: bool) -> Iterator[None]:
    """Whether torch may choose cuDNN's attention."""
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(allowed)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def _heads_first(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Attend:
    """From attention on (B, H, T, D), as the model's is."""
    return lambda q, k, v: attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _plain(case: Case, seen: Seen) -> Attend:
    bias = case.bias(seen)
    return _heads_first(lambda q, k, v: plain_attention(q, k, v, bias, 0.0))


def _compiled_plain(case: Case, seen: Seen) -> Attend:
    return torch.compile(_plain(case, seen), dynamic=False)


def _sdpa(case: Case, seen: Seen) -> Attend:
    bias = case.bias(seen)
    return _heads_first(lambda q, k, v: sdpa_attention(q, k, v, bias, 0.0))


def _sdpa_of_cudnn(case: Case, seen: Seen) -> Attend:
    """No other kernel may answer: it fails where cuDNN has none."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    chosen = _sdpa(case, seen)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return chosen(q, k, v)

    return attend


def _sdpa_without_mask(case: Case, seen: Seen) -> Attend:
    causal = seen == "earlier in row"
    return _heads_first(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal))


def _flex(case: Case, seen: Seen) -> Attend:
    return _heads_first(flex_on(case.segments, compiled=True))


def _flex_on_one_row(case: Case, seen: Seen) -> Attend:
    """All rows as one, of which most blocks are left out: the shape is the same whatever the rows."""
    starts = case.starts().long()
    sentence = torch.repeat_interleave(torch.arange(len(starts) - 1, device=starts.device), starts.diff())
    attend = _heads_first(flex_on(sentence.unsqueeze(0), compiled=True))

    def on_one_row(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(*(tensor.flatten(0, 1).unsqueeze(0) for tensor in (q, k, v))).view_as(q)

    return on_one_row


def flex_on(segments: Tensor, *, compiled: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """flex_attention on (B, H, T, D) within segments (B, T)."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def same_sentence(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return segments[row, query] == segments[row, key]

    rows, length = segments.shape
    mask = create_block_mask(same_sentence, rows, None, length, length, device=segments.device.type)
    attend: Any = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
    return lambda q, k, v: attend(q, k, v, block_mask=mask)


def _varlen(case: Case, seen: Seen) -> Attend:
    from torch.nn.attention.varlen import varlen_attn

    starts = case.starts()
    longest = int(starts.diff().max())
    arguments = (starts, starts, longest, longest)
    options = causal_option(varlen_attn) if seen.startswith("earlier") else {}

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Any = varlen_attn(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), *arguments, **options)
        return torch.as_tensor(out).view_as(q)

    return attend


def causal_option(varlen_attn: Callable[..., object]) -> dict[str, Any]:
    """How this version of torch is told that a token sees only earlier ones."""
    windows = "window_size" in inspect.signature(varlen_attn).parameters
    return {"window_size": (-1, 0)} if windows else {"is_causal": True}


def _can_run(runner: Runner, bench: Bench) -> bool:
    if runner.only_on_gpu and not bench.on_gpu:
        return False
    if runner.prepare is _varlen and not importlib.util.find_spec("torch.nn.attention.varlen"):
        return False
    return bench.compiled or not runner.compiled


def _fastest(results: list[Found], length: int, heads: int) -> str:
    timed = [r for r in results if (r["row"], r["heads"]) == (length, heads) and "ms" in r]
    return ", ".join(f"{r['attention']} {r['ms']:.3f} ms" for r in sorted(timed, key=lambda r: float(r["ms"])))


RUNNERS = {
    "plain": Runner(_plain),
    "sdpa, mask": Runner(_sdpa),
    "sdpa, mask, cuDNN off": Runner(_sdpa, cudnn=False),
    "sdpa, mask, cuDNN alone": Runner(_sdpa_of_cudnn, only_on_gpu=True),
    "varlen_attn": Runner(_varlen, only_on_gpu=True),
    "sdpa, no mask": Runner(_sdpa_without_mask, "row"),
    "sdpa, no mask, cuDNN off": Runner(_sdpa_without_mask, "row", cudnn=False),
    "sdpa, mask, causal": Runner(_sdpa, "earlier in sentence"),
    "varlen_attn, causal": Runner(_varlen, "earlier in sentence", only_on_gpu=True),
    "sdpa, no mask, causal": Runner(_sdpa_without_mask, "earlier in row"),
    "flex_attention": Runner(_flex, only_on_gpu=True, compiled=True),
    "flex_attention, one row of all": Runner(_flex_on_one_row, only_on_gpu=True, compiled=True),
    "plain, compiled": Runner(_compiled_plain, compiled=True),
}
