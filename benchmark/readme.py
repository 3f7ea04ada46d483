"""The README's tables of what is measured, made from the result files: `python benchmark/readme.py`."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.measuring.machine import RESULTS, ROOT
from benchmark.race.workload import OURS
from benchmark.rungs.plot import median_ratio
from pytorch_dl.files import write_file

README = ROOT / "README.md"
BEGIN, END = "<!-- measured: made by benchmark/readme.py -->\n", "<!-- end of measured -->\n"
NAMES = {
    "baseline": "`torch.nn.Transformer`, fp32, random padded batches, all logits, Adam",
    "hf-trainer": "Hugging Face Marian, its Seq2SeqTrainer at its best (bf16, grouped by length, fused AdamW)",
    "torch.nn": "`torch.nn.Transformer`, our plain loop: bf16, like lengths, fused AdamW",
    "marian": "Hugging Face Marian, the same loop",
    "x-transformers": "x-transformers, the same loop",
    "ours": "**pytorch-dl**",
}
READERS = {
    "hf-float32": "Hugging Face Marian, `generate`, fp32",
    "ct2-float32": "CTranslate2 on the exported model, fp32",
    "ct2-int8": "CTranslate2 on the exported model, int8",
    "ours-fp32": "pytorch-dl, fp32",
    "ours-int8": "pytorch-dl, `--precision int8`",
    "ours-bf16": "**pytorch-dl, `--precision bf16`**",
}
ON_GPU = {
    "naive": "`torch.nn.Transformer`, fp32, random padded batches",
    "marian": "Hugging Face Marian, our plain loop: bf16, like lengths, fused AdamW",
    "ours": "pytorch-dl, not compiled",
    "ours, compiled": "**pytorch-dl**",
}
RACE = "`python benchmark/benchmark.py --data multi30k --size T data.vocab_size=8000 system.compile=true` (and `B`)"
AGAIN = {"ours-budget": "model.activation_budget=0", "ours-checkpointed": "model.use_checkpointing=true"}
SIZES = {"training-T": "d_model 256, 3+3 layers", "training-B": "d_model 512, 6+6 layers"}


def result(name: str) -> dict[str, Any]:
    """A committed result file."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_bytes())
    return found


def trainers() -> list[str]:
    """All trainers, both sizes."""
    lines = [
        "| training, real tokens a second (× the first) | " + " | ".join(SIZES.values()) + " | activations, MB |",
        "|---|---:|---:|---:|",
    ]
    sizes = {name: {trainer["name"]: trainer for trainer in result(name)["trainers"]} for name in SIZES}
    for name in sorted(sizes["training-T"], key=lambda name: statistics.median(sizes["training-T"][name]["ratios"])):
        cells = []
        for found in sizes.values():
            trainer = found[name]
            cells.append(f"{rounded(statistics.median(trainer['tokens_per_s']))} ({ratio(trainer):.1f} ×)")
        megabytes = [found[name]["activations_mb"] for found in sizes.values()]
        memory = " / ".join(f"{mb:,.0f}" for mb in megabytes if mb is not None)
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} | {memory} |")
    return lines


