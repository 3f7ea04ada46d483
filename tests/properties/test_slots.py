"""A step's batches are a list: however many processes share it out, and wherever they go on, it is the same list."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from few_examples import fewer
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_loader, tiny_model

from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.training.accumulation import groups
from pytorch_dl.training.peers import Peers
from pytorch_dl.training.train_state import TrainState

STEPS = 10
MODEL = tiny_model()
Step = list[Any]  # what each of its slots holds


def steps(
    loader: BatchLoader, begun: TrainState, count: int, *, size: int, processes: int
) -> tuple[list[Step], list[TrainState]]:
    """What so many processes together are given in the steps from a state on, and the state before each."""
    states = [replace(begun) for _ in range(processes)]
    peers = [Peers(rank, processes) for rank in range(processes)]
    each = [groups(loader, state, size=size, model=MODEL, peers=one) for one, state in zip(peers, states, strict=True)]
    found, before = [], []
    for _ in range(count):
        before.append(replace(states[0]))
        parts = [next(one) for one in each]
        assert len({(part.size, part.ends_epoch) for part in parts}) == 1, "one process waits for another for ever"
        assert all(one.is_mine(slot) for one, part in zip(peers, parts, strict=True) for slot in part.batches)
        slots = {slot: batch for part in parts for slot, batch in part.batches.items()}
        assert sorted(slots) == list(range(parts[0].size)) and len(slots) == sum(len(part.batches) for part in parts)
        found.append([(slots[slot].pair_ids.tolist(), slots[slot].labels.tolist()) for slot in sorted(slots)])
        for state in states:
            ends = parts[0].ends_epoch
            state.epoch, state.batch = state.epoch + ends, 0 if ends else state.batch + parts[0].size
    return found, before


@fewer(4)
@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 99),
    packed=st.booleans(),
    size=st.integers(1, 8),
    worlds=st.lists(st.integers(1, 8), min_size=1, max_size=4),
)
def test_a_resume_at_any_step_with_any_number_of_processes_gives_the_same_slots(
    count: int, seed: int, packed: bool, size: int, worlds: Sequence[int]
) -> None:
    loader = tiny_loader(count, seed=seed, packed=packed, max_tokens=20)
    whole, states = steps(loader, TrainState(), STEPS, size=size, processes=1)
    epoch = [slot for step, state in zip(whole, states, strict=True) if state.epoch == 0 for slot in step]
    batches = [(batch.pair_ids.tolist(), batch.labels.tolist()) for batch in loader.batches(0)]
    assert epoch == batches[: len(epoch)] and len(epoch) == min(len(batches), size * STEPS)
    for stop, state in enumerate(states):
        processes = worlds[stop % len(worlds)]
        assert steps(loader, state, STEPS - stop, size=size, processes=processes)[0] == whole[stop:], stop
