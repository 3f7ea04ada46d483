"""One training of a comparison: `python -m pytorch_dl.comparing.trial_process PARENT RUN` is `pytorch-dl resume RUN`.

When the process PARENT is gone, however it ended, this one ends at once, like a run that is killed: the comparison may
begin again at any moment, and would find the run folder in use.
"""

import os
import signal
import sys
import threading
import time

LOOK_EVERY = 0.2  # seconds


def end_with(parent: int) -> None:
    """End this process when its parent is another."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    """Go on with the run."""
    parent, run = sys.argv[1:]
    end_with(int(parent))
    from pytorch_dl import entry

    sys.argv[1:] = ["resume", run]
    entry.main()


if __name__ == "__main__":
    main()
