"""What goes on beside training: a checkpoint is copied into the host's memory, and a thread writes the copy.

`Part`s of a checkpoint come in and leave as copies that nobody changes. They cost the memory of weights, optimizer and
moving average once more, until they are written.
"""

from collections.abc import Callable, Iterable
from threading import Thread

import torch
from torch import Tensor

from pytorch_dl.errors import ResourceError, is_out_of_memory
from pytorch_dl.training.checkpoint import Part


class Background:
    """Does one piece of work at a time in a thread, and raises what went wrong there where it is waited for."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: Exception | None = None

    @property
    def has_ended(self) -> bool:
        """Whether work was begun that is done, or has failed, and was not waited for yet."""
        return self._thread is not None and not self._thread.is_alive()

    def begin(self, work: Callable[[], None]) -> None:
        """Start it, once what was begun before has ended."""
        self.wait()
        self._thread = Thread(target=self._do, args=(work,), name="checkpoint")  # the interpreter ends after it
        self._thread.start()

    def settle(self) -> None:
        """Until the work has ended; its error is left to `wait`."""
        if self._thread is not None:
            self._thread.join()

    def wait(self) -> None:
        """Until the work has ended; raises its error."""
        self.settle()
        error, self._thread, self._error = self._error, None, None
        if error is not None:
            raise error

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._error = error


def host_copies(parts: Iterable[Part]) -> list[Part]:
    """Copies in the host's memory, which are whole when this returns; without the memory a ResourceError."""
    try:
        return [part._replace(tensors=_copies(part.tensors)) for part in parts]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            "out of memory for a copy of weights and optimizer", fix="set training.save_in_background to false"
        ) from error


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Empties what it is given: what was put together from several processes is not kept beside its copy."""
    gpus = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
    copies = {name: _copy(tensors.pop(name)) for name in list(tensors)}
    for gpu in gpus:
        torch.cuda.synchronize(gpu)
    return copies


def _copy(tensor: Tensor) -> Tensor:
    """On its way when this returns, where it comes from a GPU: into page-locked memory, all at its full speed."""
    place = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
    return place.copy_(tensor, non_blocking=tensor.is_cuda)
