"""Numbers and names as people read them: thousands with commas, three figures where more say nothing, units always."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

MISSING = "–"
NBSP = "\u00a0"
"""Between a number and its unit, which stay on one line."""

# Control characters, lone surrogates and bidirectional overrides: invisible, and able to change what is around them.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """`text` with every character that could steer a terminal or break a page shown as �; keeps line ends and tabs."""
    return _UNSAFE.sub("\ufffd", text)


def clean_line(text: str) -> str:
    """The same for a name, which has one line."""
    return re.sub("[\n\t]", "\ufffd", clean(text))


def divide(part: float, whole: float) -> float | None:
    """part / whole, or None where that is not a finite number."""
    try:
        quotient = part / whole
    except (ZeroDivisionError, OverflowError):
        return None
    return quotient if math.isfinite(quotient) else None


def count(number: int | None) -> str:
    """27013 → '27,013'."""
    return MISSING if number is None else f"{number:,}"


def size(number: int | None) -> str:
    """27013 → '27,013 bytes'."""
    return MISSING if number is None else f"{number:,}{NBSP}{'byte' if number == 1 else 'bytes'}"


def mebibytes(number: int | None) -> str:
    """7340032 → '7.0 MiB': for memory, which no run repeats to the byte."""
    return MISSING if number is None else f"{number / 2**20:,.1f}{NBSP}MiB"


def tick_size(number: float, step: float) -> str:
    """20000 → '20 kB' (kB = 1,000 bytes): for the ticks of an axis, as are the next two."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(number) >= scale:
            return f"{tick_decimal(number / scale, step / scale)}{NBSP}{unit}"
    return f"{tick_decimal(number, step)}{NBSP}B"


def tick_percent(share: float, step: float) -> str:
    """0.016 in steps of 0.0005 → '1.60 %'."""
    return f"{tick_decimal(100 * share, 100 * step)}{NBSP}%"


def tick_decimal(number: float, step: float) -> str:
    """With as many decimals as a step of the axis has; a step of 0 stands for a logarithmic axis."""
    digits = -math.floor(math.log10(step) + 1e-9) if step else 99
    return f"{number:.{max(0, digits)}f}" if digits <= 6 and abs(number) < 1e6 else f"{number:.4g}"


def percent(share: float | None, digits: int = 2) -> str:
    """0.0158 → '1.58 %'. A share that would round to nothing keeps two figures."""
    if share is None:
        return MISSING
    value = 100 * share
    if abs(value) >= 1e9:
        return f"{value:.3g}{NBSP}%"
    rounds_away = value != 0 and abs(value) < 0.5 * 10**-digits
    return f"{value:.2g}{NBSP}%" if rounds_away else f"{value:,.{digits}f}{NBSP}%"


def points(before: float | None, after: float | None) -> str:
    """The change from one share to another in percentage points, with its sign: '−0.06 points'."""
    if before is None or after is None:
        return MISSING
    change = 100 * (after - before)
    text = f"{abs(change):.2f}{NBSP}points"
    return text if text.startswith("0.00" + NBSP) else ("−" if change < 0 else "+") + text


def factor(value: float | None) -> str:
    """39.47 → '39.5×', 2.534 → '2.53×', 1110.4 → '1,110×'."""
    if value is None:
        return MISSING
    if abs(value) >= 1e12:
        return f"{value:.3g}×"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:,.{digits}f}×"


def decimal(value: float | None, figures: int = 4) -> str:
    """A plain number to `figures` significant figures."""
    return MISSING if value is None else f"{value:.{figures}g}"


def significant(value: float | None, figures: int = 3) -> str:
    """88563.2 → '88,600', 10.94 → '10.9', 0.02312 → '0.0231': for estimates and times."""
    if value is None:
        return MISSING
    if value == 0 or not 1e-6 <= abs(value) < 1e12:
        return f"{value:.{figures}g}"
    digits = figures - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def joules(picojoules: float | None) -> str:
    """1.094e7 → '10.9 µJ'."""
    return _in_unit(picojoules, (("J", 1e12), ("mJ", 1e9), ("µJ", 1e6), ("nJ", 1e3), ("pJ", 1.0)))


def brief(seconds: float | None) -> str:
    """0.001534 → '1.53 ms': of less than minutes."""
    return _in_unit(seconds, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)))


def rate(per_second: float | None, unit: str) -> str:
    """8.53e10, 'FLOP' → '85.3 GFLOP/s'."""
    scales = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("", 1.0))
    return _in_unit(per_second, tuple((f"{prefix}{unit}/s", scale) for prefix, scale in scales))


def _in_unit(value: float | None, units: Sequence[tuple[str, float]]) -> str:
    """In the first unit of which it is at least one (999.6 of one are 1 of the next), else in the last."""
    if value is None:
        return MISSING
    unit, scale = next(((unit, scale) for unit, scale in units if abs(value) >= 0.9995 * scale), units[-1])
    return f"{significant(value / scale)}{NBSP}{unit}"


def bits(value: float | None) -> str:
    """Bits per weight, two decimals."""
    return MISSING if value is None else f"{value:,.2f}" if abs(value) < 1e9 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """45.24 → '45.2 s', 200 → '3 min 20 s', 7500 → '2 h 05 min'."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f}{NBSP}s"
    if seconds > 1e9:
        return f"{seconds:.3g}{NBSP}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60:02d}{NBSP}s"
    return f"{whole // 3600}{NBSP}h {whole % 3600 // 60:02d}{NBSP}min"


def shape(sides: Iterable[int]) -> str:
    """(300, 784) → '300 × 784'."""
    return f"{NBSP}×{NBSP}".join(str(side) for side in sides) or "scalar"
