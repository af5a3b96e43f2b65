"""Imported first, this lets Ctrl-C end a script that still imports without a traceback."""

import os
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)
if "RANK" in os.environ:  # each of several processes would print warnings that no user can act upon
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
