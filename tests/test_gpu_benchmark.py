"""The benchmark of one GPU, at tiny sizes on the CPU: it runs through, counts rightly, and survives what fails."""

import dataclasses
import itertools
import json
import math
import time
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_trainer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark import gpu
from benchmark.contenders.baseline import PlainTransformer
from benchmark.contenders.flops import step_flops
from benchmark.gpu_parts import attention_race, correctness, step_costs, steps
from benchmark.gpu_parts.random_text import LONGEST, batches, random_pairs
from benchmark.gpu_parts.scale import FULL, QUICK, Bench, Shape
from benchmark.measuring.device_time import median_seconds, relative_error
from pytorch_dl.config import Config
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models.attention import plain_attention

CPU = torch.device("cpu")
SMALLEST = dataclasses.replace(QUICK, tokens=(256,), presets={"base": Shape(32, 2, 64, 1)})
OF_TRANSFORMERS = "ignore:.torch.jit:DeprecationWarning"


def bench(**changes: Any) -> Bench:
    return Bench(**{"device": CPU, "scale": QUICK, "compiled": False, "peak_flops": 1e12, **changes})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".torch.jit", DeprecationWarning)
        assert gpu.main(["--quick", "--no-compile", "--out", str(path)]) == 0
    return json.loads(path.read_bytes())


def test_a_quick_run_does_every_part(written):
    parts = written["parts"]
    assert list(parts) == ["facts", "correctness", "attention", "steps", "counts", "profile"]
    assert all(part["done"] and "error" not in part for part in parts.values())
    assert written["settings"] == {"device": "cpu", "minutes": 9.0, "quick": True, "compiled": False}
    assert "failed" not in json.dumps(written) and "skipped" not in json.dumps(written)
    facts = parts["facts"]["found"]
    assert facts["machine"].keys() >= {"cpu", "torch", "commit"} and facts["copied_bytes_per_s"] > 0
    assert len(facts["bf16_flops_per_s"]) == len(QUICK.matrices)


def test_what_is_computed_is_right_and_said_to_be(written):
    found = written["parts"]["correctness"]["found"]
    assert found["passes"] and all(check["passes"] for check in found["checks"])
    errors = [check["gradient_error"] for check in found["checks"] if check.get("precision") == "bf16"]
    assert len(errors) == 3 and all(1e-4 < error < 2e-2 for error in errors)


def test_all_attentions_agree(written):
    found = written["parts"]["attention"]["found"]
    results = found["results"]
    assert len(results) == len(QUICK.rows) * len(QUICK.heads) * (len(attention_race.RUNNERS) - len(found["missing"]))
    assert all(min(result["forward_ms"], result["ms"]) > 0 for result in results)
    assert all(max(result["error"], result["gradient_error"]) < 1e-2 for result in results)


def test_steps_of_all_sides_hold_together(written):
    found = written["parts"]["steps"]["found"]
    sides = {result["side"] for result in found["results"]}
    assert {"naive", "ours", "torch.nn"} <= sides and ("hf-trainer" in sides) == (
        "marian" in sides and steps.has_trainer()
    )
    for result in found["results"]:
        speeds = result["repeats"]["tokens_per_s"]
        assert min(speeds) <= result["tokens_per_s"] <= max(speeds) and 3 < result["loss"] < 8
        if result["side"] == "hf-trainer":  # which makes its batches itself
            continue
        assert result["utilisation"] == pytest.approx(result["flops_per_s"] / 989e12)
        assert result["step_ms"] == pytest.approx(1000 * result["real_tokens_per_step"] / result["tokens_per_s"])


def test_counts_and_profile_hold_together(written):
    counts = written["parts"]["counts"]["found"]
    assert counts["recompilations_per_step"] == 0 and counts["synchronisations_per_step"] == 0
    profile = written["parts"]["profile"]["found"]
    taken = [kernel["ms"] for kernel in profile["kernels"]]
    assert taken == sorted(taken, reverse=True) and len(taken) == 30
    assert 0 < profile["busy_ms"] <= profile["traced_ms"] and 0 <= profile["idle"] < 1


