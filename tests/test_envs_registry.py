"""Tasks, experts and settings by name: this package's own, and those of installed packages."""

import json

import pytest
from installed import install, run_with

from s2robot_envs import RENDER_PROFILES, TASKS, make_env, make_vector_env
from s2robot_envs.control import Expert
from s2robot_envs.errors import EnvConfigError
from s2robot_envs.experts import EXPERTS
from s2robot_envs.families import DEFAULT, FAMILIES
from s2robot_envs.registry import Registry, import_from
from s2robot_envs.settings import EnvSettings
from s2robot_envs.tasks import TaskSpec
from s2robot_envs.variants import Variant

MODULE = """
from s2robot_envs.experts.lift import LiftExpert
from s2robot_envs.tasks import TASKS, TaskSpec

lift = TASKS["Lift"]
spec = TaskSpec("NearLift", 60, lift.cameras[:1], lift.proprioception, environment="Lift")
other = TaskSpec("OtherName", 60, lift.cameras, lift.proprioception, environment="Lift")
nowhere = TaskSpec("Nowhere", 60, lift.cameras, lift.proprioception, environment="no_such_module:Nowhere")

class NearLiftExpert(LiftExpert):
    pass
"""
ENTRIES = {
    "s2robot.tasks": {
        "NearLift": "near_lift:spec",
        "Misnamed": "near_lift:other",
        "NoTask": "near_lift:NearLiftExpert",
        "Absent": "near_lift:nothing",
        "Nowhere": "near_lift:nowhere",
        "Door": "near_lift:spec",
    },
    "s2robot.experts": {"NearLift": "near_lift:NearLiftExpert"},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    install(folder, "near_lift", MODULE, ENTRIES)
    return folder


def message(site, expression):
    """The error that an expression ends in where the package is installed."""
    program = f"""
from s2robot_envs import S2RobotEnvError, make_env, make_vector_env
from s2robot_envs.experts import make_expert
from s2robot_envs.tasks import get_task
try:
    {expression}
except S2RobotEnvError as error:
    print(error)
"""
    done = run_with(site, "-c", program)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_own_entry_is_what_its_dict_says():
    assert all(isinstance(spec, TaskSpec) and spec.name == name for name, spec in TASKS.items())
    assert all(issubclass(expert, Expert) for expert in EXPERTS.values())
    assert all(callable(import_from(where)) for where in FAMILIES.values())


def test_every_own_expert_is_of_a_task_or_a_family():
    tasks = {name for name in EXPERTS if ":" not in name}
    families = {name.removesuffix(":*") for name in EXPERTS if ":" in name}
    assert tasks < TASKS.keys()
    assert families < FAMILIES.keys() - {DEFAULT}


def test_installed_packages_add_to_what_is_listed(site):
    assert "NearLift" in message(site, "get_task('Lfit')")
    assert "Choices: Door, Lift, NearLift," in message(site, "make_expert('Dance')")


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("get_task('Misnamed')", "task 'Misnamed' of near_lift 1.2 is TaskSpec(name='OtherName'"),
        ("get_task('NoTask')", "valid: a TaskSpec of this name"),
        ("get_task('Absent')", "task 'Absent' of near_lift 1.2 cannot be imported from 'near_lift:nothing': Attrib"),
        ("make_env('Nowhere', cameras=())", "environment='no_such_module:Nowhere' cannot be imported"),
    ],
)
def test_a_package_with_a_mistake_is_one_error_that_names_it(site, expression, words):
    assert words in message(site, expression)


def test_a_package_cannot_take_the_name_of_an_own_task(site):
    done = run_with(site, "-c", "from s2robot_envs.tasks import TASKS, get_task; print(*TASKS, get_task('Door').name)")
    assert done.stdout.split()[-1] == "Door"
    assert done.stdout.split().count("Door") == 2
    assert "task 'Door' of near_lift 1.2 is not used" in done.stderr


def test_the_same_name_of_two_packages_is_refused(site, tmp_path):
    install(tmp_path, "far_lift", "", {"s2robot.tasks": {"NearLift": "far_lift:spec"}}, "3")
    done = run_with(
        tmp_path,
        "-c",
        f"import sys; sys.path.insert(0, {str(site)!r})\nimport s2robot_envs; s2robot_envs.TASKS['NearLift']",
    )
    assert "task 'NearLift' is provided by far_lift 3 and near_lift 1.2; uninstall all but one" in done.stderr


