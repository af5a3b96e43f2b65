"""Windows where there is none: `python -m pytest -p pretended_windows tests/plumbing` tries the code on it.

What POSIX alone has is gone (fork, most signals, file locks), text is cp1252 with two characters at a line's
end wherever the encoding is not said, a file that is open is neither replaced nor deleted, and a name has no
colon. The libraries, loaded before, keep what is here. Not pretended: a path's backslashes.
"""

import builtins
import glob
import io
import multiprocessing
import multiprocessing.popen_spawn_posix
import os
import re
import signal
import sys
import types
from contextlib import suppress
from multiprocessing import context
from pathlib import Path

import torch._dynamo
import torch.distributed.run
import torch.utils.cpp_extension  # noqa: F401 - all that is to keep the real `os`

GONE_MODULES = ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
GONE = ("fork", "getpgid", "getuid", "killpg", "mkfifo", "pread", "sched_getaffinity", "setsid", "WNOHANG")
KEPT_SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}
NO_NAME = re.compile(r'[<>:"|?*\x00-\x1f]|[ .]$|^(aux|con|nul|prn|com\d|lpt\d)(\..*)?$', re.IGNORECASE)
real_open, real = io.open, types.ModuleType("os")
real.__dict__.update(os.__dict__)


def check_free(path) -> None:
    """Raise PermissionError where a process has the file open, or this one has mapped it."""
    wanted, held = os.path.realpath(path), set()
    if not os.path.isfile(wanted):
        return
    for entry in glob.iglob("/proc/[0-9]*/fd/*"):
        with suppress(OSError):  # of a process that has ended
            held.add(os.readlink(entry))
    with real_open("/proc/self/maps") as maps:
        if wanted in held or any(line.endswith(f" {wanted}\n") for line in maps):
            raise PermissionError(13, "in use (WinError 32)", os.fsdecode(path))


def check_name(path) -> None:
    """Raise OSError for a name that no file of Windows has."""
    for part in () if isinstance(path, int) else Path(os.fsdecode(path)).parts:
        if part != ".." and NO_NAME.search(part):
            raise OSError(22, "no such name (WinError 123)", os.fsdecode(path))


def open_(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *more, **options):
    """`open`, but that text is by itself what it is in Western Europe, a file's lines end in CRLF."""
    writes = {*mode} & {*"wax+"}
    if writes:
        check_name(file)
    if "b" not in mode and not isinstance(file, int):
        encoding = "cp1252" if encoding in (None, "locale") else encoding
        newline = "\r\n" if newline is None and writes else newline
    return real_open(file, mode, buffering, encoding, errors, newline, *more, **options)


def guard(name: str, check) -> None:
    """Let a function of `os` check its first arguments before it does anything."""
    true = getattr(real, name)

    def call(*args, **options):
        check(*args)
        return true(*args, **options)

    call.__module__, call.__qualname__ = "os", name  # as a pickle names it
    setattr(os, name, call), setattr(real, name, call)


def pretend() -> None:
    """Change `os`, `signal` and `open` for what is imported from now on."""
    signals = types.ModuleType("signal")
    signals.__dict__.update(signal.__dict__)
    for module in [*sys.modules.values()]:
        names = getattr(module, "__dict__", {})
        for name, whole, copy in (("os", os, real), ("_os", os, real), ("signal", signal, signals)):
            if names.get(name) is whole and names is not globals():
                names[name] = copy
    sys.modules.update(dict.fromkeys(GONE_MODULES))
    for name in GONE:
        delattr(os, name)
    for name in [name for name in dir(signal) if name.startswith("SIG") and name not in KEPT_SIGNALS]:
        delattr(signal, name)
    for name in ("unlink", "remove"):
        guard(name, check_free)
    for name in ("replace", "rename"):
        guard(name, lambda old, new: (check_free(old), check_free(new), check_name(new)))
    guard("mkdir", lambda path, *_: check_name(path))
    os.name, io.open, builtins.open = "nt", open_, open_
    for method in ("fork", "forkserver"):
        del context._concrete_contexts[method]
    multiprocessing.set_start_method("spawn", force=True)
    multiprocessing.get_all_start_methods = lambda: ["spawn"]


pretend()
