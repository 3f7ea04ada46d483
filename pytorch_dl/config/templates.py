"""The named configurations: what each changes of the defaults.

`small`, `base` and `large` have 256, 512 and over 1,000 million parameters at a shared vocabulary of 32,000; the others
are for a CPU (nano, tiny: so many steps, whatever the size of the text) and those of Vaswani et al. 2017.
"""

from typing import Any

TEMPLATES: dict[str, dict[str, dict[str, Any]]] = {
    "nano": {
        "model": {"d_model": 128, "n_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2},
        "data": {"max_tokens_per_batch": 1024},
        "training": {"learning_rate": 2e-3, "max_steps": 2000, "eval_every": 200, "eval_decode": 100},
    },
    "tiny": {
        "model": {"d_model": 256, "n_heads": 4, "num_encoder_layers": 3, "num_decoder_layers": 3},
        "data": {"max_tokens_per_batch": 2048},
        "training": {"learning_rate": 1.5e-3, "max_steps": 10_000, "eval_every": 500, "eval_decode": 200},
    },
    "small": {"model": {"d_model": 896, "n_heads": 14, "num_encoder_layers": 10, "num_decoder_layers": 10}},
    "base": {"model": {"d_model": 1152, "n_heads": 18, "num_encoder_layers": 13, "num_decoder_layers": 13}},
    "large": {"model": {"d_model": 1536, "n_heads": 24, "num_encoder_layers": 15, "num_decoder_layers": 15}},
    "transformer-base": {
        "model": {
            "activation": "relu",
            "norm_type": "layernorm",
            "norm_first": False,
            "positions": "sinusoidal",
            "bias": True,
        },
        "training": {"learning_rate": 7e-4},
        "scheduler": {"name": "inverse_sqrt", "warmup": 4000},
    },
    "transformer-big": {
        "model": {
            "d_model": 1024,
            "n_heads": 16,
            "dropout": 0.3,
            "activation": "relu",
            "norm_type": "layernorm",
            "norm_first": False,
            "positions": "sinusoidal",
            "bias": True,
        },
        "training": {"learning_rate": 5e-4},
        "scheduler": {"name": "inverse_sqrt", "warmup": 4000},
    },
}
