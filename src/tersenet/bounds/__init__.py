"""How far a file is from what is possible: code lengths, rate-distortion, description length, PAC-Bayes, when to stop.

Pure mathematics on numbers and numpy arrays. What each bound assumes and what it does not say: `docs/BOUNDS.md`.
"""

from tersenet.bounds.code_length import CodeLength, adaptive_bits, code_length, zeroth_order_bits
from tersenet.bounds.description_length import Prequential, TwoPart, doubling, prequential_bits, two_part
from tersenet.bounds.pac_bayes import Certificate, certificate, kl, kl_inverse
from tersenet.bounds.rate_distortion import Allocation, entropy_power, water_fill, water_fill_rate
from tersenet.bounds.stop import Point, closest_to, gap, hull, marginals, stop_at

__all__ = [
    "Allocation",
    "Certificate",
    "CodeLength",
    "Point",
    "Prequential",
    "TwoPart",
    "adaptive_bits",
    "certificate",
    "closest_to",
    "doubling",
    "code_length",
    "entropy_power",
    "gap",
    "hull",
    "kl",
    "kl_inverse",
    "marginals",
    "prequential_bits",
    "stop_at",
    "two_part",
    "water_fill",
    "water_fill_rate",
    "zeroth_order_bits",
]