def test_a_part_that_raises_is_recorded_and_the_next_still_runs(tmp_path, monkeypatch):
    def broken(bench: Bench, found: dict[str, Any]) -> None:
        found["before"] = math.inf
        raise RuntimeError("no such kernel")

    def whole(bench: Bench, found: dict[str, Any]) -> None:
        found["passes"] = True

    parts = [gpu.Part("broken", 0.5, broken), gpu.Part("correctness", 0.5, whole)]
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert gpu.main(["--out", str(tmp_path / "x.json")]) == 1
    first, second = json.loads((tmp_path / "x.json").read_bytes())["parts"].values()
    assert first["error"] == "RuntimeError: no such kernel" and not first["done"]
    assert first["found"] == {"before": "inf"} and "raise RuntimeError" in "".join(first["traceback"])
    assert second["done"] and second["found"] == {"passes": True}


def test_a_run_cut_short_leaves_what_it_has(tmp_path, monkeypatch):
    def cut(bench: Bench, found: dict[str, Any]) -> None:
        found["first"] = 1
        bench.save()
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "PARTS", [gpu.Part("cut", 1.0, cut)])
    with pytest.raises(KeyboardInterrupt):
        gpu.main(["--out", str(tmp_path / "x.json")])
    assert json.loads((tmp_path / "x.json").read_bytes())["parts"] == {"cut": {"done": False, "found": {"first": 1}}}


def test_time_that_a_part_leaves_goes_to_the_next():
    deadlines = []
    parts = [gpu.Part(name, share, lambda b, found: deadlines.append(b.deadline)) for name, share in ("a0", "b1")]
    parts = [part._replace(share=share) for part, share in zip(parts, (0.25, 0.75), strict=True)]
    start = time.monotonic()
    gpu.run_parts(parts, bench(), {}, seconds=100)
    assert [deadline - start for deadline in deadlines] == pytest.approx([25, 100], abs=1)
    assert sum(part.share for part in gpu.PARTS) == pytest.approx(1)


def test_without_time_all_is_skipped_and_said_so():
    late, found = bench(deadline=time.monotonic() - 1), {}
    attention_race.race(late, found)
    steps.steps(late, timed := {})
    assert {result["skipped"] for result in [*found["results"], *timed["results"]]} == {"no time left"}


def test_what_ran_out_of_memory_is_not_tried_with_more_tokens(monkeypatch):
    tried = []

    def side_of(entry: steps.Entry, _: Bench) -> None:
        tried.append((entry.name, entry.tokens))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(steps, "side_of", side_of)
    monkeypatch.setattr(steps, "found_peers", list)
    scale = dataclasses.replace(SMALLEST, tokens=(256, 512, 128))
    steps.steps(bench(scale=scale), found := {})
    assert tried == [("ours", 256), ("ours", 128), ("naive", 256)]
    assert [result.get("skipped") for result in found["results"]] == [None, "out of memory at 256 tokens", None, None]
    assert found["results"][0]["failed"] == "CUDA out of memory"


def rows_of(src: int, tgt: int) -> Batch:
    """Two rows of one pair each, without padding."""
    return Batch.from_padded(torch.full((2, src), 5), torch.full((2, tgt + 1), 6), pad_id=0)


def models() -> dict[str, Any]:
    shape = Shape(16, 2, 24, 2).settings() | {"num_decoder_layers": 1}
    config = Config().update(model={**shape, "dropout": 0.1})
    found: dict[str, Any] = {
        "ours": (ours := tiny_model(**shape), lambda batch: ours(batch.src, batch.tgt_in)),
        "torch.nn": (
            plain := PlainTransformer(vocab_size=48, pad_id=0, config=config),
            lambda batch: plain(batch.src, batch.tgt_in),
        ),
    }
    if "marian" in steps.found_peers():
        from benchmark.contenders.peers import marian

        peer = marian(config, vocab_size=48, pad_id=0, device=CPU)
        peer.model.set_attn_implementation("eager")  # torch does not count its kernel for a CPU
        found["marian"] = (peer.model, peer.forward)
    return found


