"""Ctrl-C and SIGTERM wait while something must not be broken off, and are not lost."""

import os
import signal
import threading

import pytest

from attention_gate.verify.world.signals import shielded


def test_an_interruption_takes_effect_after_the_shield():
    done = []

    def work():
        with shielded():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(1)
            with shielded():
                os.kill(os.getpid(), signal.SIGINT)
                done.append(2)
            done.append(3)
        done.append(4)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ones_own_is_called_once(monkeypatch):
    calls = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    try:
        with shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            assert calls == []
        assert calls == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_needs_no_shield():
    done = []

    def work():
        with shielded():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
