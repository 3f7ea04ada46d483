"""Checkpoints: every bit comes back, and whatever is wrong with one is named."""

import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from pytorch_dl.config.model_config import OptimizerConfig
from pytorch_dl.errors import CheckpointError, ConfigError, ResourceError
from pytorch_dl.files import MANIFEST, damage, sha256
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.optimizer import make_optimizer

Trained = tuple[OptimizedTransformer, torch.optim.Optimizer]


def trained(*, name: str = "adamw", seed: int = 0, steps: int = 2, **shape: Any) -> Trained:
    """A model and its optimizer after some steps."""
    model = tiny_model(seed=seed, **shape)
    optimizer = make_optimizer(model, OptimizerConfig(name=name), learning_rate=0.1)
    for _ in range(steps):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.randn_like(parameter) * (number + 1)
        optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, trained: Trained, *, average: dict[str, torch.Tensor] | None = None) -> Path:
    return ckpt.save_checkpoint(folder, step, ckpt.contents(*trained, average), state={"step": step})


def refreshed(path: Path) -> Path:
    """Make the manifest of a changed checkpoint right, as someone who wants to deceive would."""
    sums = {file.name: sha256(file) for file in sorted(path.iterdir()) if file.name != MANIFEST}
    (path / MANIFEST).write_text(json.dumps(sums))
    assert damage(path) is None
    return path