@pytest.mark.filterwarnings(OF_TRANSFORMERS)
@pytest.mark.parametrize("name", ["ours", "torch.nn", "marian"])
def test_flops_are_those_that_torch_counts_where_nothing_is_padded(name):
    if name not in (found := models()):
        pytest.skip(f"{name} is not installed")
    model, forward = found[name]
    batch = rows_of(7, 5)
    with FlopCounterMode(display=False) as counter:
        forward(batch).sum().backward()
    assert step_flops(model, batch) == counter.get_total_flops()


@pytest.mark.parametrize("layout", ["packed", "bucketed", "random"])
def test_batches_hold_about_the_tokens_that_they_promise(layout):
    found = batches(layout, tokens=4096, count=3, vocabulary=1000)
    assert len(found) == 3
    mean = sum(batch.num_tgt_tokens for batch in found) / 3
    assert 0.85 * 4096 < mean < 1.1 * 4096
    efficiency = (mean + sum(batch.num_src_tokens for batch in found) / 3) / (
        sum(batch.num_positions for batch in found) / 3
    )
    assert 0.2 < efficiency < 0.5 if layout == "random" else efficiency > 0.9
    if layout == "packed":
        assert len({batch.src.shape for batch in found}) == 1


def test_lengths_and_ids_are_like_those_of_text():
    src, tgt = random_pairs(4000, vocabulary=32_000)
    for side in (src, tgt):
        lengths = side.offsets[1:] - side.offsets[:-1] + 1
        assert 23 < lengths.mean() < 27 and lengths.min() >= 2 and lengths.max() <= LONGEST
        assert side.ids.min() == 3 and 20_000 < side.ids.max() < 32_000
        assert (side.ids < 300).mean() > 0.4  # a few words are most of a text
    assert (random_pairs(4000, vocabulary=32_000)[0].ids == src.ids).all()


@pytest.fixture
def case() -> attention_race.Case:
    return attention_race.make_case(bench(), length=16, heads=2)


def test_raced_rows_are_full_of_sentences(case):
    assert case.segments.shape == (8, 16) and (case.segments[:, 0] == 1).all()
    increments = case.segments.diff(dim=1)
    assert ((increments == 0) | (increments == 1)).all() and case.segments.max() > 1
    starts = case.starts().tolist()
    assert starts[0] == 0 and starts[-1] == 128 and set(range(0, 128, 16)) < set(starts)
    assert len(starts) - 1 == int(case.segments.amax(1).sum())


def sentence_by_sentence(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, _: Tensor, *longest: int, window_size: tuple[int, int] = (-1, -1)
) -> Tensor:
    """What varlen_attn computes, which a CPU has not: q, k, v (N, H, D)."""
    out, bounds = [], starts.tolist()
    assert set(longest) == {max(end - begin for begin, end in itertools.pairwise(bounds))}
    for begin, end in itertools.pairwise(bounds):
        rows = [tensor[begin:end].transpose(0, 1).unsqueeze(0) for tensor in (q, k, v)]
        later = torch.ones(end - begin, end - begin, dtype=torch.bool).triu(1)
        bias = torch.zeros_like(later, dtype=q.dtype).masked_fill(later, -math.inf) if window_size[1] == 0 else None
        out.append(plain_attention(*rows, bias, 0.0).squeeze(0).transpose(0, 1))
    return torch.cat(out)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", [name for name in attention_race.RUNNERS if "alone" not in name])
def test_each_attention_sees_what_it_should(name, case, monkeypatch):
    pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", sentence_by_sentence)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    runner = attention_race.RUNNERS[name]
    inputs = [tensor.detach() for tensor in (case.q, case.k, case.v)]
    with torch.no_grad():
        out = runner.prepare(case, runner.seen)(*inputs)
    wanted, _ = attention_race.oracle(case, runner.seen)
    assert out.shape == case.q.shape and relative_error(out, wanted) < 1e-2


def test_an_attention_that_fails_takes_nothing_from_the_others(case):
    def refuse(case: attention_race.Case, seen: str) -> attention_race.Attend:
        raise RuntimeError("no kernel for this shape")

    found = attention_race.result_of(attention_race.Runner(refuse), case, bench())
    assert found == {"failed": "RuntimeError: no kernel for this shape"}


