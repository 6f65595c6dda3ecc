"""Amounts with units, for messages."""

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(number: float) -> str:
    """Return bytes with three digits and a binary prefix: ``21.2 MiB``."""
    power = 0
    while number >= 999.5 and power < len(UNITS) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.3g} {UNITS[power]}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 seed``, ``5 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def seconds(value: float) -> str:
    """Return a duration: ``0.42 s``, ``14.2 s``, ``1 min 05 s``, ``2 h 04 min``."""
    if value == 0:
        return "0 s"
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(value / 60), 60)
    return f"{hours} h {minutes:02d} min"
