"""The benchmark at the smallest sizes: its figures are consistent, its two sides are what they are said to be."""

import dataclasses
import json
import random
import statistics
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmark import benchmark, ladder
from benchmark.contenders.baseline import PlainTransformer
from benchmark.contenders.hf_trainer import Clock
from benchmark.contenders.peers import found_peers
from benchmark.race.by_turns import CLAIMED, Figures
from benchmark.race.contender import Contender, save
from benchmark.race.measures import Epoch, count_epoch, mean_target
from benchmark.race.report import Claim, again_lines, table
from benchmark.race.workload import DATES, OURS, Workload, configuration, find_text, fitted, prepare, text_settings
from benchmark.rungs.rung import STEPS, Rung, Switches
from benchmark.rungs.separate import SeparateProjections
from pytorch_dl.config import Config
from pytorch_dl.data import dates_file
from pytorch_dl.dataset.batching import IGNORED_LABEL
from pytorch_dl.errors import ConfigError, DataError
from pytorch_dl.training.live_memory import Peak

SETTINGS = [
    *("model.d_model=16", "model.n_heads=2", "model.num_encoder_layers=1", "model.num_decoder_layers=1"),
    *("model.max_seq_len=64", "data.max_length=64", "data.tokenizer_name=char", "data.vocab_size=300"),
    *("data.layout=padded", "training.mixed_precision=false", "system.num_threads=1", "system.compile=false"),
]
PAIRS = 120


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose sides differ in length, so that padding them wastes something."""
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(1)
    for suffix in ("en", "de"):
        lines = ["".join(draw.choices("abcdefg", k=draw.randint(2, 40))) for _ in range(PAIRS)]
        (folder / f"train.{suffix}").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def work(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Workload:
    config = configuration(Config(), text_settings(text, src_suffix="en", tgt_suffix="de"), SETTINGS)
    return prepare(config, tmp_path_factory.mktemp("work"), pairs_per_step=8)


def options(text: Path, out: Path, *more: str) -> list[str]:
    words = f"--data {text} --out {out} --preset nano --repeats 3 --steps 2 --warmup 1 --pairs-per-step 8"
    return [*words.split(), "--only-claims", *more, *SETTINGS]


@pytest.fixture(scope="module")
def results(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("out")
    assert benchmark.main(options(text, out)) == 0
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "| ours | " in (out / "results.md").read_text()
    return json.loads((out / "results.json").read_bytes())


def test_the_file_says_where_what_and_how(results, text):
    assert {"date", "commit", "cpu", "cpu_capability", "torch", "python", "cpu_threads", "gpu"} <= results[
        "machine"
    ].keys()
    compared = results["compared"]
    sides = compared["sides"]
    assert (
        compared["text"] == text.name
        and len(compared["text_sha256"]) == 64
        and compared["size"].startswith("d_model 16, 1+1 layers (nano model.d_model=16")
    )
    assert compared["config"]["model"]["d_model"] == 16
    assert str(text) not in json.dumps(results)
    assert results["settings"] == {"repeats": 3, "steps": 2, "warmup": 1, "new_tokens": 0}
    assert "torch.nn.Transformer" in sides["baseline"]["what"] and "swiglu" in sides["ours"]["what"]
    sizes = [sides[name]["parameters"] for name in ("baseline", "ours")]
    assert max(sizes) < 1.15 * min(sizes)


def test_all_repeats_are_kept_and_the_ratios_follow_from_them(results):
    names = ["memory", "training speed", "inference speed", "batch efficiency"]
    assert [claim["name"] for claim in results["claims"]] == names
    for claim in results["claims"]:
        baseline, ours = claim["baseline"], claim["ours"]
        assert len(baseline["repeats"]) == len(ours["repeats"]) == (1 if claim["name"] == "batch efficiency" else 3)
        assert min(baseline["repeats"] + ours["repeats"]) > 0
        medians = [statistics.median(side["repeats"]) for side in (baseline, ours)]
        assert [baseline["median"], ours["median"]] == medians
        assert claim["ratio"] == pytest.approx(medians[1] / medians[0])
        low, high = claim["ratio_range"]
        assert low <= high
        target = claim["specification"]["ratio"]
        assert claim["holds"] == (claim["ratio"] <= target if claim["lower_is_better"] else claim["ratio"] >= target)
    assert all(0 < loss < 20 for losses in results["loss_per_token"].values() for loss in losses)
    assert all(trainer["warmup_s"] > 0 for trainer in results["trainers"])


def test_efficiency_is_that_of_the_text(results, text, work):
    sides = [(text / f"train.{suffix}").read_text().splitlines() for suffix in ("en", "de")]
    real = sum(len(line) + 1 for lines in sides for line in lines)  # a token for each character, and one added
    efficiency = results["claims"][3]
    for name, loader in (("baseline", work.plain), ("ours", work.loader)):
        epoch = results["compared"]["sides"][name]["epoch"]
        assert (epoch["pairs"], epoch["real_tokens"]) == (PAIRS, real)
        assert efficiency[name]["median"] == pytest.approx(100 * real / epoch["positions"])
        assert efficiency[name]["median"] == pytest.approx(100 * loader.plan(0).efficiency)
        assert results["compared"]["sides"][name]["pairs_per_step"] == PAIRS / epoch["batches"]
        assert 7 < results["compared"]["sides"][name]["pairs_per_step"] < 9
    assert 40 < efficiency["baseline"]["median"] < 80 < efficiency["ours"]["median"] <= 100
    assert results["compared"]["new_tokens"] == round(sum(len(line) + 1 for line in sides[1]) / PAIRS)


def test_what_computing_again_costs_is_told_beside_ours(work):
    model = {name: work.side(name).model for name in OURS}
    assert [model[name].use_checkpointing for name in OURS] == [False, False, True]
    assert [model[name].activation_budget for name in OURS] == [1.0, 0.0, 1.0]
    assert all(work.loader_of(name) is work.loader for name in OURS)
    figures = Figures({}, 0)
    figures.train_tokens_per_s |= {"baseline": [1.0, 1.0], "ours": [6.0, 8.0], "ours-checkpointed": [4.0, 5.0]}
    for name, activations in (("baseline", 1000), ("ours", 100), ("ours-checkpointed", 60)):
        figures.memory[name] = [Peak(activations, 0)]
    assert again_lines(figures) == [
        "ours-checkpointed: 1.550 (1.50 to 1.60) x the time of ours; activations 0.060 x the baseline's, 0.60 x those "
        "of ours"
    ]


def test_who_is_compared():
    assert benchmark.contenders(only_claims=True, again=False) == ["baseline", "ours"]
    assert benchmark.contenders(only_claims=False, again=True) == ["baseline", *OURS]
    everybody = benchmark.contenders(only_claims=False, again=False)
    assert (everybody[0], everybody[-1]) == ("baseline", "ours") and not set(everybody) & {*OURS} - {"ours"}


def test_our_memory_is_less_even_here(results):
    memory = results["claims"][0]
    assert memory["ratio"] < 1 and memory["baseline"]["median"] < 100


def test_the_trainers_are_told_with_their_spread(results):
    baseline, ours = sorted(results["trainers"], key=lambda trainer: trainer["name"])
    assert (baseline["name"], ours["name"]) == ("baseline", "ours")
    assert baseline["ratios"] == [1.0, 1.0, 1.0] and len(ours["ratios"]) == 3
    for trainer in (baseline, ours):
        speeds = trainer["tokens_per_s"]
        assert 0 < trainer["ten_minutes_per_s"] < 1.1 * max(speeds)
        assert 0 < trainer["activations_mb"] < trainer["total_mb"]
        assert 0.4 < trainer["efficiency"] <= 1


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:The PyTorch API of nested:UserWarning")
@pytest.mark.parametrize("name", found_peers())
def test_a_peer_learns_and_sees_no_padding(work, name):
    torch.manual_seed(1)
    side = work.side(name)
    batch = next(iter(work.plain))
    losses = [side.step(batch) for _ in range(40)]
    assert statistics.mean(losses[-5:]) < statistics.mean(losses[:5]) - 0.01
    side.model.eval()
    with torch.no_grad():
        logits = side.forward(batch)
        row = int(batch.tgt_segments.sum(1).argmin())
        src, tgt = (int(side[row].sum()) for side in (batch.src_segments, batch.tgt_segments))
        cut = {name: getattr(batch, name)[row : row + 1, :src] for name in ("src", "src_segments")}
        alone = side.forward(dataclasses.replace(batch, **cut, tgt_in=batch.tgt_in[row : row + 1, :tgt]))
    assert src < batch.src.size(1)
    torch.testing.assert_close(logits[row, :tgt], alone[0], atol=1e-4, rtol=1e-4)


def test_the_trainer_of_hugging_face_counts_what_it_trains_on(work, tmp_path):
    pytest.importorskip("accelerate")
    side = work.side("hf-trainer")
    for steps in (3, 2):
        speed, loss = side.train(steps)
        assert speed > 0 and 0 < loss < 20
    assert 0.4 < side.efficiency < 1
    side.stop()
    pairs = [side.pairs[index] for index in range(8)]
    clock = Clock(pad_id=side.pad_id)
    made = clock.collate(pairs)
    assert clock.made == [sum(len(pair["input_ids"]) + len(pair["labels"]) for pair in pairs)]
    assert made["decoder_input_ids"][0, 1].item() == pairs[0]["labels"][0]
    assert len(side.pairs) == PAIRS


def test_a_user_error_is_one_line(text, tmp_path, capsys):
    assert benchmark.main(options(tmp_path / "none", tmp_path)) == 3
    assert "none: holds no train.*. Fix: " in capsys.readouterr().err
    assert benchmark.main(options(text, tmp_path, "--new-tokens", "65")) == 2
    assert "--new-tokens is 65. Fix: at most model.max_seq_len (64)." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark.main(["--repeats", "0"])
    assert "expected at least 1, got 0" in capsys.readouterr().err


def test_padding_changes_nothing_for_the_baseline(work):
    torch.manual_seed(0)
    model = PlainTransformer(vocab_size=20, pad_id=0, config=work.config).eval()
    src, tgt = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 4, 5, 6], [1, 7, 0, 0]])
    together = model(src, tgt)
    assert torch.allclose(together[0], model(src[:1], tgt[:1])[0], atol=1e-5)
    assert torch.allclose(together[1, :2], model(src[1:, :2], tgt[1:, :2])[0], atol=1e-5)
    changed = tgt.clone()
    changed[0, 3] = 9
    assert torch.allclose(together[0, :3], model(src, changed)[0, :3], atol=1e-5)  # nobody sees the future


@pytest.mark.parametrize("name", ["baseline", "ours"])
def test_reading_out_takes_the_likeliest_token_each_time(work, name):
    side = work.side(name)
    batch = next(iter(work.plain))
    found = side.decode(batch.src, 5)
    assert found.shape == (8, 5)
    model = side.model.eval() if name == "baseline" else side.reader.model
    bos = torch.full((8, 1), work.tokenizers.tgt.bos_id)
    with torch.no_grad():
        logits = model(batch.src, torch.cat((bos, found[:, :-1]), dim=1))  # (8, 5, V)
    if name == "ours":
        special = work.tokenizers.tgt
        logits[..., [special.pad_id, special.bos_id, special.unk_id]] = -torch.inf
    assert torch.equal(logits.argmax(dim=-1), found)


@pytest.mark.parametrize("name", ["baseline", "ours"])
def test_both_sides_learn(work, name):
    side = work.side(name)
    batch = next(iter(work.plain))
    losses = [side.step(batch) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.01


def test_the_first_loss_of_the_baseline_is_the_mean_over_real_tokens(work):
    side, batch = work.side("baseline"), next(iter(work.plain))
    side.model.eval()  # without dropout
    with torch.no_grad():
        logits = side.model(batch.src, batch.tgt_in)
    real = batch.labels != IGNORED_LABEL
    smoothing = work.config.training.label_smoothing
    nll = F.cross_entropy(logits[real], batch.labels[real], reduction="sum", label_smoothing=smoothing)
    assert side.step(batch) == pytest.approx(nll.item() / batch.num_tgt_tokens, rel=1e-5)


def test_each_side_tells_its_memory_and_its_products(results):
    assert {name: found["peak_mb"] > 50 for name, found in results["peak_rss"].items()} == dict.fromkeys(CLAIMED, True)
    assert results["roof"]["matrix_flops_per_s"] > 1e9
    for trainer in results["trainers"]:
        side = results["compared"]["sides"][trainer["name"]]
        speed = statistics.median(trainer["tokens_per_s"])
        assert trainer["flops_per_s"] == pytest.approx(speed * side["flops_per_token"])
        assert 5 * side["parameters"] / 2 < side["flops_per_token"] < 12 * side["parameters"]
        assert trainer["of_matrix_rate"] == pytest.approx(
            trainer["flops_per_s"] / results["roof"]["matrix_flops_per_s"]
        )


def test_a_process_that_ends_says_so(work, capfd):
    save(work)
    said = "nobody ended with exit code 1 when told to describe"
    with pytest.raises(RuntimeError, match=said), Contender("nobody", work) as contender:
        contender.describe()
    assert "KeyError: 'nobody'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("lower", "ours", "claimed", "verdict"),
    [
        (True, 50.0, 0.58, "holds"),
        (True, 60.0, 0.58, "DOES NOT HOLD"),
        (False, 150.0, 1.5, "holds"),
        (False, 149.0, 1.5, "DOES NOT HOLD"),
    ],
)
def test_a_claim_that_does_not_hold_is_called_so(lower, ours, claimed, verdict):
    claim = Claim("x", "MB", "some", claimed, lower, [100.0, 90.0, 110.0], [ours, ours - 1, ours + 11])
    assert claim.holds == (verdict == "holds") and claim.ratio == ours / 100
    header, line = table([claim])
    assert header.split()[:4] == ["claim", "unit", "baseline", "ours"]
    low, high = (f"{value:.2f}" for value in claim.ratio_range)
    assert line.endswith(verdict) and f"{claim.ratio:.2f} ({low} to {high})" in line


def test_which_text_is_taken(tmp_path, monkeypatch, text):
    monkeypatch.delenv("PYTORCH_DL_DATA", raising=False)
    assert find_text(None) is None and find_text(text) == text
    dates = text_settings(None, src_suffix="en", tgt_suffix="de")
    assert dates["data.train_data_path"] == str(dates_file("train")) and "dates" in DATES
    configuration(Config(), dates, [])
    monkeypatch.setenv("PYTORCH_DL_DATA", str(tmp_path))
    assert find_text(None) is None
    (tmp_path / "multi30k").mkdir()
    with pytest.raises(DataError, match=r"multi30k: holds no train\.\*"):
        find_text(None)
    (tmp_path / "multi30k" / "train.en.gz").touch()
    assert find_text(None) == tmp_path / "multi30k"


def test_one_vocabulary_is_asked_for(text, tmp_path):
    apart = ["data.shared_vocabulary=false", "model.tie_embeddings=none"]
    config = configuration(Config(), text_settings(text, src_suffix="en", tgt_suffix="de"), [*SETTINGS, *apart])
    with pytest.raises(ConfigError, match="the baseline has one vocabulary"):
        prepare(config, tmp_path, pairs_per_step=8)


@pytest.mark.parametrize("pairs", [4, 16, 40])
def test_batches_hold_as_many_pairs_as_asked_for(work, pairs):
    plan = fitted(work.loader.planner, pairs).plan(0)
    assert PAIRS / len(plan) == pytest.approx(pairs, rel=0.2)


def test_counts_of_an_epoch(work):
    epoch = count_epoch(work.plain)
    batches = list(work.plain)
    assert epoch == Epoch(
        batches=15,
        pairs=PAIRS,
        real_tokens=sum(b.num_src_tokens + b.num_tgt_tokens for b in batches),
        positions=sum(b.src.numel() + b.labels.numel() for b in batches),
    )
    assert mean_target(work.plain) == pytest.approx(sum(b.num_tgt_tokens for b in batches) / PAIRS)


def test_the_ladder_climbs_from_2017(text, tmp_path):
    words = f"--data {text} --out {tmp_path} --repeats 2 --steps 1 --pairs-per-step 8 --no-compile".split()
    settings = [setting for setting in SETTINGS if not setting.startswith(("data.layout", "system.compile"))]
    assert ladder.main([*words, *settings]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "ladder.json").read_bytes())["rungs"]}
    assert not any(rows["plain Transformer of 2017"]["switches"][name] for name, _ in STEPS)
    assert all(len(row["tokens_per_s"]) == 2 and 0 < row["activations_mb"] < row["total_mb"] for row in rows.values())
    sizes = [row["parameters"] for row in rows.values()]
    assert max(sizes) < 1.2 * min(sizes)
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")
    assert (
        rows["whole with checkpointing"]["activations_mb"] < rows["+ rows packed with several pairs"]["activations_mb"]
    )


def test_separate_projections_are_the_fused_one(work):
    rung = Rung("whole", Switches(modern_layers=True, loss_in_chunks=True), work)
    batch = next(rung.batches)
    rung.model.eval()
    expected = rung.model(batch.src, batch.tgt_in)
    SeparateProjections.replace_in(rung.model)
    assert len(list(rung.model.parameters())) > 20
    torch.testing.assert_close(rung.model(batch.src, batch.tgt_in), expected)
