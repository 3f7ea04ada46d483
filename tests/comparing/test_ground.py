"""What the trainings of a comparison share: made once, decided once, and one text to be scored on."""

import json
from pathlib import Path

import pytest
from tiny_runs import TINY, Result, call, pairs, write_tsv

from pytorch_dl.comparing.ground import Ground
from pytorch_dl.config import Config
from pytorch_dl.config.load import with_overrides
from pytorch_dl.experiments.arms import Budget, grid


class TestScoredOnTheSameText:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Texts in three languages, as CSV, as TSV and as files of one side each."""
        for name, first, count in (("text", 0, 60), ("val", 60, 12), ("test", 80, 12)):
            rows = [(src, tgt, tgt.upper()) for src, tgt in pairs(count, first=first)]
            (tmp_path / f"{name}.csv").write_text("".join(",".join(row) + "\n" for row in [("en", "de", "fr"), *rows]))
            for column, language in enumerate(("en", "de", "fr")):
                (tmp_path / f"{name}.{language}").write_text("".join(f"{row[column]}\n" for row in rows))
        return tmp_path

    def call(self, folder: Path, capsys, vary: str, *more: str) -> Result:
        given = [word.format(folder=folder) for word in more]
        return call(capsys, "compare", *TINY, "--vary", vary, "--out", folder / "out", "--seeds", "1", *given)

    @pytest.mark.parametrize(
        ("vary", "more", "told"),
        [
            (
                "data.tgt_column=de,fr",
                ["--src", "{folder}/text.csv", "--val-src", "{folder}/val.csv", "data.src_column=en"],
                "'tgt_column=de' and 'tgt_column=fr' read the validation text differently, by data.tgt_column",
            ),
            (
                "data.tgt_suffix=de,fr",
                ["--src", "{folder}/text", "--val-src", "{folder}/val", "data.src_suffix=en"],
                "'tgt_suffix=de' and 'tgt_suffix=fr' read the validation text differently, by data.tgt_suffix",
            ),
            (
                "data.on_blank=error,drop",
                ["--src", "{folder}/text.csv", "--test-src", "{folder}/test.csv"],
                "'on_blank=error' and 'on_blank=drop' read the test text differently, by data.on_blank",
            ),
        ],
    )
    def test_else_refused_before_anything_is_trained(self, folder, capsys, vary, more, told):
        refused = self.call(folder, capsys, vary, *more)
        assert refused.code == 2 and len(refused.error_lines) == 1 and told in refused.err
        assert {path.name for path in (folder / "out").iterdir()} == {".lock"}

    def test_two_files_are_read_alike_whatever_the_columns(self, folder):
        settings = {"train_data_path": "text.csv", "val_data_path": "val.en", "val_tgt_path": "val.de"}
        words = [f"data.{name}={folder}/{path}" for name, path in settings.items()]
        base = with_overrides(Config(), [*TINY, *words, "data.src_column=en"])
        ground = Ground(folder / "out", lambda _: None)
        assert ground.begin(grid(base, ["data.tgt_column=de,fr"]), {"at_once": 1}) and ground.record.exists()


class TestGround:
    def arm(self, folder: Path, *more: str) -> Config:
        text, held_out = write_tsv(folder / "text.tsv", 200), write_tsv(folder / "val.tsv", 20, first=200)
        return with_overrides(
            Config(), [*TINY, f"data.train_data_path={text}", f"data.val_data_path={held_out}", *more]
        )

    def test_a_budget_of_tokens_is_that_of_steps(self, tmp_path):
        ground = Ground(tmp_path / "out", lambda _: None)
        config = self.arm(tmp_path, "training.gradient_accumulation_steps=2")
        decided = {"precision": False, "threads": None}
        prepared = ground.prepare(config, decided, Budget("tokens", 50_000))
        (module,) = ground._modules.values()
        batches = list(module.train_dataloader())
        in_step = 2 * sum(batch.num_tgt_tokens for batch in batches) / len(batches)
        assert prepared.config.training.max_steps == round(50_000 / in_step) > 5

    def test_what_arms_share_is_made_once(self, tmp_path):
        said: list[str] = []
        ground = Ground(tmp_path / "out", said.append)
        arms = grid(self.arm(tmp_path), ["model.activation=relu,gelu", "data.tokenizer_name=char,byte"])
        decided = ground.begin(arms, {"at_once": 1})
        prepared = [ground.prepare(config, decided, None) for config in arms.values()]
        assert len(list((tmp_path / "out" / "tokenizers").iterdir())) == 2
        assert len([line for line in said if line.startswith("token store: building")]) == 2  # of both texts
        assert prepared[0].tokenizers is prepared[2].tokenizers is not prepared[1].tokenizers

    def test_precision_and_threads_are_decided_once(self, tmp_path):
        arms = grid(
            self.arm(tmp_path, "training.mixed_precision=true", "system.num_threads=null"),
            ["model.activation=relu,swiglu"],
        )
        ground = Ground(tmp_path / "out", lambda _: None)
        decided = ground.begin(arms, {"at_once": 2})
        assert decided["threads"] == 1 and decided["precision"] in (False, "bf16")
        record = json.loads(ground.record.read_text())
        ground.record.write_text(json.dumps({**record, "decided": {"precision": "fp16", "threads": 7}}))
        again = ground.begin(arms, {"at_once": 2})
        config = ground.prepare(next(iter(arms.values())), again, None).config
        assert (config.training.mixed_precision, config.system.num_threads) == ("fp16", 7)
