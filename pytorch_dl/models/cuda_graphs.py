"""Work recorded once as a CUDA graph, then replayed: the GPU gets all its kernels in one call."""

from collections.abc import Callable

import torch

WARM_UPS = 2  # libraries make their workspaces in the first run

Work = Callable[[], None]


class CudaGraphs:
    """Records what some work does on the GPU, all on one stream: libraries keep a workspace for each.

    A graph works on fixed addresses and shapes: what goes in is copied to where it was then, and what comes out lies in
    the same place until the next replay.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, work: Work) -> Work:
        """A call that does the work again."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            work()
        return graph.replay
