"""data.max_tokens_per_batch: auto. What training takes of a device's memory, by batches that are tried before it.

On a CPU only small ones are: what asks for too much there is killed without an error. What is tried has a model and an
optimizer of its own, and the layers are not compiled: that would take half a minute for each size, and compiled layers
need less.
"""

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pytorch_dl.config import Config
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.errors import ResourceError, is_out_of_memory
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.available_memory import available_memory
from pytorch_dl.training.live_memory import peak_of
from pytorch_dl.training.optimizer import make_optimizer
from pytorch_dl.training.peers import ALONE, Peers
from pytorch_dl.training.step_division import divide_step
from pytorch_dl.training.traces import MEMORY, events_of, new_profiler
from pytorch_dl.training.trainer import OptimizedTrainer

GPU_SHARE, CPU_SHARE = 0.9, 0.8  # of what is free: the rest is for gaps, and on a CPU for what is not a tensor
ENOUGH_ON_A_CPU = 4096  # tokens: twice as many as 2,048 are 9 % faster, by benchmark/results/growth.json, and then less
MakeModel = Callable[[], OptimizedTransformer]


@dataclass(frozen=True)
class DeviceMemory:
    """That of the device of a configuration's model, for the batches of a loader."""

    config: Config
    loader: BatchLoader
    make_model: MakeModel
    device: torch.device
    allowed: int
    tells: bool
    enough: int | None

    @classmethod
    def of(cls, config: Config, loader: BatchLoader, make_model: MakeModel, device: torch.device) -> "DeviceMemory":
        """What is free there now; on a CPU, a part of it for each process of this machine."""
        if device.type == "cuda":
            _give_back(device)
            allowed = int(GPU_SHARE * torch.cuda.mem_get_info(device)[0])
            return cls(config, loader, make_model, device, allowed, tells=True, enough=None)
        allowed = int(CPU_SHARE * available_memory()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return cls(config, loader, make_model, device, allowed, tells=False, enough=ENOUGH_ON_A_CPU)

    def peak(self, tokens: int) -> int | None:
        """Measure two optimizer steps of two batches: the second ones find gradients and optimizer state there."""
        batch = self.loader.fullest(tokens)
        gc.collect()  # now, not while it is measured
        try:
            return self._gpu_peak(batch) if self.device.type == "cuda" else _live_bytes(lambda: self._train(batch))
        except (MemoryError, RuntimeError, ResourceError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _gpu_peak(self, batch: Batch) -> int:
        _give_back(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            gradients = self._train(batch)  # recorded passes have them once more
            return torch.cuda.max_memory_allocated(self.device) - before + gradients
        finally:
            _give_back(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)

    def _train(self, batch: Batch) -> int:
        """The steps, which leave the weights as they are; returns the bytes of all gradients."""
        model = self.make_model()
        trainer = OptimizedTrainer(
            model,
            [],
            optimizer=make_optimizer(model, self.config.optimizer, learning_rate=0.0),
            training=self.config.training,
            gradient_accumulation_steps=2,
            seed=self.config.system.seed,
            peers=ALONE,
        )
        for _ in range(2):
            trainer.train_step([batch, batch], total_steps=2)
        return sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)


def _give_back(device: torch.device) -> None:
    """What a failed trial still holds, errors and their frames included."""
    gc.collect()
    with torch.cuda.device(device):
        torch.cuda.empty_cache()


def _live_bytes(work: Callable[[], object]) -> int:
    """The most bytes that tensors made by a work hold at once on the host."""
    profiler = new_profiler(torch.device("cpu"), memory=True)
    with profiler:
        work()
    return peak_of(event for event in events_of(profiler) if event.get("name") == MEMORY)


def resolve(
    config: Config, loader: BatchLoader, make_model: MakeModel, *, device: torch.device, peers: Peers
) -> tuple[Config, str]:
    """The configuration with numbers in place of auto, the same on all processes, and a line that tells of them."""
    step_tokens = config.training.tokens_per_step
    assert step_tokens is not None, "auto without tokens of a step is a contradiction"
    memory = DeviceMemory.of(config, loader, make_model, device)
    width = max(*loader.planner.fullest_widths, config.data.max_length)
    found = divide_step(step_tokens, memory, width=width, processes=peers.size)
    counts = torch.zeros(peers.size, dtype=torch.long, device=peers.device)
    counts[peers.rank] = found.batches if found else 0
    every = peers.add_up(counts).tolist()
    allowed = f"{memory.allowed / 2**20:,.0f} MB"
    if not found or not all(every):
        raise ResourceError(
            f"not even batches of the longest pairs fit into the {allowed} of memory that a process may take",
            fix="lower data.max_length or the size of the model, or switch model.use_checkpointing on",
        )
    batches = max(every)
    tokens = step_tokens // batches
    resolved = config.model_copy(deep=True).update(
        data={"max_tokens_per_batch": tokens},
        training={"gradient_accumulation_steps": batches, "tokens_per_step": None},
    )
    return resolved, (
        f"data.max_tokens_per_batch is {tokens:,} from now on, {batches:,} batches a step "
        f"(training.gradient_accumulation_steps): a process needs about {found.needed / 2**20:,.0f} MB of the "
        f"{allowed} that it may take"
    )
