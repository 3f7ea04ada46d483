"""A profile reads back, its shares add up, and the training has the same bits with it and without."""

import gzip
import json

import pytest
from small_trainings import SETTINGS, outcome, settings_file
from tiny import tiny_trainer
from tiny_runs import call

from pytorch_dl.files import damage
from pytorch_dl.training.profiling import TABLE, TRACE, profiled
from pytorch_dl.training.step_costs import LOSS, STEP, Share, costs_of, held_at_the_peak, kind_of
from pytorch_dl.training.step_parts import BACKWARD, DATA, FORWARD, OPTIMIZER, part
from pytorch_dl.training.traces import Call, covered, nested

COMMON = {"cat": "cpu_op", "ph": "X", "tid": 7}


def span(name: str, start: float, end: float, **changes: object) -> dict:
    return {**COMMON, "name": name, "ts": start, "dur": end - start, **changes}


def step(start: float, end: float) -> dict:
    return span(STEP, start, end, cat="user_annotation")


def shares(rows: list[Share]) -> dict[str, float]:
    return {row.name: row.share for row in rows}


class TestTraces:
    def test_own_time_is_without_calls(self):
        calls = nested([span("inner", 2, 5), span("outer", 0, 10), span("next", 10, 11), span("innermost", 3, 4)])
        found = {call.name: (call.own, call.within) for call in calls}
        assert found == {
            "outer": (7, ()),
            "inner": (2, ("outer",)),
            "innermost": (1, ("outer", "inner")),
            "next": (1, ()),
        }

    def test_moments_take_no_time(self):
        moment = {"name": "[memory]", "ts": 3.0, "tid": 7}
        outer, inside = nested([span("outer", 0, 10), moment])
        assert outer.own == 10 and inside.within == ("outer",)

    def test_covered_is_a_union(self):
        assert covered([(0, 2), (1, 3), (5, 6)]) == 4


class TestCosts:
    def test_of_a_trace_that_is_written_out(self):
        events = []
        for start in (0, 1000):
            events += [
                step(start, start + 100),
                span(DATA, start, start + 10),
                span(FORWARD, start + 10, start + 50),
                span("aten::mm", start + 12, start + 20),
                span("aten::bmm", start + 20, start + 24),
                span(f"{LOSS}", start + 30, start + 40),
                span("aten::mm", start + 31, start + 39),
                span(BACKWARD, start + 50, start + 80),
                span("aten::mul", start + 60, start + 65),
                span(OPTIMIZER, start + 80, start + 90),
                span("aten::add", start + 81, start + 85),
            ]
        events.append(span("aten::mm", 500, 900, tid=8))  # of another thread
        found = costs_of(events)
        assert (found.steps, found.step_ms) == (2, 0.1)
        rest = "reading and writing down"
        parts = {FORWARD: 0.4, BACKWARD: 0.3, DATA: 0.1, OPTIMIZER: 0.1, rest: 0.1}
        assert shares(found.parts) == pytest.approx(parts)
        kinds = {"matrix products": 0.08, "attention": 0.04, "projection and loss": 0.1, "elementwise and sums": 0.05}
        kinds |= {DATA: 0.1, OPTIMIZER: 0.1, "Python, autograd and the rest": 0.53}
        assert shares(found.kinds) == pytest.approx(kinds)
        assert {row.name: row.amount for row in found.parts}[FORWARD] == pytest.approx(0.04)  # ms
        names = {"aten::mm": 0.16, "aten::mul": 0.05, "aten::bmm": 0.04, "aten::add": 0.04, LOSS: 0.02}
        assert shares(found.operations) == pytest.approx(names)

    def test_of_kernels_on_a_gpu(self):
        kernels = [span("sm90_xmma_gemm", 10, 40, cat="kernel", tid=1), span("flash_fwd", 50, 70, cat="kernel", tid=1)]
        found = costs_of([step(0, 100), *kernels])
        expected = {"matrix products": 0.3, "attention": 0.2, "waiting for the host": 0.5}
        assert shares(found.kinds) == pytest.approx(expected)
        assert shares(found.operations) == pytest.approx({"sm90_xmma_gemm": 0.3, "flash_fwd": 0.2})

    def test_kernels_count_in_the_step_that_asked_for_them(self):
        """Not those of a validation between two steps, nor of a profile that begins or ends in other work."""

        def asked(number: int, at: float, begin: float, end: float, name: str, by: str = "cuda_runtime") -> list[dict]:
            call = span("launch", at, at + 1, cat=by, args={"correlation": number})
            return [call, span(name, begin, end, cat="kernel", tid=1, args={"correlation": number})]

        events = [
            step(0, 100),
            *asked(1, at=10, begin=20, end=60, name="sm90_xmma_gemm"),
            *asked(2, at=90, begin=110, end=130, name="flash_fwd", by="cuda_driver"),  # after the step
            *asked(3, at=105, begin=205, end=245, name="of a validation"),  # in the next step
            step(200, 300),
            *asked(4, at=210, begin=245, end=265, name="sm90_xmma_gemm"),
        ]
        found = costs_of(events)
        assert shares(found.operations) == pytest.approx({"sm90_xmma_gemm": 0.3, "flash_fwd": 0.1})
        kinds = {"matrix products": 0.3, "attention": 0.1, "waiting for the host": 0.6}
        assert shares(found.kinds) == pytest.approx(kinds)

    def test_memory_at_the_peak_by_what_made_it(self):
        def memory(ts: float, size: int, address: int) -> dict:
            return {"name": "[memory]", "ts": ts, "tid": 7, "args": {"Bytes": size, "Addr": address}}

        events = [
            span("aten::mm", 0, 10),
            span("aten::empty", 1, 2),
            memory(1.5, 300, 1),
            span("aten::mul", 10, 20),
            memory(11, 100, 2),
            memory(12, 50, 3),
            memory(13, -50, 3),
            {"name": "whole gradient: 300 1", "ts": 14, "dur": 0.5, "tid": 7},
            memory(15, 120, 4),
        ]
        found = held_at_the_peak(events)
        assert {row.name: row.amount for row in found} == {"matrix products": 300, "elementwise and sums": 150}

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("aten::addmm", "matrix products"),
            ("aten::_softmax", "attention"),
            ("aten::scaled_dot_product_attention", "attention"),
            ("CompiledFunction", "compiled operations"),
            ("triton_red_fused_mul_1", "compiled operations"),
            ("aten::embedding_dense_backward", "embeddings"),
            ("aten::copy_", "copies and casts"),
            ("aten::sum", "elementwise and sums"),
            ("autograd::engine::evaluate_function: MulBackward0", "Python, autograd and the rest"),
        ],
    )
    def test_kinds_by_name(self, name, kind):
        assert kind_of(Call(span(name, 0, 1), (STEP, FORWARD), 1)) == kind