@pytest.mark.sim
def test_task_and_expert_of_a_package_are_collected_by_name_and_recorded_with_its_version(site, tmp_path):
    out = tmp_path / "demos.hdf5"
    words = [f"out={out}", "task=NearLift", "num=1", "size=32", "workers=1"]
    done = run_with(site, "-m", "s2robot.cli", "collect", *words)
    assert done.returncode == 0, done.stderr
    reading = f"""
import json
from s2robot.data import open_dataset
with open_dataset({str(out)!r}) as dataset:
    print(json.dumps([dataset.env_args, dataset.cameras]))
"""
    env_args, cameras = json.loads(run_with(site, "-c", reading).stdout)
    assert env_args["packages"] == {"task NearLift": "near_lift 1.2", "expert NearLift": "near_lift 1.2"}
    assert (env_args["env_name"], env_args["s2robot"]["task"]) == ("Lift", "NearLift")
    assert (env_args["s2robot"]["horizon"], cameras) == (60, ["agentview"])
    again = run_with(site, "-m", "s2robot.cli", "collect", *words)
    assert "already holds" in again.stdout, again.stderr


@pytest.mark.parametrize("make", [make_env, make_vector_env])
def test_a_mistyped_setting_names_the_valid_ones(make):
    with pytest.raises(EnvConfigError, match="unknown environment setting 'camera'; did you mean 'cameras'") as error:
        make("Lift", camera=["agentview"])
    assert all(name in str(error.value) for name in EnvSettings.__annotations__)


def test_an_empty_registry_says_so():
    with pytest.raises(EnvConfigError, match="unknown tool 'saw'. Choices: none"):
        Registry("tool", "s2robot.nothing", {}).find("saw")


# One example of every choice that is not a dict of classes: what it must change or refuse.
OPTIONS = {
    "object_scale": 0.6,
    "camera_distance": 1.5,
    "distractors": 3,
    "lighting": True,
    "textures": True,
    "camera_pose": True,
}


def test_every_variant_has_an_example_here():
    assert set(OPTIONS) == set(Variant.__dataclass_fields__)


@pytest.mark.sim
@pytest.mark.parametrize("option", OPTIONS)
def test_every_variant_changes_the_picture_repeats_itself_and_is_recorded(option):
    """Two environments of one variant agree; the task itself shows another picture."""

    def look(variant):
        env = make_env("Lift", cameras=("agentview",), image_size=64, variant=variant)
        picture = env.reset(seed=3)[0]["agentview_image"]
        described = env.env_args()["s2robot"]["variant"]
        env.close()
        return picture, described

    plain, described = look(None)
    assert described == {}
    (changed, described), (again, _) = look({option: OPTIONS[option]}), look({option: OPTIONS[option]})
    assert described == {option: OPTIONS[option]}
    assert (changed != plain).any()
    assert (changed == again).all()


@pytest.mark.sim
@pytest.mark.parametrize("profile", RENDER_PROFILES)
def test_every_render_profile_shows_the_scene_and_is_recorded(profile):
    env = make_env("Lift", cameras=("agentview",), image_size=64, render_profile=profile)
    picture = env.reset(seed=0)[0]["agentview_image"]
    assert picture.std() > 5
    assert env.env_args()["s2robot"]["render_profile"] == profile
    env.close()


FAMILY_EXAMPLES = {DEFAULT: "Lift", "gym": "gym:Pendulum-v1", "metaworld": "metaworld:reach-v3"}
FAMILY_EXAMPLES["libero"] = "libero:libero_goal/0"


def test_every_family_has_an_example_here():
    assert FAMILY_EXAMPLES.keys() == FAMILIES.keys()


@pytest.mark.sim
@pytest.mark.parametrize("family", FAMILY_EXAMPLES)
def test_every_family_makes_an_environment_that_repeats_a_seed_and_describes_itself(family):
    module = {"metaworld": "metaworld", "libero": "libero", "gym": "pygame"}.get(family)
    if module:
        pytest.importorskip(module, reason=f"{module} is not installed")
    task = FAMILY_EXAMPLES[family]
    env = make_env(task, cameras=(), horizon=7)
    first, second = env.reset(seed=5)[0], env.reset(seed=5)[0]
    assert first.keys() == second.keys()
    assert all((first[key] == second[key]).all() for key in first)
    settings = json.loads(json.dumps(env.env_args()["s2robot"]))
    env.close()
    assert (settings["task"], settings["horizon"]) == (task, 7)
    again = make_env(**settings)
    third = again.reset(seed=5)[0]
    assert all((first[key] == third[key]).all() for key in first)
    again.close()
