"""The command `compare`: arms of settings trained with several seeds each, and what their scores tell.

trial_process.py  one training, which ends with the process that began it
ground.py         what all trainings share: record, text, tokenizers, token stores, budget
comparison.py     the whole, from configurations to findings
results.py        what it prints, and the files that it leaves
"""
