"""Commands of git, DVC and Slurm that must not fail; `git.py` has what a stage may ask of git."""

import subprocess
import tempfile

from gmmxlnet.errors import GMMXLNetError


class CommandError(GMMXLNetError):
    """A command failed."""


def command(*words: str) -> str:
    """Run a command and return what it prints. Raises CommandError with its last words when it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # pipes would wait for DVC's workers
        status = subprocess.run(words, stdout=out, stderr=err, check=False).returncode
        for stream in (out, err):
            stream.seek(0)
        printed, complained = out.read(), err.read()
    if status:
        raise CommandError(f"`{' '.join(words)}` failed: {' '.join((complained or printed).split())[-400:]}")
    return printed
