"""Imported first, this lets Ctrl-C end a script that still imports without a traceback."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)
