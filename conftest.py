"""No test leaves this machine: the Hub's clients, which read the environment when they are imported, get a Hub here.

This file stands above `tests/`, so that it is read before any test imports transformers. Each process has a server of
its own, an empty cache and no token.
"""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.hub_server import TOKEN, HubServer

settings.register_profile("gmmxlnet", deadline=None)  # a busy machine is no reason for a test to fail
settings.load_profile("gmmxlnet")
_HUB = HubServer().__enter__()
_HOME = tempfile.TemporaryDirectory(prefix="hf-home-")
atexit.register(_HOME.cleanup)
for _name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_"))]:
    del os.environ[_name]  # somebody's token, cache or offline mode
os.environ |= {"HF_ENDPOINT": _HUB.endpoint, "HF_HOME": _HOME.name, "NO_PROXY": "127.0.0.1,localhost"}
os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

for _signum in (signal.SIGINT, signal.SIGHUP):  # ignored in a shell's background jobs, and then by what tests start
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, signal.default_int_handler if _signum == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture
def hub(monkeypatch):
    """An empty Hub, an empty cache, and the token of somebody who may write below `me/`."""
    _HUB.reset()
    for folder in Path(_HOME.name).iterdir():
        shutil.rmtree(folder, ignore_errors=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return _HUB


@pytest.fixture
def pauses(monkeypatch):
    """What would have been waited, in seconds; nobody waits."""
    seconds = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds
