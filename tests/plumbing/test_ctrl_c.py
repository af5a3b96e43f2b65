"""Grades plumbing/ctrl_c.py: the first Ctrl-C is a wish, the second an order."""

import signal
import threading

import pytest

from minilm.plumbing.ctrl_c import ctrl_c_as_a_wish

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_only_notes_the_wish(number):
    with ctrl_c_as_a_wish() as wish:
        assert not wish.stop
        signal.raise_signal(number)
        assert wish.stop


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_ends_at_once(number):
    with pytest.raises(KeyboardInterrupt), ctrl_c_as_a_wish():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(number)
        raise AssertionError("the second signal did not end the block")


def test_the_handlers_are_put_back_however_the_block_ends():
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with ctrl_c_as_a_wish():
        assert [signal.getsignal(number) for number in SIGNALS] != handlers
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    with pytest.raises(ZeroDivisionError), ctrl_c_as_a_wish():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_each_block_has_its_own_wish():
    with ctrl_c_as_a_wish():
        signal.raise_signal(signal.SIGINT)
    with ctrl_c_as_a_wish() as wish:
        assert not wish.stop, "the wish of an earlier run stops this one"


def test_outside_the_main_thread_signals_are_left_alone():
    handlers, seen = [signal.getsignal(number) for number in SIGNALS], []

    def work():
        with ctrl_c_as_a_wish() as wish:
            seen.append((wish.stop, [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, handlers)]
