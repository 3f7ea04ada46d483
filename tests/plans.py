"""Planners of pairs of given lengths, and the batches of their plans."""

import numpy as np
from hypothesis import strategies as st
from tiny import SPECIAL

from pytorch_dl.dataset.batching import Batch, collate, token_ids_of
from pytorch_dl.dataset.planning import Lengths, Planner

LONGEST = 30
Pairs = list[tuple[int, int]]
length_pairs = st.lists(st.tuples(st.integers(1, LONGEST), st.integers(1, LONGEST)), min_size=1, max_size=80)
layouts = st.sampled_from(["bucketed", "packed", "fixed"])


def planner(
    pairs: Pairs, layout: str = "bucketed", *, max_tokens: int = 60, seed: int = 1, **changes: object
) -> Planner:
    src, tgt = (np.array(side) for side in zip(*pairs, strict=True))
    given: dict = {"kept": np.arange(len(pairs)), "corpora": [(0, len(pairs), 1.0)]}
    batch_size = 7 if layout == "fixed" else None
    return Planner(
        Lengths(src, tgt),
        **{**given, **changes},
        seed=seed,
        max_tokens=max_tokens,
        batch_size=batch_size,
        packed=layout == "packed",
    )


def batches_of(made: Planner, epoch: int = 0) -> list[Batch]:
    """All batches of an epoch; the text of pair i repeats the id 3 + i on both sides."""
    lengths, plan = made.lengths, made.plan(epoch)
    src, tgt = (
        token_ids_of([[3 + i] * (n - 1) for i, n in enumerate(side.tolist())]) for side in (lengths.src, lengths.tgt)
    )
    return [collate(plan, index, src, tgt, SPECIAL) for index in range(len(plan))]
