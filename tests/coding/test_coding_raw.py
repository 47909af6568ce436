import numpy as np
import pytest

from tersenet.coding import CodingError, decode, encode
from tersenet.core.code import Symbols


@pytest.mark.parametrize("alphabet", [1, 2, 3, 8, 9, 255, 256, 257, 65536, 2**31])
def test_bytes_are_the_binary_digits_of_the_symbols(alphabet: int) -> None:
    values = np.random.default_rng(alphabet).integers(alphabet, size=203).astype(np.int32)
    width = (alphabet - 1).bit_length()
    digits = "".join(format(value, f"0{width}b") for value in values.tolist()) if width else ""
    expected = bytes(int(digits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(digits), 8))
    payload = encode(Symbols(values, alphabet), "raw").payload
    assert payload == expected
    np.testing.assert_array_equal(decode("raw", payload, 203, alphabet), values)


def test_blocks_join_without_a_seam() -> None:
    values = np.random.default_rng(0).integers(11, size=(1 << 17) + 5).astype(np.int32)
    payload = encode(Symbols(values, 11), "raw").payload
    assert len(payload) == (4 * len(values) + 7) // 8
    np.testing.assert_array_equal(decode("raw", payload, len(values), 11), values)


def test_wrong_size_and_symbols_beyond_the_alphabet_are_rejected() -> None:
    with pytest.raises(CodingError, match="do not take"):
        decode("raw", b"\0\0", 5, 16)
    with pytest.raises(CodingError, match="outside"):
        decode("raw", b"\xff", 2, 11)
