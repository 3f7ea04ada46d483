"""The corpus of dates that comes with the package, to try every command on without any data of one's own."""

from importlib.resources import files
from pathlib import Path

from pytorch_dl.errors import ConfigError

SPLITS = ("train", "val", "test")


def dates_file(split: str) -> Path:
    """Path of `train`, `val` or `test`: lines of a written date, a tab, its ISO 8601 date, compressed with xz.

    Raises ConfigError for another split.
    """
    if split not in SPLITS:
        raise ConfigError(f"the corpus of dates has no split {split!r}", fix=f"choose one of {', '.join(SPLITS)}")
    return Path(str(files(__name__) / "dates" / f"{split}.tsv.xz"))
