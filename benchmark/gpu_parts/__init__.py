"""The parts of gpu.py, the sizes at which they measure, and their random text."""
