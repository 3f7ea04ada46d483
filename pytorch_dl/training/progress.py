"""What a person sees while training: one live line at a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple, cast

from PIL.Image import Image
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pytorch_dl.errors import visible
from pytorch_dl.training.stderr import Stderr

QUIET_SECONDS = 60.0
Draw = Callable[[], Image]


class Sample(NamedTuple):
    """A validation source with its reference and its translation; `draw` shows where the model looked meanwhile."""

    src: str
    reference: str
    translation: str
    draw: Draw | None = None

    def texts(self) -> dict[str, str]:
        """What is kept of it."""
        return {"src": self.src, "reference": self.reference, "translation": self.translation}


SAMPLE_TEXTS = Sample._fields[:3]


class Progress:
    """Writes to stderr, so that stdout stays free for results."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=cast(IO[str], Stderr()), highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        self._live = None

    def step(self, text: str) -> None:
        """Show where training is."""
        if self._live:
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))
        elif time.monotonic() - self._last_line >= QUIET_SECONDS:
            self.say(text)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._last_line = time.monotonic()
        self.console.print(text, markup=False)

    def samples(self, samples: Sequence[Sample]) -> None:
        """Print sample translations."""
        for sample in samples:
            src, reference, translation = map(visible, sample[:3])
            self.say(f"  source       {src}\n  reference    {reference}\n  translation  {translation}")


def duration(seconds: float) -> str:
    """Write 3725 seconds as 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
