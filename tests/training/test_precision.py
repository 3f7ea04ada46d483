"""Which number format is chosen, and in which one products then run."""

import pytest
import torch

from pytorch_dl.training import precision as module
from pytorch_dl.training.precision import autocast, choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("setting", "bf16_seconds", "expected"),
    [
        (False, 0.1, "fp32"),
        (True, 0.5, "bf16"),
        (True, 0.9, "fp32"),
        (True, 100.0, "fp32"),
        ("bf16", 100.0, "bf16"),
        ("fp16", 100.0, "fp16"),
    ],
)
def test_choice_on_a_cpu(
    setting: bool | str, bf16_seconds: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_seconds", {torch.bfloat16: bf16_seconds, torch.float32: 1.0}.__getitem__)
    assert choose_precision(setting, CPU) == expected


def test_a_pause_of_the_machine_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 is four times as fast; but the machine pauses while it is first timed."""
    pauses = iter([5.0] * (module.TIMED_ROUNDS - 1))
    seconds = {torch.bfloat16: 0.25, torch.float32: 1.0}
    monkeypatch.setattr(
        module, "_seconds", lambda dtype: seconds[dtype] + (next(pauses, 0.0) if dtype == torch.bfloat16 else 0.0)
    )
    assert choose_precision(True, CPU) == "bf16"


def test_a_busy_machine_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several threads never run at once, bf16 seems slow: timed is one, and then there are as many as before."""
    before = torch.get_num_threads()
    seen: set[int] = set()

    def seconds(dtype: torch.dtype) -> float:
        seen.add(torch.get_num_threads())
        return 0.25 if dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(module, "_seconds", seconds)
    torch.set_num_threads(before + 1)
    try:
        assert choose_precision(True, CPU) == "bf16"
        assert seen == {1} and torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp16")])
def test_choice_on_a_gpu(supported: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert choose_precision(True, torch.device("cuda")) == expected


def test_the_choice_by_time_is_one_of_both() -> None:
    assert choose_precision(True, CPU) in ("bf16", "fp32")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_run_in_the_format(precision: module.Precision, dtype: torch.dtype) -> None:
    x = torch.ones(2, 2)
    with autocast(precision, CPU):
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32