class TestRoundTrip:
    @pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
    def test_model_and_optimizer(self, name: str, tmp_path: Path) -> None:
        model, optimizer = trained(name=name)
        path = save(tmp_path, 12, (model, optimizer))
        assert path.name == "step-00000012"
        other, other_optimizer = trained(name=name, seed=5, steps=0)
        ckpt.load_weights(other, ckpt.read_tensors(path / ckpt.MODEL), where="here")
        ckpt.load_optimizer(other, other_optimizer, path / ckpt.OPTIMIZER)
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, theirs)
            states = optimizer.state[mine], other_optimizer.state[theirs]
            assert states[0].keys() == states[1].keys() != set()
            assert all(torch.equal(states[0][key], states[1][key]) for key in states[0] if states[0][key] is not None)
        assert ckpt.read_state(path) == {"step": 12}

    def test_the_next_step_is_the_same(self, tmp_path: Path) -> None:
        pairs = [trained(), trained(seed=5, steps=0)]
        path = save(tmp_path, 1, pairs[0])
        ckpt.load_weights(pairs[1][0], ckpt.read_tensors(path / ckpt.MODEL), where="here")
        ckpt.load_optimizer(*pairs[1], path / ckpt.OPTIMIZER)
        for model, optimizer in pairs:
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        for mine, theirs in zip(pairs[0][0].parameters(), pairs[1][0].parameters(), strict=True):
            assert torch.equal(mine, theirs)

    def test_optimizer_state_of_another_shape(self, tmp_path: Path) -> None:
        pairs = [(model := tiny_model(), torch.optim.Adafactor(model.parameters())) for _ in range(2)]
        for number, (model, optimizer) in enumerate(pairs):
            if number:
                ckpt.load_optimizer(model, optimizer, save(tmp_path, 1, pairs[0]) / ckpt.OPTIMIZER)
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        first, second = (optimizer.state_dict()["state"] for _, optimizer in pairs)
        assert first[0]["step"] == 1
        assert second[0]["step"] == 2
        assert first[0]["col_var"].shape == second[0]["col_var"].shape != pairs[0][0].src_embedding.weight.shape

    def test_optimizer_state_that_is_a_number_stays_one(self, tmp_path: Path) -> None:
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters())
        state = {"count": 3, "rate": 0.1, "scale": torch.tensor(2.0), "nothing": None}
        optimizer.state[model.output.weight] = dict(state)
        path = save(tmp_path, 1, (model, optimizer))
        optimizer.state.clear()
        ckpt.load_optimizer(model, optimizer, path / ckpt.OPTIMIZER)
        found = optimizer.state[model.output.weight]
        assert found == {name: value for name, value in state.items() if value is not None}
        assert [type(found[name]) for name in ("count", "rate", "scale")] == [int, float, torch.Tensor]

    def test_optimizer_state_that_is_no_tensor_is_refused(self, tmp_path: Path) -> None:
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters())
        optimizer.state[model.output.weight] = {"count": [3]}
        with pytest.raises(ConfigError) as caught:
            save(tmp_path, 1, (model, optimizer))
        assert str(caught.value) == (
            "SGD keeps 'count' of src_embedding.weight as list, neither tensor nor number: it could not be resumed. "
            "Fix: use another optimizer, or train without a checkpoint_dir."
        )
        assert not ckpt.checkpoints(tmp_path)

    def test_optimizer_state_that_the_optimizer_cannot_take_is_refused(self, tmp_path: Path) -> None:
        model, optimizer = trained()
        path = save(tmp_path, 1, (model, optimizer)) / ckpt.OPTIMIZER
        lacking = {name: tensor for name, tensor in load_file(path).items() if not name.endswith("/step")}
        save_file(lacking, path, metadata={"optimizer": "AdamW"})
        with pytest.raises(CheckpointError) as caught:
            ckpt.load_optimizer(*trained(seed=5, steps=0), path)
        first = min(name for name, _ in model.named_parameters())
        assert str(caught.value).startswith(f"{path}: optimizer state '{first}/step' is missing. Fix: restore it")

    def test_weights_that_lie_otherwise_in_memory(self, tmp_path: Path) -> None:
        """As a layer of a user's own may have them, and with them their moving average."""
        model = torch.nn.Linear(3, 2)
        model.weight = torch.nn.Parameter(torch.arange(6.0).view(3, 2).t())
        average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        assert not average["weight"].is_contiguous()
        path = save(tmp_path, 1, (model, torch.optim.SGD(model.parameters())), average=average)
        assert (
            ckpt.weights_of(tmp_path, 1)["weight"].tolist() == ckpt.read_tensors(path / ckpt.MODEL)["weight"].tolist()
        )

    @pytest.mark.parametrize("tie", ["all", "decoder", "none"])
    def test_tied_weights_are_saved_once(self, tie: str, tmp_path: Path) -> None:
        model, _ = trained(tie_embeddings=tie)
        weights = ckpt.model_weights(model)
        assert (
            sum("embedding" in name or "output" in name for name in weights) == {"all": 1, "decoder": 2, "none": 3}[tie]
        )
        assert sum(tensor.numel() for tensor in weights.values()) >= model.num_parameters()
        other = tiny_model(seed=9, tie_embeddings=tie)
        ckpt.load_weights(other, weights, where="here")
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_dtypes(self, dtype: torch.dtype, tmp_path: Path) -> None:
        model = tiny_model(dtype=dtype, positions="learned")
        path = save(tmp_path, 1, (model, make_optimizer(model, OptimizerConfig(), learning_rate=0.1)))
        tensors = ckpt.read_tensors(path / ckpt.MODEL)
        assert {tensor.dtype for tensor in tensors.values()} == {dtype}
        assert ckpt.count_numbers(path / ckpt.MODEL) == model.num_parameters()
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in tensors.items())

    def test_an_optimizer_before_its_first_step(self, tmp_path: Path) -> None:
        path = save(tmp_path, 0, trained(steps=0))
        model, optimizer = trained(steps=0)
        ckpt.load_optimizer(model, optimizer, path / ckpt.OPTIMIZER)
        assert not optimizer.state

    def test_an_optimizer_of_other_parameters_too(self, tmp_path: Path) -> None:
        """A user's own optimizer may hold part of the model, in another order."""

        def partial() -> Trained:
            model = tiny_model()
            some = [p for p in model.parameters() if p.ndim == 1][::-1]
            return model, torch.optim.AdamW([*some, torch.zeros(3, requires_grad=True)], lr=0.1)

        model, optimizer = partial()
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        path = save(tmp_path, 1, (model, optimizer))
        other, other_optimizer = partial()
        ckpt.load_optimizer(other, other_optimizer, path / ckpt.OPTIMIZER)
        mine, theirs = (dict(m.named_parameters()) for m in (model, other))
        loaded = [name for name in theirs if other_optimizer.state[theirs[name]]]
        assert len(loaded) == len(optimizer.param_groups[0]["params"]) - 1 > 2
        for name in loaded:
            assert torch.equal(optimizer.state[mine[name]]["exp_avg"], other_optimizer.state[theirs[name]]["exp_avg"])


