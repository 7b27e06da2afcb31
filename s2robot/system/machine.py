"""The kind of machine a number was computed on: what may change it by rounding, and nothing that differs between runs.

What is the same where, docs/architecture.md says.
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
# What tells one kind of processor from another, on x86 and on ARM. Names alone do not: clouds report "AMD EPYC".
_X86 = {"vendor_id": "", "cpu family": "family ", "model": "model ", "stepping": "stepping "}
_ARM = {"CPU implementer": "implementer ", "CPU part": "part ", "CPU variant": "variant ", "CPU revision": "revision "}
_SHOWN = ("renderer", "processor", "capability", "threads", "device", "engine", "torch")


def machine_facts(device: torch.device) -> Machine:
    """Processor, PyTorch and its device; where that is the processor, also the instruction set and the threads."""
    import torch

    # A plain string: the version's own class is none that a saved state may hold.
    facts: Machine = {"processor": processor_name(), "torch": str(torch.__version__)}
    if device.type == "cuda":  # what the processor adds up then are not the features, nor the policy's numbers
        return {**facts, "device": torch.cuda.get_device_name(device)}
    computing = {"capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    return {**facts, **computing, "device": device.type}


def processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """Name, family, model and stepping of the first processor; the architecture where the system does not say."""
    try:
        first = cpuinfo.read_text(errors="replace").split("\n\n")[0]
    except OSError:
        return platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    name = found.get("model name", platform.machine())
    details = [f"{word}{found[key]}" for key, word in {**_X86, **_ARM}.items() if found.get(key)]
    return f"{name} ({' '.join(details)})" if details else name


def machine_label(machine: Mapping[str, Any]) -> str:
    """The facts in one line.

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
    """The facts that both know and that differ, as words; empty where none does.

    >>> differing_facts({"threads": 2, "device": "cpu"}, {"threads": 4, "device": "cpu"})
    'threads 4, was 2'
    """
    changed = [fact for fact in former if fact in now and None not in (former[fact], now[fact])]
    return "; ".join(f"{fact} {now[fact]}, was {former[fact]}" for fact in changed if former[fact] != now[fact])


def with_machine(machines: Sequence[Machine], machine: Machine) -> list[Machine]:
    """The distinct machines of a list and one more, which comes last."""
    return [*(other for other in machines if other != machine), machine]


def count_machines(machines: Iterable[Mapping[str, Any] | None]) -> list[Machine]:
    """The distinct machines of episodes, each with its number of `episodes`; None, an unknown one, is left out.

    Entries that carry `episodes` already are added up.
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
    """Join episodes of several documents, of each its machines and its rows, whose `machine` is a place in that list.

    Returns:
        The machines of all episodes that ran, counted, and all rows with their places there; None where it is unknown.
    """
    found = [
        (row, None if row.get("machine") is None else {**machines[row["machine"]], "episodes": 1})
        for machines, rows in parts
        for row in rows
    ]
    kinds = count_machines(machine for row, machine in found if row.get("error") is None)
    return kinds, [{**row, "machine": machine and place_of(machine, kinds)} for row, machine in found]


def place_of(machine: Machine, counted: Sequence[Machine]) -> int:
    """Where a machine is in what `count_machines` made of it and others."""
    return [_facts(kind) for kind in counted].index(_facts(machine))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _facts(machine: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, value) for name, value in machine.items() if name != "episodes"))


MIXED = "the episodes were run on several kinds of machine"


def mixed_machines(machines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The warning of episodes counted together that several kinds of machine ran; none where one did."""
    if len(machines) < 2:
        return []
    shown = "; ".join(f"{machine_label(machine)} ({_count(machine['episodes'], 'episode')})" for machine in machines)
    return [f"{MIXED}, and by rounding an episode may end otherwise on one than on another: {shown}"]
