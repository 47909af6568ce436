"""Bytes and CPU seconds of NNCodec's coder on integer tensors; run by `context_coder.py` with a Python that has it.

    PYTHON benchmarks/nncodec_sizes.py IN.npz

For each name of an array in IN.npz that stands in a line of standard input, it prints a line: [bytes, seconds of
encoding, seconds of decoding]. So the two coders can take turns, and both are measured under the same load.

Calls the coder itself (DeepCABAC, ISO/IEC 15938-17) with optimised context parameters, unary length 11 as its own
defaults, in three modes (profile 0; profile 1 with row skipping; that and the codebook's size, which bounds the levels)
and takes the smallest. Headers of its bitstream units are left out, in its favour.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from nncodec.extensions import deepCABAC

MODES = ((0, False), (1, False), (1, True))
UNARY = 11


def once(tensor: np.ndarray, profile: int, bounded: bool) -> tuple[int, float, float]:
    skip = (~tensor.reshape(len(tensor), -1).any(axis=1)).astype(np.int32)
    off, none = deepCABAC.HdspMode.AlwaysOff, np.zeros(0, np.int8)
    levels = (int(tensor.max() - tensor.min()) + 1, int(-tensor.min())) if bounded else (0, 0)
    start = time.process_time()
    encoder = deepCABAC.Encoder()
    encoder.initCtxModels(UNARY, 1)
    encoder.encodeLayer(tensor, 0, 0, profile, 0, int(profile and skip.any()), skip, off, none, *levels)
    data = encoder.finish()
    middle = time.process_time()
    decoder, decoded = deepCABAC.Decoder(), np.zeros_like(tensor)
    decoder.setStream(data)
    decoder.initCtxModels(UNARY)
    decoder.decodeLayer(decoded, 0, 0, profile, 0, off, none, *levels)
    decoder.finish()
    if not np.array_equal(tensor, decoded):
        raise SystemExit("NNCodec did not give the tensor back")
    return len(data), middle - start, time.process_time() - middle


def main() -> None:
    with np.load(sys.argv[1]) as file:
        tensors = {name: np.ascontiguousarray(file[name], dtype=np.int32) for name in file.files}
    for line in sys.stdin:
        print(json.dumps(min(once(tensors[line.strip()], *mode) for mode in MODES)), flush=True)


if __name__ == "__main__":
    main()
