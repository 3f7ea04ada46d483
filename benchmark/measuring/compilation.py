"""What is compiled for a measurement, and forgotten after it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def each_shape_compiled() -> Iterator[None]:
    """Code of its own for each point, as a training of that size alone would have it; forgotten afterwards.

    Otherwise the second shape would make torch compile for any, which is slower, and the ninth would not be compiled.
    """
    import torch._dynamo as dynamo

    with dynamo.config.patch(automatic_dynamic_shapes=False, recompile_limit=64):
        try:
            yield
        finally:
            dynamo.reset()