def test_how_torch_is_told_of_causality():
    assert attention_race.causal_option(sentence_by_sentence) == {"window_size": (-1, 0)}
    assert attention_race.causal_option(lambda q, is_causal=False: q) == {"is_causal": True}


def test_an_error_in_the_gradient_is_found_out():
    wanted = correctness.Gradient(torch.tensor(2.0), torch.tensor([3.0, 4.0]))
    wrong = correctness.Gradient(torch.tensor(2.0), torch.tensor([3.0, 4.5]))
    found = correctness.compared(wrong, wanted, 2e-2)
    assert found["gradient_error"] == pytest.approx(0.1) and found["loss_error"] == 0 and not found["passes"]
    assert correctness.compared(wanted, wanted, 2e-2)["passes"]


def test_waits_are_counted_by_place_in_the_package(monkeypatch):
    def norm(parameters: Any) -> Tensor:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        return torch.tensor(1.0)

    monkeypatch.setattr("pytorch_dl.training.update.gradient_norm", norm)
    trainer, waits = tiny_trainer(), Counter[str]()
    batch = rows_of(4, 3)
    with step_costs.synchronisations(waits):
        for _ in range(2):
            trainer.train_step([batch], total_steps=10)
    ((place, number),) = waits.items()
    assert number == 2 and place.startswith("pytorch_dl/training/update.py:") and "gradient_norm" in place


def test_reads_are_counted_by_place_in_the_package(monkeypatch):
    def norm(parameters: Any) -> Tensor:
        first = next(iter(parameters)).detach()
        float(first.sum())
        first[first > 0].sum()
        first.cpu(), first.to("cpu"), first.tolist(), first.numpy()
        first.to("cpu", non_blocking=True)
        return torch.tensor(1.0)

    monkeypatch.setattr("pytorch_dl.training.update.gradient_norm", norm)
    model = tiny_model()
    trainer = tiny_trainer(model=model, optimizer=torch.optim.AdamW(model.parameters(), fused=True))
    batch, reads = rows_of(4, 3), Counter[str]()
    with step_costs.host_reads(reads, model):
        reading = trainer.begin_step([batch], total_steps=10)
    ((place, number),) = reads.items()
    assert number == 6 and place.startswith("pytorch_dl/training/update.py:") and "gradient_norm" in place
    assert reading.read().grad_norm == 1.0


def test_the_costs_of_a_trace():
    events = [
        {"name": "a", "ts": 0, "dur": 10},
        {"name": "b", "ts": 5, "dur": 10},
        {"name": "a", "ts": 30, "dur": 10},
    ]
    found = step_costs.cost_table(events, steps=2)
    assert found["idle"] == pytest.approx(15 / 40) and found["busy_ms"] == pytest.approx(0.0125)
    assert [(kernel["name"], kernel["calls"]) for kernel in found["kernels"]] == [("a", 1.0), ("b", 0.5)]
    assert found["kernels"][0]["share"] == pytest.approx(0.5)


def test_times_are_medians_without_the_first_calls():
    calls: list[None] = []
    assert median_seconds(lambda: calls.append(None), CPU, repeats=5) >= 0
    assert len(calls) == 3 + 5


def test_the_sizes_of_the_real_thing():
    assert FULL.presets["base"] == Shape(512, 8, 2048, 6) and FULL.presets["big"] == Shape(1024, 16, 4096, 6)
    assert set(FULL.tokens) == {16_384, 65_536, 131_072} and FULL.counted_tokens in FULL.tokens
    assert {32, 64, 128, 256, 512} == set(FULL.rows) and all(FULL.raced_tokens % row == 0 for row in FULL.rows)
    assert all(shape.d_model == 64 * shape.n_heads for shape in FULL.presets.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_is_compiled_is_right_and_compiled_once():
    few = bench(scale=SMALLEST, compiled=True)
    correctness.correctness(few, found := {})
    assert found["passes"] and sum(check.get("compiled", False) for check in found["checks"]) == 3
    step_costs.counts(few, counts := {})
    assert counts["compiled"] and counts["recompilations_per_step"] == 0
