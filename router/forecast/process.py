"""The process that makes forecasts: series on standard input, predictions on standard output, as JSON.

A process of its own, for it brings pandas, and takes a second of one core: a server that forecasts is no larger and no slower for
it, and whatever goes wrong in a library is over when the process is.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import orjson

from anabranch.router.forecast.model import predict

_NICE = 10


def main() -> None:
    """Read, forecast, write."""
    os.nice(_NICE)
    asked = orjson.loads(sys.stdin.buffer.read())
    told = []
    for each in asked:
        found = predict(np.array(each["rates"], dtype=float))
        if found is not None:
            told.append(
                {
                    "model": each["model"],
                    "level": each["level"],
                    "mean": max(found.mean),
                    "high": max(found.high),
                }
            )
    sys.stdout.buffer.write(orjson.dumps(told))


if __name__ == "__main__":
    main()
