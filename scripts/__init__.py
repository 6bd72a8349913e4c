"""What developers run: the check of reproducibility, the fuzzing."""
