"""What compiling for a device needs, and whether this machine has it."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

COMPILERS = {"cpu": ("CXX", "g++", "clang++"), "cuda": ("CC", "gcc", "clang")}  # a variable, and names


def missing_for_compilation(device: str) -> str | None:
    """What torch.compile, or on a GPU a kernel in Triton, needs on this machine and does not find, or None."""
    if device == "cuda" and not importlib.util.find_spec("triton"):
        return "Triton"
    variable, *names = COMPILERS.get(device, COMPILERS["cpu"])
    if not any(shutil.which(name) for name in (os.environ.get(variable), *names) if name):
        return "a C compiler" if device == "cuda" else "a C++ compiler"
    return None if (Path(sysconfig.get_path("include")) / "Python.h").exists() else "Python.h"
