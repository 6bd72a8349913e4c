"""When Python searches for objects that nobody uses any more: not while modules are imported, and not at exit.

A stage imports 5,000 modules, whose objects stay until it ends. To search them again and again while they are made, and
once more at exit, takes a third of the time in which a stage starts and ends. The programs of this project do without.
"""

import atexit
import gc


def pause() -> None:
    """No search until `resume`. Call it before the first large import."""
    gc.disable()


def resume() -> None:
    """Search again, but not among what is there by now."""
    gc.freeze()
    gc.enable()


def leave_at_exit() -> None:
    """Let the process end without a last search."""
    atexit.register(gc.freeze)
