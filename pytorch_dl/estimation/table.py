"""An estimate in aligned lines for people."""

from pytorch_dl.estimation.estimate import Estimate, Times
from pytorch_dl.training.progress import duration

UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
Row = tuple[str, str, str]  # what, how much, and a remark


def lines_of(found: Estimate) -> list[str]:
    """All figures, by section."""
    sections = {
        "parameters": _parameters(found),
        "text": _text(found),
        "FLOPs": _flops(found),
        f"memory, {'by formula, activations roughly' if found.by_formula else 'measured'}": _memory(found),
        "time": _time(found, found.times) if found.times else [("not measured", "", "")],
    }
    rows = [row for section in sections.values() for row in section]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"nothing was run ({found.by_formula}): figures by formula only"] if found.by_formula else []
    for name, section in sections.items():
        lines.append(name)
        lines += [f"  {what:{first}}  {value:>{second}}  {remark}".rstrip() for what, value, remark in section]
    return lines


def _parameters(found: Estimate) -> list[Row]:
    rows = [(part, f"{count:,}", "") for part, count in found.parameters.items()]
    return [*rows, ("all", f"{sum(found.parameters.values()):,}", "")]


def _text(found: Estimate) -> list[Row]:
    text = found.text
    left_out = f"{text.left_out:,} that are too long are left out" if text.left_out else ""
    sampled = f"estimated from one pair of {text.one_of}" if text.one_of > 1 else ""
    return [
        ("pairs of an epoch", f"{text.pairs:,}", ", ".join(filter(None, (left_out, sampled)))),
        ("source tokens of an epoch", f"{text.src_tokens:,}", ""),
        ("target tokens of an epoch", f"{text.tgt_tokens:,}", ""),
        ("batches full", f"{100 * text.efficiency:.1f} %", text.layout),
        ("steps of an epoch", f"{text.steps_per_epoch:,}", ""),
        ("epochs", f"{text.epochs:,.1f}", ""),
        ("steps", f"{text.steps:,}", ""),
        ("tokens", f"{text.tokens:,}", "both sides"),
    ]


def _flops(found: Estimate) -> list[Row]:
    flops = found.flops
    rows = [
        ("forward, a real token", scaled(flops.forward_per_token), "matrix products"),
        ("backward, a real token", scaled(flops.backward_per_token), ""),
        ("the training", scaled(flops.training), ""),
    ]
    if found.times:
        rate = (flops.forward_per_token + flops.backward_per_token) * found.times.tokens_per_second
        rows.append(("a second", scaled(rate), f"on this machine ({found.device})"))
    return rows


def _memory(found: Estimate) -> list[Row]:
    memory = found.memory
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "average of the weights": memory.average,
        "activations": memory.activations,
    }
    rows = [(name, _megabytes(size), "") for name, size in parts.items() if size]
    rows.append(("live tensors at the peak", _megabytes(memory.peak), "gradients and activations do not peak together"))
    if memory.process_peak:
        rows.append(("the process at the peak", _megabytes(memory.process_peak), "libraries and text included"))
    return rows


def _time(found: Estimate, times: Times) -> list[Row]:
    layers = f"layers {'compiled' if found.compiled else 'not compiled'}, products in {found.precision}"
    rows = [
        ("preparing the text", duration(times.preparation), "nothing where it is in data.cache_dir"),
        ("start", duration(times.start), layers),
        ("a step", f"{1000 * times.step:,.1f} ms", f"{times.timed_steps} steps timed"),
        ("tokens a second", f"{times.tokens_per_second:,.0f}", "real ones of both sides"),
        ("all steps", duration(times.steps), ""),
    ]
    if times.validations:
        rows.append(("a validation", f"{times.validation:,.1f} s", f"{times.validations:,} of them"))
    ends = f"the time limit ends it at step {times.last_step:,}" if times.last_step < found.text.steps else ""
    return [
        *rows,
        ("training", duration(times.training), ends or "steps and validations, without writing checkpoints"),
        ("all", duration(times.total), "without the check before it and the evaluation after it"),
    ]


def scaled(number: float) -> str:
    """A count with a letter for thousands, millions and so on."""
    size, letter = next(((size, letter) for size, letter in UNITS if number >= size), (1.0, ""))
    return f"{number / size:,.4g} {letter}".rstrip()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
