"""From the words of a command line to a configuration, and to the folder of a new run.

What reads configurations is imported when one is read, so that help and completion are quick.
"""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytorch_dl.errors import ConfigError

if TYPE_CHECKING:
    from pytorch_dl.config import Config


def settings_of(
    file: Path | None,
    preset: str | None,
    overrides: Sequence[str] | None,
    paths: Mapping[str, str | None],
    *,
    complete: bool = True,
) -> "Config":
    """Defaults, then the template or file, then the options for paths, then the overrides; no more if `complete`."""
    from pytorch_dl.config import Config, get_config
    from pytorch_dl.config.load import checked, read_config, with_overrides, with_values

    if file and preset:
        raise ConfigError(f"--config {file} and --preset {preset} exclude each other", fix="give one of them")
    config = read_config(file) if file else get_config(preset) if preset else Config()
    config = with_values(config, {name: value for name, value in paths.items() if value is not None})
    config = with_overrides(config, overrides or [])
    return checked(config, where=str(file) if file else "command line") if complete else config


def text_paths(
    src: str | None,
    tgt: str | None,
    val_src: str | None,
    val_tgt: str | None,
    test_src: str | None,
    test_tgt: str | None,
    split: str | None = None,
) -> dict[str, str | None]:
    """The settings that the options for texts stand for."""
    return {
        "data.train_data_path": src,
        "data.train_tgt_path": tgt,
        "data.val_data_path": val_src,
        "data.val_tgt_path": val_tgt,
        "data.test_data_path": test_src,
        "data.test_tgt_path": test_tgt,
        "data.val_split": split,
    }


def file_and_overrides(words: list[str], config: Path | None) -> tuple[Path | None, list[str]]:
    """A first word that is no setting names the file."""
    if not words or "=" in words[0]:
        return config, words
    if config:
        raise ConfigError(f"{words[0]} and --config {config} exclude each other", fix="give one of them")
    return Path(words[0]), words[1:]


def new_run_folder() -> Path:
    """Where a run lies that no --out names."""
    return Path("runs") / datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
