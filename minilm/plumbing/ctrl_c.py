"""Ctrl-C as a wish: the step that runs is finished, and its result saved, before the program ends."""

import signal
from contextlib import contextmanager


class Wish:
    """Whether somebody pressed Ctrl-C."""

    stop = False


@contextmanager
def ctrl_c_as_a_wish():
    """Turn the first Ctrl-C (or a cluster's SIGTERM) into `wish.stop`, so that no step is cut in half.

    The second one ends the program at once. Outside the main thread signals are left as they are.
    """
    wish = Wish()

    def handle(signum, frame):
        if wish.stop:
            raise KeyboardInterrupt
        wish.stop = True

    try:
        earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        earlier = {}
    try:
        yield wish
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
