"""`python -m pytorch_dl` is `pytorch-dl`."""

from pytorch_dl.cli import main

main()
