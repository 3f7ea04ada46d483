"""Models divided among processes: the losses of a whole one, in part of its memory, and checkpoints that fit either."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ROOT, start, together
from safetensors.torch import load_file
from small_trainings import outcome, resume, settings_file, stopped, train

from pytorch_dl import load
from pytorch_dl.replaying import changed_environment
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.metrics import METRICS

EXACT = 1e-6
STEPS = ("training.max_steps=40", "training.eval_every=10")


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What tests/shards_at_work.py found, in each of the processes."""
    folder, count = tmp_path_factory.mktemp("found"), request.param
    ended = together(count, [str(ROOT / "tests" / "shards_at_work.py"), str(folder)])
    assert [one.code for one in ended] == [0] * count, ended
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


class TestSteps:
    @pytest.mark.parametrize("case", ["fused", "momentum", "plain", "not tied", "checkpointing", "late"])
    def test_like_those_of_a_whole_model(self, found: list[dict[str, Any]], case: str) -> None:
        """With dropout, label smoothing, gradients that are cut, and a moving average."""
        for rank in found:
            seen = rank[case]
            for divided, whole in seen["steps"]:
                assert divided == pytest.approx(whole, rel=EXACT)
                assert divided["grad_norm"] > 0.5, "it is cut"
            assert seen["moved"] > 1e-3
            assert seen["val_loss"][0] == pytest.approx(seen["val_loss"][1], rel=EXACT)
            assert seen["weights"] < 1e-5
            assert seen["average"] < 1e-5

    def test_fp16(self, found: list[dict[str, Any]]) -> None:
        for rank in found:
            divided, whole = rank["fp16"]["scale"]
            assert divided == whole < 2.0**30
            assert rank["fp16"]["moved"] > 1e-3
            for ours, theirs in rank["fp16"]["steps"]:
                assert ours == pytest.approx(theirs, rel=1e-3)
            assert rank["fp16"]["weights"] < 1e-3

    def test_numbers_that_are_not_finite_show_in_all_processes(self, found: list[dict[str, Any]]) -> None:
        for rank in found:
            assert re.match(
                r"loss .* at step 1; the weights were not updated; of the step's pairs, rank \d had \d.*\. Fix: ",
                rank["spoiled"]["step"],
            )
            assert rank["spoiled"]["weights"].startswith(
                "the update of step 7 left numbers in src_embedding.weight that"
            )


def test_each_process_holds_its_part(found: list[dict[str, Any]]) -> None:
    for rank in found:
        seen, whole = rank["memory"], rank["memory"]["whole"]
        share = 1 / len(found)
        for part, copies in (("weights", 1), ("gradients", 1), ("average", 1), ("state", 2)):
            assert seen[part] == pytest.approx(copies * share * whole, rel=0.1), part
        assert seen["other gradients"] == seen["open"] == 0
        assert seen["embeddings"] == 0, "no whole embedding is left anywhere"
    for part, copies in (("weights", 1), ("gradients", 1), ("average", 1), ("state", 2)):
        assert sum(rank["memory"][part] for rank in found) == copies * found[0]["memory"]["whole"]


def test_the_first_process_translates_with_a_whole_model(found: list[dict[str, Any]]) -> None:
    assert [rank["translated"]["asked"] for rank in found] == [[1]] + [[]] * (len(found) - 1)
    assert len({rank["translated"]["score"] for rank in found}) == 1
    assert found[0]["translated"]["same"] == 0


