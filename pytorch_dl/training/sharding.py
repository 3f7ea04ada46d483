"""A model divided among processes: each holds some rows of every weight, of its gradient and of the optimizer's state.

torch's `fully_shard` puts a layer's weights together before it is computed, and adds the gradients up after. Outside of
that a divided weight is a DTensor of the whole's shape, and `held` gives the rows that this process has of it, as plain
numbers: the optimizer and all that surrounds it work on them. What is not divided is held as a whole, and every
function here then does nothing: whoever calls them need not ask.

Shapes: R rows of a whole tensor, W processes; process r holds the rows from r * ceil(R / W) on.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import ConfigError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.peers import GradientSum, Peers


class Gradients(Protocol):
    """How a step's gradients are added up."""

    def add_round(self, slots: int) -> None:
        """Take in the gradients of one batch of each of the first `slots` processes."""

    def spread(self) -> None:
        """Let the numbers that this process holds have the sum."""


def divide(model: OptimizedTransformer, optimizer: torch.optim.Optimizer, peers: Peers) -> None:
    """Leave of the model's weights, which are the same in all processes, a part in each; and of what `optimizer` does.

    The optimizer is given rows of tensors, so that it must treat each number by itself, as Adam and SGD do.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if optimizer.state:
        raise ConfigError("the optimizer has made steps with the whole model already", fix="give a new one")
    _refuse_shared(model)
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    plan = copy.deepcopy(model, {**empty, **_themselves(model.buffers())})
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = [[names.get(parameter, parameter) for parameter in group["params"]] for group in optimizer.param_groups]
    names.clear()
    for group in optimizer.param_groups:
        group["params"] = []  # or it would keep the whole weights
    mesh = init_device_mesh(peers.device.type, (peers.size,))
    try:
        for module in (*model.encoder_layers, *model.decoder_layers, model):
            fully_shard(module, mesh=mesh)
            assert isinstance(module, FSDPModule)
            module.set_gradient_divide_factor(1.0)  # a sum: the loss is divided by the tokens of all
            module.set_force_sum_reduction_for_comms(True)  # which gloo has, and no other
    except (NotImplementedError, ValueError) as error:
        raise ConfigError(f"the model cannot be divided: {error}", fix="set system.shard to false") from error
    register_fsdp_forward_method(model, "hidden")
    rows: dict[Any, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        part: Any = parameter
        part.held = rows[name] = nn.Parameter(part.detach().to_local(), parameter.requires_grad)  # the same memory
    for group, parameters in zip(optimizer.param_groups, order, strict=True):
        group["params"] = [rows.get(parameter, parameter) for parameter in parameters]
    vars(model)["_plan"] = plan  # not as one of its modules


def is_divided(model: nn.Module) -> bool:
    """Whether this process holds a part of the model."""
    return "_plan" in vars(model)


def held(tensor: Tensor) -> Tensor:
    """The numbers of a weight, or of a copy of one, that this process holds: of a weight always the same tensor."""
    if not _is_part(tensor):
        return tensor
    part: Any = tensor
    rows: Tensor = part.held if hasattr(part, "held") else part.to_local()
    return rows


def held_parameters(model: nn.Module) -> list[Tensor]:
    """The same, of all weights of a model."""
    return [held(parameter) for parameter in model.parameters()]


def own_rows(weight: Tensor, whole: Tensor) -> Tensor:
    """What this process holds of `whole`, which has the shape of a weight."""
    if not _is_part(weight):
        return whole
    mesh = _mesh(weight)
    count = math.ceil(weight.size(0) / mesh.size())
    start = count * mesh.get_local_rank()
    return whole[start : start + count].clone()  # or the whole would be kept with it


def as_part(weight: Tensor, state: Tensor) -> Tensor:
    """Optimizer state of the numbers held of a weight, as the part of a whole that it is."""
    if not _is_part(weight) or not state.ndim:
        return state
    from torch.distributed.tensor import DTensor, Shard

    if state.shape != held(weight).shape:
        raise ConfigError(
            f"the optimizer keeps state of shape {tuple(state.shape)} for weights of {tuple(held(weight).shape)}: "
            "it cannot be put together from the processes",
            fix="use another optimizer, or set system.shard to false",
        )
    part: Tensor = DTensor.from_local(
        state, _mesh(weight), [Shard(0)], run_check=False, shape=weight.shape, stride=weight.stride()
    )
    return part


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, in the first process; of divided ones the others have none. All must call it.

    They are put together one by one: besides what it returns, no process holds more than one of them as a whole.
    """
    every = ((name, _whole(tensor)) for name, tensor in tensors.items())
    return {name: tensor for name, tensor in every if tensor is not None}


