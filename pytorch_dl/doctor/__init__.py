"""Whether trainings on this machine and this disk survive what kills them: `pytorch-dl doctor`."""
