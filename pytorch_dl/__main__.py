"""`python -m pytorch_dl` is `pytorch-dl`."""

from pytorch_dl.entry import main

main()
