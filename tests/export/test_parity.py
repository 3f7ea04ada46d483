"""The comparison sees what it should: a model agrees with itself, a tie is no fault, and each kind of fault is one."""

from collections.abc import Sequence

import pytest
import torch
from export_models import TOKENIZERS, tiny

from pytorch_dl.errors import CheckpointError
from pytorch_dl.export.pairs import Pairs, random_pairs
from pytorch_dl.export.parity import Reference, require_exact, require_near

SHARED = TOKENIZERS["shared"]
PAIRS = random_pairs(SHARED, max_seq_len=24, why="test", count=11)


class Itself:
    """An engine that says what the model says, but for changes."""

    def __init__(self, reference: Reference) -> None:
        self.scores, self.outputs = [*map(list, reference.scores)], [*map(list, reference.outputs)]

    def score(self, pairs: Pairs) -> list[list[float]]:
        return self.scores

    def write(self, sources: Sequence[Sequence[int]], *, limit: int) -> list[list[int]]:
        return self.outputs


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(tiny(SHARED), SHARED, PAIRS)


def test_a_model_agrees_with_itself(reference: Reference) -> None:
    parity = reference.compare(Itself(reference))
    assert parity.tokens == sum(len(ids) + 1 for ids in PAIRS.tgt)
    assert (parity.pairs, parity.equal, parity.largest, parity.mean, parity.regret) == (11, 11, 0.0, 0.0, 0.0)
    require_exact(parity, engine="it")
    require_near(parity, engine="it")


def test_scores_are_those_of_the_model_called_plainly(reference: Reference) -> None:
    special = SHARED.tgt
    for src, tgt, scores in zip(PAIRS.src, PAIRS.tgt, reference.scores, strict=True):
        given = torch.tensor([[*src, special.eos_id]]), torch.tensor([[special.bos_id, *tgt]])
        values = reference.model(*given).log_softmax(-1)[0]
        expected = [values[place, id].item() for place, id in enumerate([*tgt, special.eos_id])]
        assert scores == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("fault", [0.002, -0.002, float("nan"), float("inf")])
def test_one_wrong_log_probability_is_refused(reference: Reference, fault: float) -> None:
    engine = Itself(reference)
    engine.scores[7][0] += fault
    with pytest.raises(
        CheckpointError, match=r"log-probabilities differ by (0\.002|nan|inf), .* expected at most 0\.001"
    ):
        require_exact(reference.compare(engine), engine="it")


def test_one_wrong_token_is_refused(reference: Reference) -> None:
    engine = Itself(reference)
    engine.outputs[3][1] = 4 if engine.outputs[3][1] != 4 else 5
    parity = reference.compare(engine)
    assert parity.equal == 10
    with pytest.raises(CheckpointError, match=r"the export to it does not .* those of greedy tokens by [1-9.]"):
        require_exact(parity, engine="it")


def test_a_missing_end_is_refused() -> None:
    reference = Reference(tiny(SHARED, tie_embeddings="none", seed=3), SHARED, PAIRS)
    place = next(place for place, ids in enumerate(reference.outputs) if 1 <= len(ids) < reference.limit)
    engine = Itself(reference)
    engine.outputs[place] = [*engine.outputs[place], 9]
    assert reference.compare(engine).regret > 0.001
    engine.outputs[place] = reference.outputs[place][:-1]
    assert reference.compare(engine).regret > 0.001


def test_of_two_equally_likely_tokens_either_is_right() -> None:
    model = tiny(SHARED, tie_embeddings="none", seed=3)
    reference = Reference(model, SHARED, PAIRS)
    written = next(ids for ids in reference.outputs if ids)
    twin = next(id for id in range(4, 260) if id not in written)
    model.output.weight.data[twin] = model.output.weight.data[written[-1]]
    model.tgt_embedding.weight.data[twin] = model.tgt_embedding.weight.data[written[-1]]
    reference = Reference(model, SHARED, PAIRS)
    engine = Itself(reference)
    swap = {written[-1]: twin, twin: written[-1]}
    engine.outputs = [[swap.get(id, id) for id in ids] for ids in reference.outputs]
    parity = reference.compare(engine)
    assert parity.equal < parity.pairs
    require_exact(parity, engine="it")


def test_a_quantized_model_may_differ_a_little(reference: Reference) -> None:
    engine = Itself(reference)
    engine.scores = [[score + 0.3 for score in scores] for scores in engine.scores]
    require_near(reference.compare(engine), engine="it")
    engine.scores = [[score + 0.3 for score in scores] for scores in engine.scores]
    with pytest.raises(CheckpointError, match=r"differ by 0\.6 in the mean, expected at most 0\.5"):
        require_near(reference.compare(engine), engine="it")
    engine.scores[0][0] = float("nan")
    with pytest.raises(CheckpointError, match="differ by nan"):
        require_near(reference.compare(engine), engine="it")