class TestProfile:
    @pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9, "gradient_accumulation_steps": 2}])
    def test_files_read_back(self, settings, tmp_path):
        trainer, said = tiny_trainer(tmp_path / "run", settings={"max_steps": 18, **settings}), []
        with profiled(trainer, tmp_path / "profile", said.append):
            trainer.train()
        assert damage(tmp_path / "profile") is None
        events = json.loads(gzip.decompress((tmp_path / "profile" / TRACE).read_bytes()))["traceEvents"]
        found = costs_of(events)
        assert found.steps == 4
        assert sum(row.share for row in found.parts) == pytest.approx(1)
        assert sum(row.share for row in found.kinds) == pytest.approx(1)
        assert {DATA, FORWARD, BACKWARD, OPTIMIZER} <= shares(found.parts).keys()
        assert shares(found.parts)[FORWARD] > shares(found.parts)[DATA]
        assert {"matrix products", "attention", "projection and loss", OPTIMIZER} <= shares(found.kinds).keys()
        table = (tmp_path / "profile" / TABLE).read_text()
        assert table.startswith("# Steps 11 to 14 of a training\n")
        assert ("| average |" in table) == ("ema_decay" in settings)
        for name in (DATA, FORWARD, "weights", "optimizer", "activations at their peak", "| projection and loss |"):
            assert f"| {name}" in table or name in table
        assert len(said) == 4 and said[0].startswith("a step, by its parts: ")
        assert str(tmp_path / "profile") in said[-1]

    def test_a_short_training_is_told_so(self, tmp_path):
        trainer, said = tiny_trainer(settings={"max_steps": 12}), []
        with profiled(trainer, tmp_path / "profile", said.append):
            trainer.train()  # ends while the profiler runs
        assert said == ["no profile: it needs 15 steps, and training had 12"]
        assert not (tmp_path / "profile").exists()
        with part("after"):
            pass

    def test_bits_are_the_same_with_and_without(self, tmp_path, capsys):
        config = settings_file(tmp_path)
        for name, words in (("plain", []), ("profiled", ["--profile"])):
            words = [*words, *SETTINGS, "training.max_steps=40"]
            result = call(capsys, "train", config, "--out", tmp_path / name, *words)
            assert result.code == 0, result.err
        assert outcome(tmp_path / "plain") == outcome(tmp_path / "profiled")
        assert (tmp_path / "profiled/profile" / TRACE).exists()
        assert not (tmp_path / "plain/profile").exists()
        assert "a step, by its parts" in result.err

    def test_run_profiles_too(self, tmp_path, capsys):
        config = settings_file(tmp_path)
        words = ["--profile", "--beam", 1, *SETTINGS, "training.max_steps=20", "scheduler.warmup=5"]
        assert call(capsys, "run", "--config", config, "--out", tmp_path / "run", *words).code == 0
        assert damage(tmp_path / "run/profile") is None

    def test_nothing_is_marked_while_nobody_profiles(self):
        import contextlib

        assert isinstance(part("x"), contextlib.nullcontext)
