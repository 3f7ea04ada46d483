"""Export to safetensors: the weights, the configuration and the tokenizers of a run, and nothing else of it.

The folder is laid out as a run is, so that `load` and the commands read it.
"""

from pathlib import Path

from safetensors import __version__
from safetensors.torch import save_file

from pytorch_dl.config import Config, to_yaml
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.export.folder import Origin, exported_folder, write_notes
from pytorch_dl.files import new_folder, write_file
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.run_folder import RunFolder


def export(
    model: OptimizedTransformer, tokenizers: TokenizerPair, config: Config, out: Path, *, origin: Origin
) -> None:
    """Write the folder `out`."""
    with exported_folder(out) as new:
        folder = RunFolder(new)
        write_file(folder.config, to_yaml(config))
        tokenizers.save(folder.tokenizer)
        with new_folder(folder.model) as weights:
            save_file(ckpt.model_weights(model), weights / ckpt.MODEL)
        write_notes(
            new, to="safetensors", origin=origin, versions={"safetensors": __version__}, weights="float32", parity={}
        )
