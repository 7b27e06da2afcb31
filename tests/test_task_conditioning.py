"""Several tasks in one policy: told by a text, learned or from a text encoder; success of each task."""

import json
import re
import shutil
import signal
from dataclasses import replace

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from dataset_examples import EXAMPLES
from gymnasium import spaces
from policy_toys import READOUT, SMALL, SPEC, make_batch
from training_runs import make_config, make_encoder, train_in_processes
from vectors import InProcess

import s2robot_envs
from s2robot.checkpoint import load_checkpoint, load_policy
from s2robot.cli import main
from s2robot.config import EvaluateConfig, ExportConfig, TrainConfig
from s2robot.config.selection import Selection
from s2robot.data import RobomimicWriter
from s2robot.data.conversion import convert_dataset
from s2robot.deployment.episode_runner import EpisodeRunner
from s2robot.deployment.export import export_checkpoint
from s2robot.evaluation import evaluate
from s2robot.interfaces import CheckpointError, ConfigError, DatasetError, Episode, TrainingError
from s2robot.policies import make_policy
from s2robot.policies.bc import BCConfig
from s2robot.report import write_report
from s2robot.report.load import load_arms
from s2robot.training import train
from s2robot.training.several import opened, plan_all
from s2robot.training.state import identity
from s2robot.training.tasks import read_vectors

SIDE, TEXTS = 64, ("go left", "go right")
TOLD = replace(SPEC, tasks=("a", "b", "c"), task_width=8)


# The network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SMALL if name != "knn"])
@pytest.mark.parametrize("vectors", [0, 5], ids=["embedding", "vectors"])
def test_every_policy_acts_by_its_task_and_learns_its_vector(name, vectors):
    torch.manual_seed(0)
    policy = make_policy(SMALL[name], READOUT, replace(TOLD, task_vector_width=vectors))
    if vectors:
        policy.observation.task.set_vectors(np.eye(3, 5, dtype=np.float32))
    config = SMALL[name]
    batch = make_batch(6, config.observation_steps, config.action_steps)
    policy.fit_normalization([batch.actions.flatten(0, 1).numpy()], [batch.observation.proprioception[:, 0].numpy()])
    batch.observation.task = torch.tensor([0, 1, 2, 0, 1, 2])
    policy.loss(batch).backward()
    gradients = [p.grad.abs().sum() for p in policy.observation.task.parameters()]
    trained = {id(p) for group in policy.parameter_groups(0.1) for p in group["params"]}
    assert all(id(p) in trained for p in policy.observation.task.parameters())
    optimizer = torch.optim.SGD(policy.parameters(), 0.1)
    optimizer.step()  # the last layer of some policies starts at zero
    optimizer.zero_grad()
    policy.loss(batch).backward()
    gradients = [p.grad.abs().sum() for p in policy.observation.task.parameters()]
    assert all(gradient > 0 for gradient in gradients)
    policy.eval()

    def act(task):
        batch.observation.task = torch.full((6,), task)
        return policy.act(batch.observation, [torch.Generator().manual_seed(i) for i in range(6)])

    assert torch.equal(act(0), act(0))
    assert not torch.equal(act(0), act(1))


@pytest.mark.parametrize("name", SMALL)
def test_a_policy_that_is_told_nothing_has_the_tensors_it_had(name):
    policy = make_policy(SMALL[name], READOUT, SPEC)
    assert not [key for key in policy.state_dict() if "task" in key]
    assert len(policy.observation.widths) == (1 if name == "knn" else 3)


def test_knn_refuses_to_be_told():
    with pytest.raises(ConfigError, match="policy knn cannot be told its task"):
        make_policy(SMALL["knn"], READOUT, TOLD)


# Texts of demonstrations -----------------------------------------------------------------------------------------


def demonstration(direction, seed, **attributes):
    """The same pictures for both directions, so that only the text can tell."""
    rng = np.random.default_rng(seed)
    length = 10
    return Episode(
        actions=np.full((length, 1), direction, np.float32) + rng.normal(0, 0.01, (length, 1)).astype(np.float32),
        images={"agentview": rng.integers(0, 256, (length, SIDE, SIDE, 3), dtype=np.uint8)},
        proprioception={"position": rng.uniform(-1, 1, (length, 1)).astype(np.float32)},
        attributes=attributes,
    )


def write(path, directions, task="toy", texts=None, problem=None):
    environment = {"task": task, "horizon": 8}
    with RobomimicWriter(path, {"env_name": task, "type": 2, "s2robot": environment}) as writer:
        for seed, direction in enumerate(directions):
            writer.add(demonstration(direction, seed, **({"tasks": [texts[direction]]} if texts else {})))
    if problem:
        with h5py.File(path, "r+") as file:  # as LIBERO's create_dataset.py stores it
            file["data"].attrs["problem_info"] = json.dumps({"language_instruction": problem})
    return str(path)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    texts = {-1: TEXTS[0], 1: TEXTS[1]}
    write(folder / "both.hdf5", [-1, 1] * 5, texts=texts)
    write(folder / "left.hdf5", [-1] * 5, task="toy_left", problem=TEXTS[0])
    write(folder / "right.hdf5", [1] * 5, task="toy_right", problem=TEXTS[1])
    write(folder / "mute.hdf5", [1] * 3)
    return folder


def config_of(workspace, *names, output="none", **changes):
    changes = {"task_conditioning": "embedding", "cameras": None, **changes}
    dataset = [str(workspace / f"{name}.hdf5") for name in names]
    training = {"epochs": 30, "validation_fraction": 0.2, "learning_rate": 1e-2, **changes.pop("training", {})}
    policy = changes.pop("policy", BCConfig(hidden=[32], action_steps=2, execute_steps=2))
    return make_config(workspace, workspace / output, dataset=dataset, policy=policy, training=training, **changes)


def plan_of(config):
    with opened(config) as datasets:
        return plan_all(datasets, config, make_encoder())


def test_texts_are_those_of_the_demonstrations_of_liberos_files_or_of_the_setting(workspace):
    both = plan_of(config_of(workspace, "both"))
    assert both.spec.tasks == TEXTS
    assert both.demonstrations.tasks == [0, 1] * 5
    libero = plan_of(config_of(workspace, "right", "left"))
    assert libero.spec.tasks == TEXTS[::-1]
    assert libero.demonstrations.tasks == [0] * 5 + [1] * 5
    assert [(task["text"], task["environment"]["task"], task["demonstrations"]) for task in libero.tasks] == [
        ("go right", "toy_right", 5),
        ("go left", "toy_left", 5),
    ]
    named = plan_of(config_of(workspace, "mute", "left", task_texts=["one", "two"]))
    assert named.spec.tasks == ("one", "two")


def test_texts_of_ep_meta_as_robomimic_copies_it_are_each_demonstrations_own(workspace, tmp_path):
    path = write(tmp_path / "spoken.hdf5", [1, -1, 1], problem="of the file")
    with h5py.File(path, "r+") as file:
        for demo, text in (("demo_0", "one"), ("demo_1", "two")):
            file[f"data/{demo}"].attrs["ep_meta"] = json.dumps({"lang": text, "layout_id": 3}, indent=4)
    plan = plan_of(config_of(tmp_path, "spoken", training={"validation_fraction": 0.0}))
    assert [plan.spec.tasks[index] for index in plan.demonstrations.tasks] == ["one", "two", "of the file"]
    convert_dataset(path, tmp_path / "copy.hdf5", selection=Selection(episodes=[0, 2]))
    copied = plan_of(config_of(tmp_path, "copy", training={"validation_fraction": 0.0}))
    assert [copied.spec.tasks[index] for index in copied.demonstrations.tasks] == ["one", "of the file"]


def test_texts_of_lerobots_own_writer_are_read():
    path = EXAMPLES["lerobot"].path
    config = make_config(
        path, "none", dataset=str(path), task_conditioning="embedding", policy=BCConfig(action_steps=4)
    )
    plan = plan_of(config)
    assert plan.spec.tasks
    assert all(text and isinstance(text, str) for text in plan.spec.tasks)
    assert len(plan.demonstrations.tasks) == len(plan.demonstrations.actions)


def test_a_choice_of_demonstrations_keeps_each_ones_task(workspace):
    plan = plan_of(config_of(workspace, "both", episodes=[0, 2, 3, 8], training={"validation_fraction": 0.0}))
    assert plan.demonstrations.tasks == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["mute"], {}, "demo_0: records no text of its task; give task_texts="),
        (
            ["left", "right"],
            {"task_texts": ["same", "same"]},
            "'same' belongs to two environments, task 'toy_left' and",
        ),
    ],
)
def test_texts_that_tell_nothing_are_refused(workspace, names, settings, message):
    with pytest.raises((DatasetError, ConfigError), match=re.escape(message)):
        plan_of(config_of(workspace, *names, **settings))


def test_one_text_of_two_variants_of_a_task_is_refused_and_of_two_horizons_takes_the_longer(tmp_path):
    """Or the policy would be evaluated in the variant of the first dataset alone."""
    files = {name: {"task": "toy", **more} for name, more in (("a", {"horizon": 8}), ("b", {"horizon": 20}))}
    files["c"] = {"task": "toy", "horizon": 8, "variant": {"object_scale": 0.6}}
    for name, environment in files.items():
        with RobomimicWriter(tmp_path / f"{name}.hdf5", {"type": 2, "s2robot": environment}) as writer:
            for seed in range(2):
                writer.add(demonstration(1, seed, tasks=["go"]))
    (task,) = plan_of(config_of(tmp_path, "a", "b")).tasks
    assert (task["environment"]["horizon"], task["demonstrations"]) == (20, 4)
    with pytest.raises(ConfigError, match=r"'go' belongs to two environments, variant None and .*0\.6"):
        plan_of(config_of(tmp_path, "a", "c"))


def test_a_task_that_is_only_held_out_has_no_embedding_and_is_refused(workspace, tmp_path):
    shutil.copy(workspace / "both.hdf5", tmp_path / "both.hdf5")
    with h5py.File(tmp_path / "both.hdf5", "r+") as file:
        file["mask/right"] = np.array([f"demo_{index}" for index in range(1, 10, 2)], dtype="S")
    settings = {"validation_filter_key": "right"}
    with pytest.raises(ConfigError, match="cannot learn 'go right', because all demonstrations of it are held out"):
        plan_of(config_of(tmp_path, "both", **settings))
    (tmp_path / "v.json").write_text(json.dumps({text: [1.0, place] for place, text in enumerate(TEXTS)}))
    vectors = {"task_conditioning": "vectors", "task_vectors": str(tmp_path / "v.json")}
    assert plan_of(config_of(tmp_path, "both", **settings, **vectors)).spec.tasks == TEXTS


def test_tasks_of_other_action_modes_are_not_trained_together(tmp_path):
    """ManiSkill's demonstrations of two modes can have equally many numbers."""
    for name, mode in (("pick", "pd_ee_delta_pose"), ("push", "pd_joint_delta_pos")):
        with RobomimicWriter(tmp_path / f"{name}.hdf5", {"type": 2, "env_kwargs": {"control_mode": mode}}) as writer:
            for seed in range(2):
                writer.add(demonstration(1, seed, tasks=[name]))
    with pytest.raises(DatasetError, match="control_mode: 'pd_ee_delta_pose' there, 'pd_joint_delta_pos' here"):
        plan_of(config_of(tmp_path, "pick", "push"))


def test_several_texts_without_conditioning_are_told_and_change_nothing(workspace, caplog):
    plan = plan_of(config_of(workspace, "both", task_conditioning="none"))
    assert "its demonstrations are of 2 tasks, and the policy is not told which" in caplog.text
    assert (plan.spec.tasks, plan.demonstrations.tasks, plan.tasks) == ((), [], [])
    config = TrainConfig(dataset="a", output="b", policy=BCConfig())
    assert not [key for key in identity(config, "encoder", "data") if key.startswith("task")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task_conditioning": "film"}, "valid: none, embedding, vectors"),
        ({"task_conditioning": "vectors"}, "task_vectors=None"),
        ({"task_vectors": "a.npz"}, "a file with task_conditioning=vectors, and only then"),
        ({"task_texts": ["one"]}, "with task_conditioning"),
        ({"task_conditioning": "embedding", "task_texts": ["one", "two"]}, "each of the 1 datasets"),
        ({"task_conditioning": "embedding", "task_texts": [" "]}, "each of the 1 datasets"),
        ({"task_width": 0}, "task_width=0"),
    ],
)
def test_impossible_settings_of_tasks_are_refused(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainConfig(dataset="a", output="b", policy=BCConfig(), **settings)


# Vectors ---------------------------------------------------------------------------------------------------------


def test_vectors_are_read_from_both_kinds_of_file_in_the_order_of_the_texts(tmp_path):
    vectors = {"b": [1.0, 2.0], "a": [3.0, 4.0], "unused": [0.0]}
    (tmp_path / "v.json").write_text(json.dumps(vectors))
    np.savez(tmp_path / "v.npz", **{text: np.array(row) for text, row in vectors.items()})
    for name in ("v.json", "v.npz"):
        found = read_vectors(str(tmp_path / name), ["a", "b"])
        np.testing.assert_array_equal(found, np.float32([[3, 4], [1, 2]]))


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({"a": [1.0]}, "unknown text 'b'"),
        ({"a": [1.0], "b": [1.0, 2.0]}, "'b' has 2 numbers, but 'a' has 1"),
        ({"a": [1.0], "b": [float("nan")]}, "'b' is not a vector of finite numbers"),
        ({"a": [[1.0]], "b": [[1.0]]}, "'a' is not a vector"),
        ({"a": [], "b": []}, "'a' is not a vector"),
        ([1, 2], "cannot be read"),
        ({"a": "text", "b": "text"}, "cannot be read"),
    ],
)
def test_vectors_that_are_missing_uneven_or_not_finite_are_refused(tmp_path, vectors, message):
    (tmp_path / "v.json").write_text(json.dumps(vectors))
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_vectors(str(tmp_path / "v.json"), ["a", "b"])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_vectors(str(tmp_path / "none.npz"), ["a"])


# Training and evaluation -----------------------------------------------------------------------------------------


class Way(gymnasium.Env):
    """Success is to go left in `toy_left`, right in `toy_right`; the pictures are the same noise."""

    def __init__(self, sign, observation_steps, action_steps, horizon):
        self.observation_space = spaces.Dict(
            {
                "agentview_image": spaces.Box(0, 255, (observation_steps, SIDE, SIDE, 3), np.uint8),
                "position": spaces.Box(-9, 9, (observation_steps, 1), np.float32),
            }
        )
        self.action_space = spaces.Box(-2, 2, (action_steps, 1), np.float32)
        self._sign, self._shape, self._horizon = sign, observation_steps, horizon

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._position, self._steps = 0.0, 0
        return self._seen(), {"is_success": False, "steps": 0}

    def step(self, actions):
        self._position += float(actions.sum())
        self._steps += len(actions)
        success = self._position * self._sign > 3
        cut = self._steps >= self._horizon
        return self._seen(), 0.0, False, cut, {"is_success": success, "steps": len(actions)}

    def _seen(self):
        image = self.np_random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        position = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return {
            "agentview_image": image[None].repeat(self._shape, 0),
            "position": position[None].repeat(self._shape, 0),
        }


def make_ways(task, num_envs, *, observation_steps, action_steps, horizon, **_):
    sign = {"toy_left": -1, "toy_right": 1, "toy": 1}[task]
    return InProcess(lambda: Way(sign, observation_steps, action_steps, horizon), num_envs)


def evaluated(checkpoint, output, **changes):
    settings = {"episodes": 3, "videos": 0, "device": "cpu", "output": str(output), **changes}
    return evaluate(EvaluateConfig(checkpoint=str(checkpoint), **settings), make_ways, 2)


@pytest.fixture(scope="module")
def checkpoint(workspace):
    return train(config_of(workspace, "left", "right", output="trained"), make_encoder())


def test_each_task_is_solved_in_its_environment_by_its_text(checkpoint, tmp_path):
    results = evaluated(checkpoint, tmp_path)
    assert [(row["task_text"], row["successes"], row["episodes"]) for row in results["tasks"]] == [
        ("go left", 3, 3),
        ("go right", 3, 3),
    ]
    assert all(row["interval"][0] < 1 == row["interval"][1] for row in results["tasks"])
    assert json.loads((tmp_path / "results.json").read_text()) == results
    for row in results["tasks"]:
        assert json.loads((tmp_path / row["results"]).read_text())["task_text"] == row["task_text"]
    page = write_report([tmp_path], tmp_path / "report").read_text()
    assert "toy_left: go left" in page
    assert "toy_right: go right" in page
    assert len(load_arms([tmp_path])) == 2


def test_the_command_prints_success_per_task(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(s2robot_envs, "make_vector_env", make_ways)
    words = [f"checkpoint={checkpoint}", f"output={tmp_path}", "episodes=2", "videos=0", "device=cpu", "num_envs=1"]
    assert main(["evaluate", *words]) == 0
    text = capsys.readouterr().out
    for task in ("toy_left: go left", "toy_right: go right"):
        assert f"success 2/2 = 100.0% (95% Wilson interval 34.2% to 100.0%) on {task}" in text


def test_one_text_is_evaluated_alone_and_takes_the_episodes_that_were_run(checkpoint, tmp_path, capsys):
    evaluated(checkpoint, tmp_path)
    results = evaluated(checkpoint, tmp_path, task_text="go right")
    assert "3 of 3 episodes were run before" in capsys.readouterr().err
    assert [row["task_text"] for row in results["tasks"]] == ["go right"]
    with pytest.raises(CheckpointError, match="unknown text 'go up'.*Choices: 'go left', 'go right'"):
        evaluated(checkpoint, tmp_path, task_text="go up")


def test_the_wrong_text_does_the_other_task(workspace, tmp_path):
    """In one environment, whose success is to go right, only the text decides."""
    folder = train(config_of(workspace, "both", output=tmp_path / "run"), make_encoder())
    results = evaluated(folder, tmp_path)
    assert {row["task_text"]: row["successes"] for row in results["tasks"]} == {"go left": 0, "go right": 3}


def test_without_conditioning_the_two_cannot_both_be_solved(workspace, tmp_path):
    config = config_of(workspace, "both", output=tmp_path / "run", task_conditioning="none")
    folder = train(config, make_encoder())
    results = evaluated(folder, tmp_path)
    assert "tasks" not in results
    assert results["task"] == "toy"
    with pytest.raises(CheckpointError, match="was trained without task_conditioning"):
        evaluated(folder, tmp_path, task_text="go left")


def test_vectors_of_a_text_encoder_condition_as_well_and_belong_to_the_run(workspace, tmp_path):
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps({TEXTS[0]: [1.0, 0.0, 0.5], TEXTS[1]: [0.0, 1.0, 0.5]}))
    settings = {"task_conditioning": "vectors", "task_vectors": str(path)}
    config = config_of(workspace, "left", "right", output=tmp_path / "run", **settings)
    folder = train(config, make_encoder())
    state = load_checkpoint(folder)[1]
    np.testing.assert_array_equal(state["observation.task.vectors"], [[1, 0, 0.5], [0, 1, 0.5]])
    assert [row["successes"] for row in evaluated(folder, tmp_path)["tasks"]] == [3, 3]
    moved = path.rename(tmp_path / "elsewhere.json")
    train(replace(config, task_vectors=str(moved)), make_encoder())  # the same run
    moved.write_text(json.dumps({TEXTS[0]: [1.0, 0.0, 0.0], TEXTS[1]: [0.0, 1.0, 0.5]}))
    with pytest.raises(TrainingError, match="task vectors differ"):
        train(replace(config, task_vectors=str(moved)), make_encoder())


def test_who_does_not_name_the_task_is_refused_and_told_the_choices(checkpoint, tmp_path):
    choices = re.escape("is not one of those it knows; choices: 'go left', 'go right'")
    for given in (None, "go up"):
        with pytest.raises(CheckpointError, match=f"task_text={given!r} {choices}"):
            load_policy(checkpoint, torch.device("cpu"), task_text=given)
    with pytest.raises(CheckpointError, match=choices):
        export_checkpoint(ExportConfig(checkpoint=str(checkpoint), out=str(tmp_path / "p.pt2"), format="torch_export"))


@pytest.mark.parametrize(("text", "sign"), [("go left", -1), ("go right", 1)])
def test_server_and_export_do_the_task_that_is_named(checkpoint, tmp_path, text, sign):
    device = torch.device("cpu")
    runner = EpisodeRunner(*load_policy(checkpoint, device, task_text=text), device)
    assert runner.info["task_text"] == text
    frame = {"agentview_image": np.zeros((SIDE, SIDE, 3), np.uint8), "position": np.zeros(1, np.float32)}
    episode, waiting = runner.reset({"seed": 0})
    request = runner.request(episode, waiting, {"observations": [frame], "executed": np.zeros((0, 1), np.float32)})
    (actions,) = runner.act([request])
    assert (actions * sign > 0.5).all()
    settings = {"out": str(tmp_path / "p.pt2"), "format": "torch_export", "task_text": text}
    document = export_checkpoint(ExportConfig(checkpoint=str(checkpoint), **settings))
    assert (document["task_text"], document["environment"]["task"]) == (text, f"toy_{text.removeprefix('go ')}")
    graph = torch.export.load(settings["out"]).module()
    inputs = [torch.zeros(port["shape"], dtype=getattr(torch, port["dtype"])) for port in document["inputs"]]
    assert (graph(*inputs) * sign > 0.5).all()


def test_a_text_for_a_policy_that_is_told_none_is_refused(workspace, tmp_path):
    config = config_of(workspace, "left", output=tmp_path / "run", task_conditioning="none", training={"epochs": 1})
    folder = train(config, make_encoder())
    with pytest.raises(CheckpointError, match="task_text='go left': the policy of"):
        load_policy(folder, torch.device("cpu"), task_text="go left")


def test_a_killed_run_of_several_tasks_goes_on_bit_for_bit(workspace, tmp_path):
    torch.set_num_threads(1)
    training = {"epochs": 4, "save_every_steps": 5}
    config = config_of(
        workspace, "left", "right", output=tmp_path / "killed", training=training, dataset_weights=[1.0, 2.0]
    )
    assert train_in_processes(config, kill_at=8) == [-signal.SIGKILL]
    resumed = load_checkpoint(train(config, make_encoder()))[1]
    straight = load_checkpoint(train(replace(config, output=str(tmp_path / "straight")), make_encoder()))[1]
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
