"""What git says of the folder that a stage runs in."""

import subprocess


def git(*arguments: str) -> str:
    """What git prints; empty where it fails, as outside a repository, or is not installed. Takes no lock."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def git_commit() -> str:
    """The commit checked out here; empty outside a repository."""
    return git("rev-parse", "HEAD")
