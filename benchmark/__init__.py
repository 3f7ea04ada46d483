"""The measurements. They use the CPU as the command line does, which is settled before torch is imported."""

from pytorch_dl.process import fix_kernels

fix_kernels()
