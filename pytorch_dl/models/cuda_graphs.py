"""Work recorded once as a CUDA graph, then replayed: the GPU gets all its kernels in one call."""

import gc
from collections.abc import Callable

import torch

WARM_UPS = 2  # libraries make their workspaces in the first run

Work = Callable[[], None]


def record(work: Work) -> Work:
    """A call that does again what some work does on the GPU.

    A graph works on fixed addresses and shapes: what goes in is copied to where it was then, and what comes out lies in
    the same place until the next replay. Each has a stream of its own, since libraries keep a workspace for a stream.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    gc.collect()
    gc.disable()  # to free a graph or kernel of before would end the recording; threads that load data do not
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()
    finally:
        gc.enable()
    return graph.replay
