"""Settings that must be made before PyTorch is imported: each script imports this module first."""

import os
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends a script without a traceback
# How often a waiting thread spins before it sleeps. The default of libgomp (Linux) is 150 times this:
# beside busy programs, the thread then occupies the very core that those it waits for need.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