def readers() -> list[str]:
    """All that decode, both sizes, greedy and with four beams."""
    tables = [result(f"decoding-{size}")["tables"][beam] for size in ("T", "B") for beam in ("beam 1", "beam 4")]
    lines = [
        "| decoding, sentences a second (× the first) | T, greedy | T, beam 4 | B, greedy | B, beam 4 |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, what in READERS.items():
        cells = [f"{table[name]['median']:,.0f} ({table[name]['ratio']:.1f} ×)" for table in tables]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def on_gpu() -> list[str]:
    """Trainers on a GPU, both presets, at the first number of tokens."""
    parts = result("gpu")["parts"]
    rows = [row for row in parts["steps"]["found"]["results"] if "tokens_per_s" in row]
    ours = [row for row in rows if (row["preset"], row["side"]) == ("base", "ours, compiled")]
    first, best = (choose(row["target_tokens"] for row in ours) for choose in (min, max))
    lines = [
        f"| training on one {parts['facts']['found']['gpu']['name']}, {first:,} target tokens a step, by "
        "`python benchmark/gpu.py`: real tokens a second (× the first) | d_model 512, 6+6 layers "
        "| d_model 1024, 6+6 layers | GPU memory, GB |",
        "|---|---:|---:|---:|",
    ]
    presets = ("base", "big")
    naive = [row_of(rows, preset, "naive", first)["tokens_per_s"] for preset in presets]
    for name, what in ON_GPU.items():
        found = [row_of(rows, preset, name, first) for preset in presets]
        speeds = [row["tokens_per_s"] for row in found]
        cells = [
            f"{float(f'{speed:.2g}'):,.0f} ({speed / slow:.0f} ×)" for speed, slow in zip(speeds, naive, strict=True)
        ]
        memory = " / ".join(f"{row['peak_bytes'] / 1e9:.0f}" for row in found)
        lines.append(f"| {what} | {' | '.join(cells)} | {memory} |")
    base, big = (f"{row_of(rows, preset, 'ours, compiled', first)['utilisation']:.0%}" for preset in presets)
    more = row_of(rows, "base", "ours, compiled", best)["utilisation"]
    lines.append(
        "| its matrix products of real tokens, as a share of 989 TFLOP/s "
        f"| {base}; {more:.0%} at {best:,} tokens | {big} | |"
    )
    return lines


def row_of(rows: list[dict[str, Any]], preset: str, side: str, tokens: int) -> dict[str, Any]:
    """One result."""
    return next(row for row in rows if (row["preset"], row["side"], row["target_tokens"]) == (preset, side, tokens))


def ratio(trainer: dict[str, Any]) -> float:
    """Median of the ratios to the first of the same repeat."""
    return statistics.median(trainer["ratios"])


def beside_fastest(race: dict[str, Any]) -> float:
    """Our tokens in ten minutes / those of the fastest other trainer."""
    tokens = {trainer["name"]: trainer["ten_minutes_per_s"] for trainer in race["trainers"]}
    return float(tokens["ours"] / max(speed for name, speed in tokens.items() if name not in OURS))


def rounded(value: float) -> str:
    """In two digits, or three above a thousand's."""
    return f"{round(value, -2):,.0f}" if value >= 1000 else f"{round(value, -1):,.0f}"


def quality() -> list[str]:
    """The rows of the second table."""
    multi30k, fast, full = result("multi30k"), result("time_to_quality"), result("efficiency")
    preparation, kills = result("preparation"), result("kill_test")
    speed = result("data_speed")
    data = speed["preparation"]
    waits = {row["preset"]: f"{row['while_training_percent']:.2f} %" for row in speed["presets"]}
    races = [result(name) for name in SIZES]
    mine = [next(trainer for trainer in race["trainers"] if trainer["name"] == "ours") for race in races]
    shares = [f"{trainer['of_matrix_rate']:.0%}" for trainer in mine]
    rates = [f"{race['roof']['matrix_flops_per_s'] / 1e12:.1f}" for race in races]
    whole_runs = [f"{beside_fastest(race):.1f}" for race in races]
    ours, other, survived = fast["ours"], fast["hf-trainer"], kills["kills_survived"]
    longer, floor = result("time_to_quality-longer"), result("products-B")
    times = longer["hf-trainer"]["seconds"] / longer["ours"]["seconds"]
    return [
        "| what | figure | command |",
        "|---|---|---|",
        "| Multi30k English to German by `configs/multi30k.yaml`, from raw text: sacreBLEU (13a, cased, beam 5) on "
        f"test 2016 | {multi30k['scores']['BLEU']:.1f} after {multi30k['wall_seconds'] / 60:.0f} minutes; "
        f"{multi30k['parameters'] / 1e6:.1f} million parameters | `python benchmark/multi30k.py --data multi30k` |",
        f"| the same by `configs/multi30k-quick.yaml`, 4 epochs | {in_minutes(ours)} "
        "| `python benchmark/time_to_quality.py --data multi30k --times 2.75 training.num_epochs=4` |",
        f"| Hugging Face's Marian and Seq2SeqTrainer in more than twice that time | {in_minutes(other)} | the same |",
        f"| `configs/multi30k-quick.yaml` as it is, 7 epochs, on another, slower machine ({longer['machine']['cpu']}) "
        f"| {in_minutes(longer['ours'])} | `python benchmark/time_to_quality.py --data multi30k --times {times:.1f}` |",
        f"| the other there, in {times:.1f} times that time | {in_minutes(longer['hf-trainer'])} | the same |",
        f"| matrix products of real tokens, as a share of the machine's bf16 rate | {' and '.join(shares)} of "
        f"{' and '.join(rates)} TFLOP/s | {RACE} |",
        "| of a run of 10 minutes, compilation included, × the fastest other | "
        f"{' and '.join(whole_runs)} | the same |",
        f"| the matrix products one by one, nothing else computed, as a share of a step, d_model 512 | "
        f"{floor['parts_ms']['products'] / floor['step_ms']:.0%} | `python benchmark/products.py --data multi30k` |",
        f"| activations computed again, × the first trainer's; time, × ours | {again('ours-budget')}; "
        f"{again('ours-checkpointed')} | `python benchmark/benchmark.py --again --data multi30k --size T` (and `B`) |",
        "| full batches, Multi30k, 4,096 tokens a side: real tokens / all positions | "
        f"random batches of 64: {full['random, 64 pairs']['efficiency']:.1%}; "
        f"bucketed: {full['bucketed']['efficiency']:.1%}; packed: {full['packed']['efficiency']:.1%} | "
        "`python benchmark/efficiency.py --data multi30k` |",
        f"| a training step's wait for its batch, {', '.join(waits)} | {', '.join(waits.values())} of the step | "
        "`python benchmark/data_speed.py --data multi30k` |",
        f"| text tokenized and written, × Hugging Face's datasets with the same tokenizer | {data['ratio']:.1f} | "
        "the same |",
        f"| memory of preparing {preparation['pairs']:,} pairs and training on them, above the imports | "
        f"{preparation['above_imports_mb']:,.0f} MiB | `python benchmark/preparation.py` |",
        f"| a run killed {survived} times with `kill -9`, {kills['kills_in_a_save']} of them while saving | weights, "
        f"optimizer and `metrics.jsonl` equal bit by bit; at most {kills['lost_steps_max']} steps done again | "
        f"`python benchmark/kill_test.py --kills {survived}` |",
    ]


def again(name: str) -> str:
    """What computing activations again saves and costs, at both sizes."""
    found = [recomputed(name, size) for size in ("T", "B")]
    shares, times = (" and ".join(f"{row[of]:.2f}" for row in found) for of in ("share", "time"))
    return f"`{AGAIN[name]}`: {shares} at {times}"


def recomputed(name: str, size: str) -> dict[str, float]:
    """Of a trainer that does: `time`, × ours; `activations_mb`, and their `share` of the first trainer's."""
    sides = {trainer["name"]: trainer for trainer in result(f"again-{size}")["trainers"]}
    held = sides[name]["activations_mb"]
    return {
        "time": median_ratio(sides["ours"]["tokens_per_s"], sides[name]["tokens_per_s"]),
        "activations_mb": held,
        "share": held / sides["baseline"]["activations_mb"],
    }


def in_minutes(side: dict[str, Any]) -> str:
    """A score, and how long it took."""
    return f"{side['bleu']:.1f} after {side['seconds'] / 60:.1f} minutes"


def block() -> str:
    """What stands between the marks."""
    return "\n".join([*trainers(), "", *readers(), "", *quality(), "", *on_gpu()]) + "\n"


def main() -> None:
    """Write the block into the README."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert rest and after, f"README.md has no {BEGIN.strip()} ... {END.strip()}"
    write_file(README, f"{before}{BEGIN}{block()}{END}{after}")


if __name__ == "__main__":
    main()
