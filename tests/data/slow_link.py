"""A link that takes its time: `python slow_link.py ONE OTHER DELAY_MS` carries frames between two interfaces, each after a delay.

In place of tc's netem, which is a module that many kernels lack. Needs the right to raw sockets in its network namespace.
"""

import select
import socket
import sys
import time
from collections import deque

_ALL = 0x0003  # ETH_P_ALL
_SOL_PACKET, _VNET_HEADER, _OUTGOING = 263, 15, 4


def main() -> None:
    """Carry frames until killed."""
    names, delay_s = sys.argv[1:3], float(sys.argv[3]) / 1000.0
    ends = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) for _ in names]
    for end, name in zip(ends, names, strict=True):
        # What the sender left to its network card (checksums, cutting into frames) travels in front of the frame.
        end.setsockopt(_SOL_PACKET, _VNET_HEADER, 1)
        end.bind((name, 0))
    waiting: deque[tuple[float, socket.socket, bytes]] = deque()
    print("carries", flush=True)
    while True:
        rest = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(ends, [], [], rest)[0]:
            frame, (_, _, kind, *_) = end.recvfrom(1 << 17)
            if kind != _OUTGOING:
                waiting.append((time.monotonic() + delay_s, ends[1 - ends.index(end)], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, to, frame = waiting.popleft()
            to.send(frame)


if __name__ == "__main__":
    main()
