"""The state's JSON, whole and hostile, and what counts as the best validation."""

import json
from typing import Any

import pytest

from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.errors import CheckpointError
from pytorch_dl.training.train_state import Sums, TrainState


def full_state() -> TrainState:
    return TrainState(
        step=7,
        epoch=2,
        batch=3,
        validated_step=6,
        best_step=4,
        best_value=0.1 + 0.2,
        stale_validations=1,
        seconds=1 / 3,
        metrics_position=99,
        metrics_sha256="0123456789abcdef" * 4,
        precision="fp16",
        since_log=Sums(steps=2, loss=1e300, nll=1 / 7, grad_norm=5e-324, src_tokens=8, tgt_tokens=9, positions=20),
        this_epoch=Sums(steps=1),
        scaler={"scale": 65536.0, "_growth_tracker": 5},
    )


def changed(path: str, value: Any) -> dict[str, Any]:
    values = json.loads(json.dumps(full_state().to_json()))
    *folders, name = path.split(".")
    inner = values
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    return values


@pytest.mark.parametrize("state", [TrainState(), full_state()], ids=["fresh", "full"])
def test_json_holds_every_bit(state: TrainState) -> None:
    read = TrainState.from_json(json.loads(json.dumps(state.to_json())), where="here")
    assert read == state
    assert repr(read) == repr(state)
    assert type(read.since_log) is type(read.this_epoch) is Sums


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("step", -1, "state step: .*greater than or equal to 0, got -1"),
        ("step", 1.0, "state step: .*, got 1.0"),
        ("step", True, "state step: .*, got True"),
        ("step", "7", "state step: .*, got '7'"),
        ("step", None, "state step: .*, got None"),
        ("epoch", [], r"state epoch: .*, got \[\]"),
        ("batch", 1e400, "state batch: .*, got inf"),
        ("best_value", "low", "state best_value: .*, got 'low'"),
        ("best_value", float("nan"), "state best_value: .*, got nan"),
        ("seconds", float("inf"), "state seconds: .*, got inf"),
        ("metrics_sha256", "0123", "state metrics_sha256: .*, got '0123'"),
        ("seconds", 1e308, r"state seconds: .*, got 1e\+308"),
        ("seconds", 10**400, "state seconds: .*, got 1000"),
        ("seconds", -1.0, "state seconds: .*, got -1.0"),
        ("epoch", 2**53 + 1, "state epoch: .*, got 9007199254740993"),
        ("best_value", -1e301, r"state best_value: .*, got -1e\+301"),
        ("validated_step", 8, "state validated_step: 8 lies after its step 7"),
        ("best_step", 8, "state best_step: 8 lies after its step 7"),
        ("since_log.src_tokens", 10**400, "state since_log.src_tokens: .*, got 1000"),
        ("this_epoch.nll", 1e301, r"state this_epoch.nll: .*, got 1e\+301"),
        ("precision", "fp8", "state precision: .*, got 'fp8'"),
        ("precision", None, "state precision: .*, got None"),
        ("since_log", 3, "state since_log: .*, got 3"),
        ("since_log.loss", "0", "state since_log.loss: .*, got '0'"),
        ("since_log.steps", -2, "state since_log.steps: .*, got -2"),
        ("this_epoch.surprise", 1, "state this_epoch.surprise: .*, got 1"),
        ("scaler", {"scale": "big"}, "state scaler.scale.*, got 'big'"),
        ("scaler", {"scale": float("nan")}, "state scaler.scale.*, got nan"),
        ("surprise", 1, "other fields than expected: surprise"),
    ],
)
def test_hostile_values_are_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^here: {message}" if "state" in message else message):
        TrainState.from_json(changed(path, value), where="here")


@pytest.mark.parametrize("name", TrainState().to_json())
def test_a_missing_field_is_named(name: str) -> None:
    values = full_state().to_json()
    del values[name]
    with pytest.raises(
        CheckpointError, match=f"^here: state has other fields than expected: {name}. Fix: go on with the"
    ):
        TrainState.from_json(values, where="here")


def test_sums_add_up() -> None:
    sums = Sums(steps=1, loss=2.0, src_tokens=3, positions=10)
    sums.add(Sums(steps=1, loss=0.5, nll=4.0, tgt_tokens=2, positions=10))
    assert sums == Sums(steps=2, loss=2.5, nll=4.0, src_tokens=3, tgt_tokens=2, positions=20)
    assert sums.efficiency == 0.25
    assert Sums().efficiency == 0


def noted(values: list[float], **settings: Any) -> tuple[list[bool], TrainState]:
    state, better = TrainState(), []
    for value in values:
        state.step += 10
        better.append(state.note_validation(value, TrainingConfig(**settings)))
    return better, state


def test_best_validation_and_patience() -> None:
    better, state = noted([3.0, 2.0, 2.0, 2.5])
    assert better == [True, True, False, False]
    assert (state.best_step, state.best_value, state.stale_validations, state.validated_step) == (20, 2.0, 2, 40)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "exact_match"])
def test_of_a_score_the_higher_is_better(metric: str) -> None:
    better, state = noted([3.0, 2.0, 4.0], early_stopping_metric=metric)
    assert better == [True, False, True]
    assert (state.best_step, state.best_value, state.stale_validations) == (30, 4.0, 0)


def test_small_progress_is_none() -> None:
    better, state = noted([3.0, 2.75, 2.5, 2.25], early_stopping_min_delta=0.5)
    assert better == [True, False, True, False]
    assert (state.best_step, state.stale_validations) == (30, 1)
