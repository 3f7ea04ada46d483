"""All that a run folder tells, as one page of HTML that needs nothing else."""
