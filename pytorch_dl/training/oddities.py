"""What is odd about a training that is about to begin: it is said, and training begins."""

from collections.abc import Iterator

from pytorch_dl.training.update import WeightUpdate

FEW_STEPS = 200
HIGH_RATE = 0.05  # for Adam, whose updates are about as large as the learning rate, whatever the gradients are
_SAMPLED = 1000  # steps of the schedule


def oddities(update: WeightUpdate, *, total_steps: int) -> Iterator[str]:
    """One line for each."""
    if total_steps < FEW_STEPS:
        yield (
            f"{total_steps:,} optimizer steps in all teach a model little; "
            "raise training.num_epochs or training.max_steps, or lower data.max_tokens_per_batch"
        )
    rate, d_model = _highest_of_adam(update, total_steps), update.model.d_model
    if rate > HIGH_RATE:
        yield (
            f"the highest learning rate is {rate:g}, and 1e-4 to 5e-3 are usual with Adam; a factor, as OpenNMT-py's "
            f"noam has, is here training.learning_rate = factor * d_model^-0.5 * warmup_steps^-0.5: {rate:g} is "
            f"{rate * (d_model * 4000) ** -0.5:.2g} for d_model {d_model} and 4,000 steps of warm-up"
        )


def _highest_of_adam(update: WeightUpdate, total_steps: int) -> float:
    """The highest learning rate of an optimizer such as Adam, on its schedule; 0 of another one, such as SGD."""
    groups = zip(update.optimizer.param_groups, update.highest_rates, strict=True)
    highest = max((rate for group, rate in groups if "betas" in group), default=0.0)
    if highest <= HIGH_RATE or update.schedule is None:
        return highest
    steps = range(1, total_steps + 1, max(1, total_steps // _SAMPLED))
    return highest * max((update.schedule(step, total_steps) for step in steps), default=1.0)
