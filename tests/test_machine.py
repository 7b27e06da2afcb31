"""What tells one kind of machine from another, and nothing that changes from run to run."""

import json
import os
import platform
import subprocess
import sys

import pytest
import torch
from helpers import write_dataset

from s2robot import S2Encoder
from s2robot.data import open_dataset
from s2robot.evaluation.results import hash_json
from s2robot.system.machine import (
    MIXED,
    count_machines,
    differing_facts,
    machine_facts,
    machine_label,
    mixed_machines,
    place_of,
    pool_machines,
    processor_name,
    with_machine,
)

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
cpu MHz\t\t: 2596.142

processor\t: 1
model name\t: another
"""
ARM = """processor\t: 0
BogoMIPS\t: 243.75
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1
"""
A = {"processor": "A", "capability": "AVX2", "threads": 2, "device": "cpu"}
B = {**A, "processor": "B"}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (X86, "AMD EPYC (AuthenticAMD family 25 model 17 stepping 1)"),
        (ARM, f"{platform.machine()} (implementer 0x41 part 0xd0c variant 0x3 revision 1)"),
        ("processor\t: 0\n", platform.machine()),
        (None, platform.machine()),
    ],
)
def test_processors_of_one_marketing_name_are_told_apart(tmp_path, content, name):
    file = tmp_path / "cpuinfo"
    if content is not None:
        file.write_text(content)
    assert processor_name(file) == name


def test_facts_are_plain_and_the_same_at_every_call():
    facts = machine_facts(torch.device("cpu"))
    assert facts == machine_facts(torch.device("cpu")) == json.loads(json.dumps(facts))
    assert facts["capability"] == torch.backends.cpu.get_cpu_capability()
    assert (facts["threads"], facts["device"]) == (torch.get_num_threads(), "cpu")
    assert facts["torch"] == torch.__version__
    assert {type(value) for value in facts.values()} == {str, int}  # what a state file may hold


def test_only_facts_that_both_know_are_said_to_differ():
    assert differing_facts(A, A) == ""
    assert differing_facts({**A, "renderer": None}, {**B, "renderer": "x"}) == "processor B, was A"
    assert differing_facts(A, {"threads": 4}) == "threads 4, was 2"


def test_a_label_shows_what_is_known():
    assert machine_label({"renderer": None, **A, "threads": 1, "engine": "eager"}) == "A, AVX2, 1 thread, cpu, eager"
    assert machine_label({}) == "unknown"


def test_machines_are_counted_and_unknown_ones_left_out():
    counted = count_machines([A, B, None, A])
    assert counted == [{**A, "episodes": 2}, {**B, "episodes": 1}]
    assert count_machines([*counted, *counted]) == [{**A, "episodes": 4}, {**B, "episodes": 2}]
    assert [place_of(machine, counted) for machine in (A, B)] == [0, 1]
    assert mixed_machines(counted[:1]) == []
    (warning,) = mixed_machines(counted)
    assert warning.startswith(MIXED)
    assert "A, AVX2, 2 threads, cpu (2 episodes); B, AVX2, 2 threads, cpu (1 episode)" in warning


def test_pooled_episodes_keep_their_machines():
    first = ([{**A, "episodes": 9}], [{"seed": 0, "machine": 0}, {"seed": 1, "error": "died", "machine": None}])
    second = ([{**B, "episodes": 9}, {**A, "episodes": 9}], [{"seed": 2, "machine": 1}, {"seed": 3, "machine": 0}])
    former = ([], [{"seed": 4}])  # of before machines were recorded
    machines, rows = pool_machines([first, second, former])
    assert machines == [{**A, "episodes": 2}, {**B, "episodes": 1}]
    assert [(row["seed"], row["machine"]) for row in rows] == [(0, 0), (1, None), (2, 0), (3, 1), (4, None)]


def test_a_list_of_machines_holds_each_once():
    assert with_machine(with_machine([], A), A) == [A]
    assert with_machine([A], B) == [A, B]


FINGERPRINTS = """
import json, sys, torch
from s2robot import S2Encoder
from s2robot.data import open_dataset
from s2robot.evaluation.results import hash_json
from s2robot.system.machine import machine_facts

torch.set_num_threads(int(sys.argv[3]))
encoder = S2Encoder("efficientnet_lite0", (224, 448), weights="package", engine=sys.argv[2])
with open_dataset(sys.argv[1]) as dataset:
    prints = [encoder.fingerprint(), encoder.backbone.weights_hash(), dataset.fingerprint()]
    prints.append(hash_json(dataset.env_args))
facts = machine_facts(torch.device("cpu"))
print(json.dumps([prints, facts["capability"], facts["threads"]]))
"""


def test_fingerprints_are_equal_on_processors_with_other_instructions_threads_and_engines(tmp_path):
    dataset = write_dataset(tmp_path / "demos.hdf5", (5, 3))

    with open_dataset(dataset) as opened:
        encoder = S2Encoder("efficientnet_lite0", (224, 448), weights="package")
        here = [
            encoder.fingerprint(),
            encoder.backbone.weights_hash(),
            opened.fingerprint(),
            hash_json(opened.env_args),
        ]
    other = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "PYTHONHASHSEED": "7"}
    threads = torch.get_num_threads() + 2
    command = [sys.executable, "-c", FINGERPRINTS, str(dataset), "compile", str(threads)]
    found = subprocess.run(command, env={**os.environ, **other}, check=True, stdout=subprocess.PIPE, text=True)
    there = json.loads(found.stdout.splitlines()[-1])
    assert there == [here, "DEFAULT", threads]


def test_the_machine_that_was_used_last_comes_last():
    b = {**A, "processor": "B"}
    assert with_machine(with_machine([A], b), A) == [b, A]


def test_on_a_gpu_the_processors_threads_and_instructions_are_not_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    facts = machine_facts(torch.device("cuda"))
    assert facts["device"] == "GPU"
    assert not facts.keys() & {"threads", "capability"}