def test_what_cannot_be_divided(found: list[dict[str, Any]]) -> None:
    for rank, seen in enumerate(found):
        told = "the weights that processes begin with differ: "
        assert seen["refused"]["weights"].startswith(told)
        assert seen["refused"]["weights"].startswith(f"{told}not the same on rank 1 as on rank 0.") == (rank == 0)
        assert seen["refused"]["begun"] == (
            "the optimizer has made steps with the whole model already. Fix: give a new one."
        )
        assert seen["refused"]["shared"] == (
            "layers that share weights cannot be divided. Fix: set system.shard to false."
        )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return settings_file(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def straight(config: Path) -> Path:
    """The run of one process that was never stopped, and is told to divide what there is nobody to divide with."""
    run = config.parent / "straight"
    (ended,) = together(1, train(config, run, *STEPS, "system.shard=true"))
    assert ended.code == 0, ended.err
    assert "divided" not in ended.err
    return run


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def assert_alike(run: Path, straight: Path) -> None:
    """Both runs saw the same batches and tell the same losses; the weights for use and the checkpoints are close."""
    mine, expected = lines(run), lines(straight)
    assert len(mine) == len(expected) > 40
    for ours, theirs in zip(mine, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == (pytest.approx(value, rel=EXACT) if isinstance(value, float) else value), name
    files = [Path("model") / ckpt.MODEL]
    for checkpoint in ckpt.checkpoints(straight / "checkpoints"):
        files += [file.relative_to(straight) for file in checkpoint.glob("*.safetensors")]
    assert len(files) > 6
    for file in files:
        weights, others = load_file(run / file), load_file(straight / file)
        assert weights.keys() == others.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, others[name], rtol=1e-3, atol=1e-4, msg=f"{file}: {name}")


def ended_well(count: int, command: Sequence[str]) -> str:
    """What the first of so many processes said."""
    ended = together(count, command)
    assert [one.code for one in ended] == [0] * count, ended
    return ended[0].err


class TestRuns:
    def test_one_process_divides_nothing(self, config: Path, straight: Path, tmp_path: Path) -> None:
        ended_well(1, train(config, tmp_path / "run", *STEPS))
        assert outcome(tmp_path / "run") == outcome(straight)

    @pytest.mark.parametrize(
        ("count", "beside"), [(2, "false"), (2, "true"), pytest.param(3, "false", marks=pytest.mark.slow)]
    )
    def test_any_number_of_processes_is_like_one(
        self, count: int, beside: str, config: Path, straight: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        settings = (*STEPS, "system.shard=true", f"training.save_in_background={beside}")
        said = ended_well(count, train(config, run, *settings))
        assert f"weights, gradients and optimizer state are divided among {count} processes" in said
        assert_alike(run, straight)
        assert any("system.shard is on" in reason for reason in changed_environment(run))
        assert load(run).translate(["ab cd"]) == load(straight).translate(["ab cd"])

    @pytest.mark.slow
    def test_stopped_by_a_signal_and_on_in_one_process(self, config: Path, straight: Path, tmp_path: Path) -> None:
        """Its checkpoint is an ordinary one."""
        run = tmp_path / "run"
        stopped(start(2, train(config, run, *STEPS, "system.shard=true")), run, after=10)
        load(run)
        ended_well(1, resume(run))
        assert_alike(run, straight)

    @pytest.mark.slow
    def test_other_numbers_go_on(self, config: Path, straight: Path, tmp_path: Path) -> None:
        """Divided in two, one, whole in each of four, divided in three, and in two."""
        run = tmp_path / "run"
        stopped(start(2, train(config, run, *STEPS, "system.shard=true")), run, after=6)
        stopped(start(1, resume(run)), run, after=14)
        told = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(told.replace("shard: true", "shard: false"))
        stopped(start(4, [*resume(run), "--override"]), run, after=21)
        (run / "config.yaml").write_text(told)
        stopped(start(3, [*resume(run), "--override"]), run, after=28)
        ended_well(2, resume(run))
        assert_alike(run, straight)

    @pytest.mark.slow
    def test_average_of_checkpoints(self, config: Path, tmp_path: Path) -> None:
        """Of the last ones, where it is better than the best."""
        settings = (*STEPS, "training.average_checkpoints=3", "training.ema_decay=0")
        said = [
            ended_well(count, train(config, tmp_path / str(count), *settings, "system.shard=true")) for count in (1, 2)
        ]
        verdicts = [re.findall(r"average of the last 3 checkpoints: .*", text) for text in said]
        assert verdicts[0] == verdicts[1] != []
        assert_alike(tmp_path / "2", tmp_path / "1")
