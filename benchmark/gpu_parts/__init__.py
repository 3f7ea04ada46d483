"""The parts of gpu.py, at which sizes, and on which text."""
