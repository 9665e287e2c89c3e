"""Figures, times and what is missing, as people read them: one hand for terminal, report and messages."""

import math
from typing import TypeGuard

MISSING = "–"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SMALL = 0.001  # a distance below it is written with a power of ten


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number."""
    return value is not None and math.isfinite(value)


def number(value: float | None, unit: str = "share", *, bare: bool = False) -> str:
    """Returns a value in its unit.

    Args:
        value: None, or no finite number, is missing.
        unit: "share" (written in percent), "points", "dB", "count", "detections", "seconds" or "bytes"; anything else
            is a distance.
        bare: leaves the percent sign out.

    >>> number(0.9964), number(26.123, "points"), number(0.0342, "distance"), number(0.00004, "distance")
    ('99.6 %', '26.12', '0.0342', '4.0 × 10⁻⁵')
    """
    if not is_known(value):
        return MISSING
    if unit == "seconds":
        return duration(value)
    if unit == "bytes":
        return size(value)
    far = abs(value)
    if unit == "share":
        text = f"{100 * value:.1f}"
    elif unit in ("points", "dB"):
        text = f"{value:.2f}"
    elif unit in ("count", "detections"):
        text = f"{value:.0f}"
    elif 0 < far < SMALL:
        return power(value)
    else:
        text = f"{value:.{1 if far >= 10 else 2 if far >= 1 else 4}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−") + (" %" if unit == "share" and not bare else "")


def power(value: float | None) -> str:
    """Returns a small value as "1.2 × 10⁻⁴"."""
    if not is_known(value):
        return MISSING
    if value == 0:
        return "0"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.replace('-', '−')} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def duration(seconds: float) -> str:
    """Returns seconds as people read them.

    >>> duration(8.04), duration(4000), duration(90)
    ('8.0 s', '1 h 06 min', '1 min 30 s')
    """
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(count: float) -> str:
    """Returns bytes as people read them.

    >>> size(0), size(2_400_000), size(3_300_000_000)
    ('0.0 kB', '2.4 MB', '3.3 GB')
    """
    if not math.isfinite(count):
        return MISSING
    of, name = next(((of, name) for of, name in ((1e9, "GB"), (1e6, "MB")) if count >= of), (1e3, "kB"))
    return f"{count / of:.1f} {name}"
