"""Train encoder-decoder Transformers from scratch on your own text pairs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_dl.config import Config, get_config, load_config
    from pytorch_dl.translator import Translator, load

__version__ = "0.1.0"
__all__ = ["Config", "Translator", "__version__", "get_config", "load", "load_config"]


def __getattr__(name: str) -> object:
    """Import the public names when they are asked for: `import pytorch_dl` alone does not load torch."""
    import importlib

    for module in ("config", "translator"):
        if name in __all__ and hasattr(found := importlib.import_module(f"pytorch_dl.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
