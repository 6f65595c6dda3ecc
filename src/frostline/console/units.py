"""Amounts with units, for messages."""

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(number: float) -> str:
    """Return bytes with three digits and a binary prefix: ``21.2 MiB``."""
    power = 0
    while number >= 999.5 and power < len(UNITS) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.3g} {UNITS[power]}"
