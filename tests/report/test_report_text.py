"""Numbers as people read them."""

from __future__ import annotations

import pytest

from tersenet.report import text

N = text.NBSP


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0158, "1.58 %"),
        (0.0, "0.00 %"),
        (1.0, "100.00 %"),
        (0.00004, "0.004 %"),
        (0.000051, "0.01 %"),
        (12.0, "1,200.00 %"),
        (None, "–"),
    ],
)
def test_percent(share, expected):
    assert text.percent(share) == expected.replace(" ", N)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(39.47, "39.5×"), (2.534, "2.53×"), (9.996, "10.0×"), (99.96, "100×"), (1110.4, "1,110×"), (None, "–")],
)
def test_factor_keeps_three_figures(value, expected):
    assert text.factor(value) == expected


@pytest.mark.parametrize(("number", "expected"), [(27013, "27,013 bytes"), (1, "1 byte"), (0, "0 bytes"), (None, "–")])
def test_size(number, expected):
    assert text.size(number) == expected.replace(" ", N)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(45.24, "45.2 s"), (59.96, "1 min 00 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_duration_carries_over(seconds, expected):
    assert text.duration(seconds).replace(N, " ") == expected


def test_points_say_the_direction():
    assert text.points(0.0164, 0.0158).replace(N, " ") == "−0.06 points"
    assert text.points(0.0158, 0.0164).replace(N, " ") == "+0.06 points"
    assert text.points(0.0164, 0.0164).replace(N, " ") == "0.00 points"
    assert text.points(None, 0.1) == "–"


def test_ticks_have_the_decimals_of_their_step():
    assert text.tick_percent(0.016, 0.0005).replace(N, " ") == "1.60 %"
    assert text.tick_percent(0.02, 0.02).replace(N, " ") == "2 %"
    assert text.tick_size(20_000, 0).replace(N, " ") == "20 kB"
    assert text.tick_size(21_500, 500).replace(N, " ") == "21.5 kB"
    assert text.tick_decimal(1e-9, 1e-9) == "1e-09"


def test_shape():
    assert text.shape((300, 784)).replace(N, " ") == "300 × 784"
    assert text.shape(()) == "scalar"


def test_divide_never_raises():
    assert text.divide(1, 2) == 0.5
    assert text.divide(1, 0) is None
    assert text.divide(10**400, 3) is None
    assert text.divide(1e308, 1e-10) is None


def test_clean_replaces_what_could_steer_a_terminal():
    assert text.clean("a\x1b[2Jb\u202ec\ud800\n") == "a�[2Jb�c�\n"
    assert text.clean_line("a\nb\tc") == "a�b�c"
