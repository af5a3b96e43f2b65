"""Each script imports this first: what has to be set before PyTorch is imported."""

import os
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C among the imports ends a script without a traceback
# How often a thread that waits for others spins before it sleeps. By itself libgomp (Linux) spins 150 times
# as often, and beside busy programs keeps the very core that the others wait for.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
