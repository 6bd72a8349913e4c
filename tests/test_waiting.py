"""Tests wait for other programs as long as these work."""

import subprocess
import sys
import time

import pytest

from tests.progress import wait_while_it_works


@pytest.fixture
def program():
    """A function from Python code to a process that runs it."""
    started = []

    def start(code):
        started.append(subprocess.Popen([sys.executable, "-c", code]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_program_that_works_is_waited_for_longer_than_an_idle_one(program):
    busy = program("import time\nwhile time.process_time() < 0.6: pass")
    begin = time.monotonic()
    assert wait_while_it_works(lambda: busy.poll() is not None, busy, idle=0.5)
    assert time.monotonic() - begin > 0.5


def test_one_whose_child_works_is_waited_for(program):
    parent = program(
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 0.6: pass'])"
    )
    assert wait_while_it_works(lambda: parent.poll() is not None, parent, idle=0.5)


def test_one_that_does_nothing_or_has_ended_is_not(program):
    with pytest.raises(AssertionError, match=r"has done nothing for 0\.5 seconds"):
        wait_while_it_works(lambda: False, program("import time; time.sleep(600)"), idle=0.5)
    with pytest.raises(AssertionError, match="has ended with status 3"):
        wait_while_it_works(lambda: False, program("raise SystemExit(3)"))
