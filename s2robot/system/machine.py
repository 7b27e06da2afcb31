"""Facts about the machine that computed a number: those that can change it by rounding, none that differ between runs.

docs/architecture.md ("What is the same where") lists what is equal on which machines.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Machine = dict[str, Any]
"""`processor`, `capability`, `threads`, `device`, `torch`; in results also `engine` and `renderer`. JSON-able."""

_CPUINFO = Path("/proc/cpuinfo")
# Fields that distinguish processors on x86 and ARM. Names alone do not: clouds report just "AMD EPYC".
_X86 = {"vendor_id": "", "cpu family": "family ", "model": "model ", "stepping": "stepping "}
_ARM = {"CPU implementer": "implementer ", "CPU part": "part ", "CPU variant": "variant ", "CPU revision": "revision "}
_SHOWN = ("renderer", "processor", "capability", "threads", "device", "engine", "torch")


def machine_facts(device: torch.device) -> Machine:
    """Return processor, PyTorch version and device; if the device is the CPU, also instruction set and threads."""
    import torch

    # str(): training states hold this value, and `torch.load(weights_only=True)` refuses the class `TorchVersion`.
    facts: Machine = {"processor": processor_name(), "torch": str(torch.__version__)}
    if device.type == "cuda":  # the CPU then computes neither features nor actions, so its threads do not matter
        return {**facts, "device": torch.cuda.get_device_name(device)}
    computing = {"capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    return {**facts, **computing, "device": device.type}


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """Return name, family, model and stepping of the first processor; the architecture if the system does not say."""
    try:
        first = cpuinfo.read_text(errors="replace").split("\n\n")[0]
    except OSError:
        return platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    name = found.get("model name", platform.machine())
    details = [f"{word}{found[key]}" for key, word in {**_X86, **_ARM}.items() if found.get(key)]
    return f"{name} ({' '.join(details)})" if details else name


def machine_label(machine: Mapping[str, Any]) -> str:
    """Return the facts in one line.

    >>> machine_label({"processor": "AMD EPYC", "capability": "AVX512", "threads": 2, "device": "cpu"})
    'AMD EPYC, AVX512, 2 threads, cpu'
    """
    words = []
    for fact in _SHOWN:
        value = machine.get(fact)
        if value is not None:
            words.append({"threads": f"{_count(value, 'thread')}", "torch": f"torch {value}"}.get(fact, str(value)))
    return ", ".join(words) or "unknown"


def differing_facts(former: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in words the facts that both machines record and that differ; empty if none does.

    >>> differing_facts({"threads": 2, "device": "cpu"}, {"threads": 4, "device": "cpu"})
    'threads 4, was 2'
    """
    changed = [fact for fact in former if fact in now and None not in (former[fact], now[fact])]
    return "; ".join(f"{fact} {now[fact]}, was {former[fact]}" for fact in changed if former[fact] != now[fact])


def with_machine(machines: Sequence[Machine], machine: Machine) -> list[Machine]:
    """Append `machine` to the list, or move it to the end if the list holds it already."""
    return [*(other for other in machines if other != machine), machine]


def count_machines(machines: Iterable[Mapping[str, Any] | None]) -> list[Machine]:
    """Return the distinct machines, each with its number of `episodes`; None (unknown machine) is left out.

    Entries that already have `episodes` count as that many.
    """
    counts: dict[tuple[tuple[str, Any], ...], int] = {}
    for machine in machines:
        if machine is not None:
            facts = _facts(machine)
            counts[facts] = counts.get(facts, 0) + machine.get("episodes", 1)
    return [{**dict(facts), "episodes": count} for facts, count in counts.items()]


def pool_machines(
    parts: Iterable[tuple[Sequence[Machine], Sequence[Mapping[str, Any]]]],
) -> tuple[list[Machine], list[dict[str, Any]]]:
    """Join the episodes of several documents into one list of machines and one list of rows.

    Args:
        parts: (machines, rows) of each document; the `machine` of a row is its index in `machines`, or None.

    Returns:
        The machines of all episodes that ran, counted, and all rows, whose `machine` is now an index in that list.
    """
    found = [
        (row, None if row.get("machine") is None else {**machines[row["machine"]], "episodes": 1})
        for machines, rows in parts
        for row in rows
    ]
    kinds = count_machines(machine for row, machine in found if row.get("error") is None)
    return kinds, [{**row, "machine": machine and place_of(machine, kinds)} for row, machine in found]


def place_of(machine: Machine, counted: Sequence[Machine]) -> int:
    """Return the index of a machine in the output of `count_machines`."""
    return [_facts(kind) for kind in counted].index(_facts(machine))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _facts(machine: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, value) for name, value in machine.items() if name != "episodes"))


MIXED = "the episodes were run on several kinds of machine"


def mixed_machines(machines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the warning for episodes counted together that several kinds of machine ran; empty if one machine did."""
    if len(machines) < 2:
        return []
    shown = "; ".join(f"{machine_label(machine)} ({_count(machine['episodes'], 'episode')})" for machine in machines)
    return [f"{MIXED}, and by rounding an episode may end otherwise on one than on another: {shown}"]
