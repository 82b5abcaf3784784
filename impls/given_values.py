"""What messages and checks of single arguments share."""

import operator


def integer(name: str, value: object) -> int:
    """Return an argument as an integer; raise TypeError with its name and value for what is none, True and False."""
    if isinstance(value, bool):
        raise TypeError(f"{name}: {value} is not an integer")
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: {shown(value)} is not an integer") from None


def shown(value: object) -> str:
    """Return a value as it was written, cut short when it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