def whole_norm(model: nn.Module, norm: Tensor) -> Tensor:
    """The norm of all gradients, from that of the gradients which this process holds."""
    if not is_divided(model):
        return norm
    square = norm.double().square()
    dist.all_reduce(square)
    return square.sqrt().to(norm.dtype)


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, in all processes."""
    own = held(tensor)
    of_8_bits = own.is_floating_point() and own.element_size() == 1  # for which torch has no such test
    finite = (own.float() if of_8_bits else own).isfinite().all().int()
    if _is_part(tensor):
        dist.all_reduce(finite, dist.ReduceOp.MIN)
    return bool(finite)


def exchanging(model: nn.Module, peers: Peers) -> AbstractContextManager[None]:
    """For passes through a model: of a divided one they fail where a process is gone, which is told then."""
    return peers.together() if is_divided(model) else nullcontext()


def gradient_sum(model: nn.Module, peers: Peers, *, idle: Callable[[], object]) -> Gradients:
    """Of a model in several processes; `idle` computes a batch that counts nothing."""
    return _AddedInPasses(model, peers, idle) if is_divided(model) else GradientSum(peers, list(model.parameters()))


def made_up_batch(model: OptimizedTransformer) -> Batch:
    """A pair of one token, for a process that has nothing to compute: the others need its weights all the same."""
    token = torch.tensor([[int(model.pad_token_id == 0)]])
    return Batch.from_padded(token, token.expand(1, 2), pad_id=model.pad_token_id)


def close(model: nn.Module) -> None:
    """Give back the weights that passes without gradients have left whole."""
    if is_divided(model):
        part: Any = model
        part.reshard()


@contextmanager
def whole_copy(model: OptimizedTransformer) -> Iterator[OptimizedTransformer]:
    """The model as it was before it was divided, for the first process; all must enter, the others get it divided.

    A search calls layers as often as its texts ask for, which the other processes could not follow.
    """
    if not is_divided(model):
        yield model
        return
    weights = gathered({name: parameter.detach() for name, parameter in model.named_parameters()})
    if not weights:
        yield model
        return
    plan: OptimizedTransformer = vars(model)["_plan"]
    device = next(model.parameters()).device
    filled = {id(p): nn.Parameter(weights.pop(name).to(device)) for name, p in plan.named_parameters()}
    yield copy.deepcopy(plan, {**filled, **_themselves(plan.buffers())}).train(model.training)


class SharedScaler(torch.amp.GradScaler):
    """The scale of losses of a divided model: gradients that overflow in one process do so in all."""

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Also let all know whether any gradient overflowed."""
        super().unscale_(optimizer)
        for found in self._found_inf_per_device(optimizer).values() if self.is_enabled() else ():
            dist.all_reduce(found, dist.ReduceOp.MAX)  # fused optimizers look for a 1


class _AddedInPasses:
    """The gradients of divided weights, which each backward pass adds up over all processes."""

    def __init__(self, model: nn.Module, peers: Peers, idle: Callable[[], object]) -> None:
        self._model, self._peers, self._idle = model, peers, idle

    def add_round(self, slots: int) -> None:
        if self._peers.rank >= slots:
            self._idle()

    def spread(self) -> None:
        for parameter in self._model.parameters():
            gradient: Any = parameter.grad
            held(parameter).grad = None if gradient is None else gradient.to_local()
            parameter.grad = None


def _refuse_shared(model: OptimizedTransformer) -> None:
    """Raise where a weight is in two of the parts that are put together one after the other."""
    layers = [*model.encoder_layers, *model.decoder_layers]
    inside = [parameter for layer in layers for parameter in layer.parameters()]
    outside = {
        parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not name.startswith(("encoder_layers.", "decoder_layers."))
    }
    if len({*inside} | outside) < len(inside) + len(outside):
        raise ConfigError("layers that share weights cannot be divided", fix="set system.shard to false")


def _is_part(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")


def _mesh(tensor: Tensor) -> Any:
    part: Any = tensor
    return part.device_mesh


def _themselves(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """What a deep copy is to share rather than copy."""
    return {id(tensor): tensor for tensor in tensors}


def _whole(tensor: Tensor) -> Tensor | None:
    """The tensor in the host's memory of the first process; None in others. One that is not divided is returned."""
    if not _is_part(tensor):
        return tensor
    mesh, own = _mesh(tensor), held(tensor).detach()
    rows = math.ceil(tensor.size(0) / mesh.size())
    padded = own.new_zeros(rows, *own.shape[1:])
    padded[: len(own)] = own
    if mesh.get_local_rank():
        dist.gather(padded, dst=0)
        return None
    whole = own.new_empty(mesh.size() * rows, *own.shape[1:])
    dist.gather(padded, list(whole.chunk(mesh.size())), dst=0)
    return whole[: tensor.size(0)].cpu()
