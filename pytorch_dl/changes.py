"""What of a run's configuration was changed since its training began: said, and refused where it changes the result."""

from collections.abc import Callable, Mapping
from typing import Any

from pytorch_dl.config import Config
from pytorch_dl.config.load import flat
from pytorch_dl.errors import CheckpointError
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.run_folder import RunFolder

Changes = Mapping[str, list[Any]]  # before and after, of each setting by its dotted name

# They leave each step as it is. Of texts the content counts, which has a fingerprint, wherever they lie.
FREE = {
    *("data.train_data_path", "data.train_tgt_path", "data.val_data_path", "data.val_tgt_path"),
    *("data.test_data_path", "data.test_tgt_path", "data.cache_dir"),
    *("data.num_workers", "data.prefetch_factor", "data.pin_memory"),
    *("training.save_every", "training.save_in_background", "training.keep_checkpoints", "training.time_limit"),
    *("logging.tensorboard", "logging.wandb", "logging.wandb_project"),
}
# Of the environment, what numbers come from.
BITS = frozenset({"torch", "cpu", "cpu_capability", "cpu_threads", "gpu"})


def flat_settings(config: Config) -> dict[str, Any]:
    """{"model.d_model": 64, ...}"""
    return flat(config.model_dump(mode="json"))


def changed_settings(folder: RunFolder, config: Config) -> Changes:
    """What of the configuration is not as it was when training began; nothing before the first checkpoint."""
    begun = folder.read_begun() if ckpt.checkpoints(folder.checkpoints) else None
    if begun is None:
        return {}
    before, now = flat_settings(begun), flat_settings(config)
    return {name: [before[name], now[name]] for name in now if before[name] != now[name]}


def free_settings(config: Config) -> set[str]:
    """The settings that leave the result of this configuration as it is."""
    # A spike of the loss returns to a checkpoint: when they are saved then counts.
    return FREE - {"training.save_every"} if config.training.undo_loss_spikes else FREE


def look_at_changes(
    folder: RunFolder, config: Config, changes: Changes, *, accepted: bool, say: Callable[[str], None]
) -> None:
    """Say what was changed to get `config`; raise where it would change the result and is not accepted."""
    free = free_settings(config)
    refused = {name: values for name, values in changes.items() if name not in free}
    if refused and not accepted:
        raise CheckpointError(
            f"config.yaml was changed since training began: {_listed(refused)}",
            where=str(folder.path),
            fix="change it back, begin another run, or go on with it by `pytorch-dl resume --override`",
        )
    if changes:
        say(f"changed in config.yaml since training began: {_listed(changes)}")


def warn_of_other_bits(folder: RunFolder, config: Config, *, say: Callable[[str], None]) -> None:
    """Say where a run goes on with another torch or machine than it began with, whose numbers may have other bits."""
    names = BITS - {"cpu_threads"} if config.system.num_threads else BITS
    changed = folder.changed_environment(names) if ckpt.checkpoints(folder.checkpoints) else []
    if changed:
        found = "; ".join(changed)
        say(f"warning: not as when the run began: {found}. It may end with other bits than one that was never stopped")


def _listed(changes: Changes) -> str:
    return ", ".join(f"{name} from {before!r} to {now!r}" for name, (before, now) in sorted(changes.items()))
