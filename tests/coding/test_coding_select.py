import subprocess
import sys

import numpy as np
import pytest

from tersenet.coding import CodingError, coder_name, decode, encode
from tersenet.coding.static import MAX_USED
from tersenet.core.code import Symbols
from tersenet.core.errors import RecipeError


def test_an_unknown_coder_gets_a_hint() -> None:
    symbols = Symbols(np.zeros(3, dtype=np.int32), 2)
    with pytest.raises(RecipeError, match="did you mean 'huffman'"):
        encode(symbols, "hufman")
    with pytest.raises(CodingError, match="unknown coder"):
        decode("zip", b"", 3, 2)
    with pytest.raises(CodingError, match="number 200"):
        coder_name(200)


def test_more_distinct_symbols_than_a_table_takes_are_written_raw() -> None:
    values = np.arange(MAX_USED + 1, dtype=np.int32)
    encoded = encode(Symbols(values, MAX_USED + 1), "ans")
    assert encoded.coder == "raw"
    np.testing.assert_array_equal(decode("raw", encoded.payload, len(values), MAX_USED + 1), values)


def test_equal_sizes_go_to_the_lower_number() -> None:
    assert encode(Symbols(np.zeros(0, dtype=np.int32), 4, zero=True)).coder == "raw"


def test_heavy_libraries_are_imported_only_when_a_coder_needs_them() -> None:
    probe = "import sys, tersenet.coding; print([m for m in ('numba', 'constriction', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"
