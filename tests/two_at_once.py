"""All tests (no path named) in two processes: each takes the next that is left, one tells all results."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

# only the second process has this, nothing that it starts: the folder with what is taken and its reports
SECOND = os.environ.pop("MINILM_SECOND_OF_TWO", None)


def left(items: list, folder: Path):
    """Yield the tests that the other has not taken: to take one is to create a file, which only one can.

    Those marked `forks` are for the first process: one server of forks is enough (forked.py).
    """
    for item in items:
        if SECOND and item.get_closest_marker("forks"):
            continue
        try:
            (folder / hashlib.sha256(item.nodeid.encode()).hexdigest()).touch(exist_ok=False)
        except FileExistsError:
            continue
        yield item


def run(session, folder: Path, after_each=lambda: None) -> None:
    """Run tests as pytest's own loop does. Each is told the next one: fixtures that it needs too are kept."""
    items = left(session.items, folder)
    item = next(items, None)
    while item:
        following = next(items, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        after_each()
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following


class Second:
    """In the second process: its reports are lines of a file."""

    def __init__(self, config, folder: Path):
        self.config, self.folder = config, folder

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        # opened once: at the time of a report, what its test has put in the place of `open` is still there
        with open(self.folder / "reports", "a", encoding="utf-8", buffering=1) as self.reports:
            run(session, self.folder)
        return True

    def pytest_runtest_logreport(self, report):
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.reports.write(json.dumps(data) + "\n")


class First:
    """In the first process: it starts the second, and tells its reports as if they were its own."""

    def __init__(self):
        self.second, self.ends = None, ExitStack()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session) -> None:
        """Start the second process: both read the tests at the same time."""
        config = session.config
        if config.option.collectonly or config.option.usepdb:
            return
        self.folder = Path(self.ends.enter_context(TemporaryDirectory()))
        (self.folder / "reports").touch()
        told = open(self.folder / "told", "w+", encoding="utf-8")  # noqa: SIM115 - closed with `ends`
        self.told = self.ends.enter_context(told)
        self.second = subprocess.Popen(
            [sys.executable, "-m", "pytest", *config.invocation_params.args],
            env=os.environ | {"MINILM_SECOND_OF_TWO": str(self.folder)}, cwd=config.invocation_params.dir,
            stdin=subprocess.DEVNULL, stdout=self.told, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.ends.callback(self.end_second)

    def end_second(self) -> None:
        self.second.kill()
        self.second.wait()

    def pytest_unconfigure(self) -> None:
        self.ends.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        config = session.config
        if session.testsfailed or not session.items or self.second is None:
            return None  # pytest's own loop says what is wrong, or lists the tests
        names = {item.nodeid for item in session.items}

        with open(self.folder / "reports", encoding="utf-8") as reports:

            def tell() -> None:
                place = reports.tell()
                while (line := reports.readline()).endswith("\n"):
                    report = config.hook.pytest_report_from_serializable(config=config, data=json.loads(line))
                    if report.nodeid not in names:
                        pytest.exit(f"run twice, by two names: {report.nodeid} (a time in it?)", returncode=1)
                    if report.skipped and isinstance(report.longrepr, list):
                        report.longrepr = tuple(report.longrepr)  # file, line, reason: JSON knows no tuple
                    config.hook.pytest_runtest_logreport(report=report)
                    place = reports.tell()
                reports.seek(place)  # before a line that is not whole yet

            try:
                run(session, self.folder, tell)
                code = self.second.wait()
            finally:
                self.end_second()
            tell()
        self.told.seek(0)
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            pytest.exit(f"the second process ended with {code}:\n{self.told.read()[-3000:]}", returncode=1)
        return True


def pytest_configure(config):
    config.addinivalue_line("markers", "forks: starts processes by forked.py")
    if SECOND:
        config.pluginmanager.register(Second(config, Path(SECOND)))
    elif config.args_source == config.ArgsSource.TESTPATHS and (os.cpu_count() or 1) > 1:
        # With a path it is a few tests, or a tool that counts in one process.
        config.pluginmanager.register(First())
