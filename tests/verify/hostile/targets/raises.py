"""Attentions that raise what is hard to report."""

import threading


def an_error(query, key, value, **options):
    raise RuntimeError("a plain error")


class _Base(BaseException):
    pass


def a_base_exception(query, key, value, **options):
    raise _Base("not even an Exception")


def keyboard_interrupt(query, key, value, **options):
    raise KeyboardInterrupt


class _Unpicklable(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


def what_cannot_be_pickled(query, key, value, **options):
    raise _Unpicklable


class _Mute(Exception):
    def __str__(self):
        raise ValueError("no words")

    __repr__ = __str__


def what_has_no_text(query, key, value, **options):
    raise _Mute


def an_endless_text(query, key, value, **options):
    raise RuntimeError("long " * 10_000_000)


def unprintable_text(query, key, value, **options):
    raise RuntimeError("\x1b[31m red \udcff half a character \x00")


class _Text(str):
    """A string that only its own process can unpickle."""

    def __reduce__(self):
        return _surprise, ()


def _surprise():
    raise RuntimeError("unpickled in the gate")


class _Strange(Exception):
    def __str__(self):
        return _Text("a strange text")


def a_strange_text(query, key, value, **options):
    raise _Strange
