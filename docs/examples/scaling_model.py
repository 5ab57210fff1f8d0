"""How training might scale, on paper: a formula with its assumptions, to be filled with numbers of one's own.

Nothing here was measured on GPUs. Run it for the table of docs/distributed.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

GRADIENTS = 33_614_580 * 4
"""Bytes of float32 gradients: RetinaNet ResNet-50 FPN, 80 classes, three trainable stages (counted, not guessed)."""
BUCKETS = 6
"""Pieces of 25 MB in which DDP exchanges them."""


class Machine(NamedTuple):
    """What is assumed of the hardware and of the work on one GPU.

    Attributes:
        step: Seconds of an optimiser step on one GPU alone.
        inside: Bytes a second between the GPUs of a machine.
        outside: Bytes a second that leave a machine, over all its network cards.
        latency: Seconds of one message.
        hidden: Share of the step during which gradients travel unnoticed: what is left of the backward pass when the
            first bucket is full.
        spread: Standard deviation of a process's step, as a share of it; images differ in shape and boxes.
        gpus: Of a machine.
    """

    step: float
    inside: float = 200e9
    outside: float = 400e9
    latency: float = 15e-6
    hidden: float = 0.5
    spread: float = 0.03
    gpus: int = 8


def exchange(machine: Machine, count: int) -> float:
    """Seconds to add up all gradients of ``count`` GPUs in a ring through all machines."""
    machines = math.ceil(count / machine.gpus)
    near = 2 * (count - 1) / count * GRADIENTS / machine.inside
    far = 2 * (machines - 1) / machines * GRADIENTS / machine.outside
    return max(near, far) + BUCKETS * message(machine, count)


def message(machine: Machine, count: int) -> float:
    """Seconds of a sum of a few numbers, up and down a tree."""
    return 2 * math.ceil(math.log2(count)) * machine.latency


def slowest(count: int) -> float:
    """Standard deviations by which the slowest of ``count`` processes is late (Blom's approximation of the normal)."""
    low, high, wanted = -10.0, 10.0, (count - 0.375) / (count + 0.25)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 + math.erf(middle / math.sqrt(2))) / 2 < wanted else (low, middle)
    return low


def efficiency(machine: Machine, count: int) -> float:
    """Images a second of ``count`` GPUs over ``count`` times those of one."""
    shown = max(0.0, exchange(machine, count) - machine.hidden * machine.step)
    last = exchange(machine, count) / BUCKETS
    counts = 2 * message(machine, count)  # the losses' counts before the forward, the losses after it
    late = machine.step * machine.spread * slowest(count)
    return machine.step / (machine.step + late + max(shown, last) + counts)


CASES = {
    "8 images a GPU, 25 ms, 8 x 400 Gbit/s a machine": Machine(0.025),
    "8 images a GPU, 25 ms, 100 Gbit/s a machine": Machine(0.025, outside=12.5e9),
    "2 images a GPU, 8 ms, 8 x 400 Gbit/s a machine": Machine(0.008),
    "2 images a GPU, 8 ms, 100 Gbit/s a machine": Machine(0.008, outside=12.5e9),
}


def table() -> list[str]:
    """The rows of the page."""
    return [
        f"| {name} | " + " | ".join(f"{100 * efficiency(case, count):.0f} %" for count in (8, 64, 512)) + " |"
        for name, case in CASES.items()
    ]


if __name__ == "__main__":
    print("\n".join(table()))
