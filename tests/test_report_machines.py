"""Arms whose episodes were rendered or computed by other machines: the report says so, and of unknown ones nothing."""

import pytest
from report_results import SCALES, cell_writer, compare, make_results, outcomes, write_results

from s2robot.interfaces import ReportError
from s2robot.report import wording, write_report
from s2robot.report.load import load_arms, load_cell
from s2robot.report.machines import machine_lines

GPU = "NVIDIA H100/PCIe/SSE2, 4.6.0 NVIDIA 550.54"
LLVMPIPE = "llvmpipe (LLVM 15.0.6, 256 bits), 4.5 Mesa 22.3.6"


def machine(renderer=LLVMPIPE, processor="A", episodes=100, **facts):
    return {"renderer": renderer, "processor": processor, "capability": "AVX2", "episodes": episodes, **facts}


@pytest.fixture
def write(tmp_path):
    return cell_writer(tmp_path)


def caveats(write, baseline, treatment):
    """What is said of the machines and versions of two arms with these changes, a dictionary or one for each seed."""
    for changes, scales in ((baseline, [224]), (treatment, [224, 448])):
        for seed, one in enumerate(changes if isinstance(changes, list) else [changes]):
            folder = write(outcomes(0.5), scales=scales, training_seed=seed, **one)
    (contrast,) = compare(folder, SCALES).contrasts
    return [text for text in contrast.caveats if "rendered" in text or "versions" in text or "made anew" in text]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (machine(GPU), machine(LLVMPIPE), True),
        (machine(GPU, "A"), machine(GPU, "B"), False),  # the processor draws nothing
        (machine(LLVMPIPE, "A"), machine(LLVMPIPE, "B"), True),
        (machine(LLVMPIPE, "A"), machine(LLVMPIPE, "A", threads=4), False),
        (machine(None, "A"), machine(None, "B"), False),  # unknown
        (machine(GPU), machine(None), False),
    ],
)
def test_arms_that_were_rendered_by_other_machines_say_so(write, first, second, said):
    found = caveats(write, {"machines": [first]}, {"machines": [second]})
    assert len(found) == said
    if said:
        assert found[0].startswith("The arms were rendered by different machines, the baseline by ")
        assert "pixels may differ, mostly by up to 2 of 255" in found[0]
        assert found[0].endswith("so the difference may be the machines'.")


def test_both_machines_are_named(write):
    (text,) = caveats(write, {"machines": [machine(GPU)]}, {"machines": [machine(LLVMPIPE, "AMD EPYC")]})
    assert f"the baseline by {GPU}, the treatment by {LLVMPIPE} on AMD EPYC:" in text


def test_an_arm_of_several_machines_says_so(write):
    mixed = {"machines": [machine(GPU, episodes=40), machine(LLVMPIPE, episodes=60)]}
    (text,) = caveats(write, mixed, {"machines": [machine(GPU)]})
    assert text.startswith("The episodes of the baseline were rendered by several machines, ")
    seeds = [{"machines": [machine(GPU)]}, {"machines": [machine(LLVMPIPE)]}]
    (text,) = caveats(write, seeds, seeds)
    assert text.startswith("The episodes of the baseline and of the treatment were rendered by several machines, ")


def test_results_of_before_machines_were_recorded_say_nothing_of_them(write):
    assert caveats(write, {}, {"machines": [machine(GPU)]}) == []


def test_the_machines_of_all_ranges_count(tmp_path):
    ranges = [
        {"episodes": 1, "latency_ms": 1.0, "versions": {}, "machines": [machine(GPU, episodes=1)], "policy": "a" * 64},
        {"episodes": 1, "latency_ms": 1.0, "versions": {}},  # of before machines were recorded
    ]
    cell = load_cell(write_results(tmp_path, make_results([True, False], ranges=ranges)))
    assert cell.machines == [machine(GPU, episodes=1)]
    assert cell.policies == ("a" * 64,)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"torch": "2.0", "mujoco": "3.3"}, {"torch": "2.1", "mujoco": "3.3"}, "torch 2.0 against 2.1)"),
        ({"torch": "2.0"}, {"mujoco": "3.3"}, None),
        ({"torch": "2.0"}, {"torch": "2.0"}, None),
        ({"torch": "2.0"}, {}, None),
    ],
)
def test_other_library_versions_are_a_caveat_where_both_are_known(write, first, second, said):
    found = caveats(write, {"versions": first}, {"versions": second})
    assert len(found) == (said is not None)
    assert all("different versions of libraries" in text and said in text for text in found)


def test_several_library_versions_in_one_arm_are_a_caveat(write):
    seeds = [{"versions": {"torch": version}} for version in ("2.0", "2.1")]
    (text,) = caveats(write, seeds, {"versions": {"torch": "2.0"}})
    assert text == "Episodes of one arm were evaluated with several versions of libraries (torch 2.0, 2.1)."


def test_a_policy_that_was_trained_again_between_its_episodes_is_a_caveat(write):
    part = {"episodes": 50, "latency_ms": 1.0, "versions": {}}
    twice = {"ranges": [{**part, "policy": "a" * 64}, {**part, "policy": "b" * 64}]}
    once = {"ranges": [{**part, "policy": "a" * 64}, {**part, "policy": None}]}
    (text,) = caveats(write, twice, once)
    assert text.startswith("The baseline's checkpoint of training seed 0 was made anew between episodes")


def test_the_page_and_the_limits_name_every_machine(write, tmp_path):
    write(outcomes(0.5), machines=[machine(GPU)])
    folder = write(outcomes(0.5), scales=[224, 448], machines=[machine(LLVMPIPE), machine(GPU, episodes=7)])
    arms = load_arms([folder])
    lines = machine_lines(arms)
    assert lines == [f"{GPU}, A, AVX2: 107 episodes", f"{LLVMPIPE}, A, AVX2: 100 episodes"]
    page = write_report([folder], tmp_path / "out").read_text()
    assert all(f"<li>{line}</li>" in page for line in lines)
    (limit,) = [text for text in wording.limits(compare(folder, SCALES), arms) if "rendered by several" in text]
    assert GPU in limit
    assert f"{LLVMPIPE} on A" in limit


def test_results_that_disagree_about_a_cell_name_their_machines(tmp_path):
    write_results(tmp_path / "a", make_results([True, False], machines=[machine(GPU)]))
    write_results(tmp_path / "b", make_results([True, True], machines=[machine(LLVMPIPE)]))
    with pytest.raises(ReportError, match=r"outcomes, perhaps run on different machines \(NVIDIA.*; llvmpipe"):
        load_arms([tmp_path])


def test_a_machine_without_its_number_of_episodes_is_named_with_its_file(tmp_path):
    path = write_results(tmp_path, make_results([True], machines=[{"renderer": GPU}]))
    with pytest.raises(ReportError, match=f"{path}: episodes must be of type int, got nothing"):
        load_arms([tmp_path])
