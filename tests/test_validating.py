"""What validations translate: trackers see where the model looked, and the training stays the same, bit by bit."""

from functools import partial
from pathlib import Path

import pytest
from tiny_runs import TINY, call, write_tsv

from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.validating import decoder

DECODING = [*TINY, "training.eval_decode=4"]
SHORT = SearchSettings(beam_size=1, scored=False, max_length_ratio=1, max_length_offset=1)  # that can be read


def test_a_run_shows_where_its_model_looked_and_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("pytorch_dl.run.decoder", partial(decoder, settings=SHORT))
    text = write_tsv(tmp_path / "text.tsv")
    for name, shown in (("plain", []), ("tracked", ["logging.tensorboard=true"])):
        out = tmp_path / name
        assert call(capsys, "run", "--src", text, "--split", "12", "--out", out, *DECODING, *shown).code == 0
    for kept in ("metrics.jsonl", "samples.jsonl", "model/model.safetensors"):
        assert (tmp_path / "plain" / kept).read_bytes() == (tmp_path / "tracked" / kept).read_bytes(), kept
    events = EventAccumulator(str(tmp_path / "tracked" / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["attention/1", "attention/2", "attention/3"]
    assert [event.step for event in events.Images("attention/1")] == [10, 20]
    assert [event.step for event in events.Tensors("samples/text_summary")] == [10, 20]