class TestFaults:
    """Weights and optimizer state that do not fit are refused, and nothing of them is taken."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("encoder_norm.weight"), "tensor 'encoder_norm.weight' is missing from the file"),
            (lambda t: t.update(more=torch.zeros(1)), "tensor 'more' is not part of this model"),
            (
                lambda t: t.update({"encoder_norm.weight": torch.zeros(17)}),
                r"tensor 'encoder_norm.weight' has shape \(17,\), the model expects \(16,\)",
            ),
            (lambda t: t["encoder_norm.weight"].fill_(float("nan")), "tensor 'encoder_norm.weight' holds"),
            (lambda t: t["encoder_norm.weight"][3].fill_(float("inf")), "tensor 'encoder_norm.weight' holds"),
        ],
    )
    def test_weights(self, change: Callable[[dict[str, torch.Tensor]], Any], message: str) -> None:
        model = tiny_model()
        before = {name: p.clone() for name, p in model.state_dict().items()}
        weights = {name: tensor.clone() for name, tensor in ckpt.model_weights(tiny_model(seed=3)).items()}
        change(weights)
        with pytest.raises(CheckpointError, match=f"^here: {message}.* Fix: "):
            ckpt.load_weights(model, weights, where="here")
        assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())

    @pytest.mark.parametrize(
        ("name", "tensor", "message"),
        [
            ("nothing/exp_avg", torch.zeros(1), "optimizer state of unknown parameter 'nothing'"),
            ("exp_avg", torch.zeros(1), "optimizer state of unknown parameter ''"),
            (
                "encoder_norm.weight/exp_avg",
                torch.zeros(4),
                r"tensor 'encoder_norm.weight/exp_avg' has shape \(4,\), the model expects \(16,\)",
            ),
            ("encoder_norm.weight/exp_avg", torch.full((16,), float("nan")), "holds numbers that are not finite"),
            ("encoder_norm.weight/step", torch.tensor(float("inf")), "'encoder_norm.weight/step' holds numbers"),
        ],
    )
    def test_optimizer(self, name: str, tensor: torch.Tensor, message: str, tmp_path: Path) -> None:
        path = save(tmp_path, 1, trained()) / ckpt.OPTIMIZER
        save_file({**load_file(path), name: tensor}, path, metadata={"optimizer": "AdamW"})
        model, optimizer = trained(steps=0)
        with pytest.raises(CheckpointError, match=f"{path}: .*{message}.* Fix: "):
            ckpt.load_optimizer(model, optimizer, path)
        assert not optimizer.state

    def test_another_kind_of_optimizer(self, tmp_path: Path) -> None:
        path = save(tmp_path, 1, trained(name="sgd"))
        with pytest.raises(CheckpointError, match=r"was written by the optimizer SGD, not AdamW\. Fix: set optimizer"):
            ckpt.load_optimizer(*trained(steps=0), path / ckpt.OPTIMIZER)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\0" * 7,
            b"\x80\x04\x95.",
            struct.pack("<Q", 2**63) + b"{}",
            struct.pack("<Q", 2) + b"[]",
            struct.pack("<Q", 90) + b'{"a":{"dtype":"F32","shape":[9999999,9999999],"data_offsets":[0,4]}}'.ljust(90),
            struct.pack("<Q", 90)
            + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,40000000]}}'.ljust(90)
            + b"0000",
            struct.pack("<Q", 2**27) + b"{" * 2**10,
        ],
        ids=["empty", "short", "pickle", "huge header", "not an object", "huge shape", "beyond the end", "truncated"],
    )
    def test_a_file_that_is_no_safetensors(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.safetensors: not a readable safetensors file"):
            ckpt.read_tensors(tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match=r"x\.safetensors: not a readable safetensors file"):
            ckpt.load_optimizer(*trained(steps=0), tmp_path / "x.safetensors")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no\.safetensors: not a readable safetensors file"):
            ckpt.read_tensors(tmp_path / "no.safetensors")

    @pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b"3"])
    def test_state(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / ckpt.STATE).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"state\.json: (cannot be read|is not a JSON object)"):
            ckpt.read_state(tmp_path)


class TestNewestValid:
    def test_none_at_all(self, tmp_path: Path) -> None:
        assert ckpt.newest_valid(tmp_path / "nowhere", pytest.fail) is None

    def test_newest_by_step(self, tmp_path: Path) -> None:
        paths = [save(tmp_path, step, trained(steps=0)) for step in (9, 100, 20)]
        assert ckpt.newest_valid(tmp_path, pytest.fail) == paths[1]
        assert ckpt.checkpoints(tmp_path) == [paths[1], paths[2], paths[0]]

    def test_a_damaged_one_is_named_and_the_one_before_is_taken(self, tmp_path: Path) -> None:
        older, newer = (save(tmp_path, step, trained(steps=0)) for step in (1, 2))
        with open(newer / ckpt.MODEL, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x55")
        told: list[str] = []
        assert ckpt.newest_valid(tmp_path, told.append) == older
        assert told == ["skipping checkpoint step-00000002: model.safetensors does not match its checksum"]

    def test_none_whole(self, tmp_path: Path) -> None:
        for step in (1, 2):
            (save(tmp_path, step, trained(steps=0)) / MANIFEST).unlink()
        told: list[str] = []
        with pytest.raises(CheckpointError, match=f"^{tmp_path}: none of the 2 checkpoints is whole"):
            ckpt.newest_valid(tmp_path, told.append)
        assert len(told) == 2

    @pytest.mark.parametrize("kind", ["flip", "cut", "empty", "drop"])
    def test_any_damage_to_any_file_is_seen(self, kind: str, tmp_path: Path) -> None:
        path = save(tmp_path, 1, trained(), average=dict(tiny_model().named_parameters()))
        files = sorted(path.iterdir())
        assert len(files) == 5
        for file in files:
            content = file.read_bytes()
            if kind == "drop":
                file.unlink()
            else:
                middle = len(content) // 2
                flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
                file.write_bytes({"flip": flipped, "cut": content[:-2], "empty": b""}[kind])
            assert damage(path) is not None, file.name
            file.write_bytes(content)
            assert damage(path) is None

    def test_refuse_existing(self, tmp_path: Path) -> None:
        ckpt.refuse_existing(tmp_path)
        save(tmp_path, 1, trained(steps=0))
        with pytest.raises(CheckpointError, match=f"^{tmp_path}: the folder already holds checkpoints"):
            ckpt.refuse_existing(tmp_path)


class TestUsableWeights:
    def test_the_moving_average_comes_first(self, tmp_path: Path) -> None:
        model, optimizer = trained()
        average = {name: p.detach() + 1 for name, p in model.named_parameters()}
        save(tmp_path, 1, (model, optimizer), average=average)
        save(tmp_path, 2, (model, optimizer))
        found = ckpt.weights_of(tmp_path, 1)
        assert all(torch.equal(found[name], average[name]) for name in average)
        plain = ckpt.weights_of(tmp_path, 2)
        assert all(torch.equal(plain[name], p) for name, p in model.named_parameters())

    def test_a_damaged_one_is_refused(self, tmp_path: Path) -> None:
        (save(tmp_path, 1, trained()) / ckpt.STATE).unlink()
        with pytest.raises(CheckpointError, match=r"step-00000001: state\.json is missing"):
            ckpt.weights_of(tmp_path, 1)

    def test_mean(self, tmp_path: Path) -> None:
        models = [trained(seed=seed) for seed in (0, 1, 2)]
        mean = ckpt.averaged(tiny_model(), [save(tmp_path, step, pair) for step, pair in enumerate(models)])
        for name, tensor in mean.items():
            stacked = torch.stack([pair[0].state_dict()[name] for pair in models])
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, stacked.double().mean(0).float(), rtol=0, atol=0)

    @pytest.mark.parametrize("newest", [True, False], ids=["the newest", "another"])
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.update(more=torch.zeros(1)), "'more' is not part of this model"),
            (lambda t: t.pop("encoder_norm.weight"), "'encoder_norm.weight' is missing from the file"),
            (lambda t: t.update({"encoder_norm.weight": torch.zeros(1)}), "'encoder_norm.weight' has shape"),
            (lambda t: t.update({"encoder_norm.weight": torch.zeros(16).char()}), "'encoder_norm.weight' has int8"),
            (lambda t: t["encoder_norm.weight"].fill_(torch.inf), "'encoder_norm.weight' holds numbers"),
        ],
        ids=["more", "fewer", "shape", "kind", "infinite"],
    )
    def test_a_mean_of_what_does_not_fit(
        self, change: Callable[[dict[str, torch.Tensor]], Any], message: str, newest: bool, tmp_path: Path
    ) -> None:
        """Each whole by its sums, as someone who wants to deceive would have it."""
        paths = [save(tmp_path, step, trained(seed=step)) for step in (3, 2, 1)]
        spoilt = paths[0 if newest else 1]
        tensors = {name: tensor.clone() for name, tensor in load_file(spoilt / ckpt.MODEL).items()}
        change(tensors)
        (spoilt / ckpt.MODEL).unlink()
        save_file(tensors, spoilt / ckpt.MODEL)
        refreshed(spoilt)
        with pytest.raises(CheckpointError, match=f"^{spoilt}: tensor {message}"):
            ckpt.averaged(tiny_model(), paths)


def test_a_full_disk_while_tensors_are_written(tmp_path: Path) -> None:
    """The library that writes tensors has an error of its own for it."""
    older = save(tmp_path, 1, trained())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ResourceError, match=r"step-00000002: no space left on the disk\. Fix: free"):
            save(tmp_path, 2, trained())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [older.name]
    assert damage(older) is None


def test_a_deceptive_checkpoint_is_refused_by_its_content(tmp_path: Path) -> None:
    path = save(tmp_path, 1, trained())
    (path / ckpt.MODEL).write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        ckpt.weights_of(tmp_path, int(refreshed(path).name[-8:]))
