import json

import numpy as np
import pytest
from robosuite_twin import robosuite_twin

from s2robot_envs import Variant, collect_episode, make_env
from s2robot_envs.errors import EnvConfigError
from s2robot_envs.experts import make_expert

pytestmark = pytest.mark.sim
SETTINGS = {"cameras": ("agentview",), "image_size": 96}
SHARED = ({"object_scale": 0.5}, {"camera_distance": 1.8})  # used by two tests; each open renderer holds 0.3 GB


@pytest.fixture
def make():
    """Make environments that are closed after the test."""
    envs = []

    def factory(task="Lift", cameras=SETTINGS["cameras"], **options):
        envs.append(make_env(task, variant=options, **{**SETTINGS, "cameras": cameras}))
        return envs[-1]

    yield factory
    for env in envs:
        env.close()


@pytest.fixture(scope="module")
def shared():
    """Environments of the variants in `SHARED`, made when they are asked for."""
    envs = {}

    def get(options):
        key = json.dumps(options)
        if key not in envs:
            envs[key] = make_env("Lift", variant=options, **SETTINGS)
        return envs[key]

    yield get
    for env in envs.values():
        env.close()


@pytest.fixture(scope="module")
def plain():
    env = make_env("Lift", **SETTINGS)
    yield env
    env.close()


def image(env, seed):
    return env.reset(seed=seed)[0]["agentview_image"]


def reddish(picture):
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return int(((red > 2 * green) & (red > 2 * blue)).sum())


def test_the_default_variant_is_the_task_itself(plain):
    assert plain.variant == Variant()
    assert plain.env_args()["s2robot"]["variant"] == {}


@pytest.mark.parametrize(
    "options",
    [*SHARED, {"distractors": 3}, {"lighting": True}, {"camera_pose": True}],
)
def test_a_variant_repeats_with_its_seed_and_changes_the_picture(make, shared, plain, options):
    env = shared(options) if options in SHARED else make(**options)
    first = image(env, 1)
    assert not np.array_equal(image(env, 2), first)
    np.testing.assert_array_equal(image(env, 1), first)
    assert not np.array_equal(image(plain, 1), first)


def test_a_recorded_variant_is_made_again_with_all_its_options(make):
    env = make(object_scale=0.5, camera_distance=1.8, distractors=3, lighting=True, textures=True, camera_pose=True)
    first = image(env, 1)
    again = make_env(**json.loads(json.dumps(env.env_args()["s2robot"])))
    np.testing.assert_array_equal(image(again, 1), first)
    again.close()


def test_repainted_textures_reach_the_open_renderer_and_repeat(make):
    env = make(textures=True)
    first, second = image(env, 1), image(env, 2)
    assert np.abs(first.astype(int) - second).mean() > 10
    np.testing.assert_array_equal(image(env, 1), first)


def test_each_randomisation_has_its_own_stream(make):
    alone = make(cameras=(), camera_pose=True)
    together = make(cameras=(), camera_pose=True, lighting=True, distractors=2)
    for seed in (1, 2):
        alone.reset(seed=seed)
        together.reset(seed=seed)
        for name in ("cam_pos", "cam_quat"):
            np.testing.assert_array_equal(
                getattr(alone.simulator.sim.model, name), getattr(together.simulator.sim.model, name)
            )
        np.testing.assert_array_equal(alone.observe()["robot0_eef_pos"], together.observe()["robot0_eef_pos"])
        cubes = [env.simulator.sim.data.get_body_xpos("cube_main") for env in (alone, together)]
        np.testing.assert_array_equal(*cubes)


# By geometry a third and a quarter of the pixels; which of those on the edges count is the OpenGL's choice.
def test_a_farther_camera_sees_fewer_pixels_of_the_object(shared, plain):
    assert 0 < reddish(image(shared({"camera_distance": 1.8}), 1)) < reddish(image(plain, 1)) / 1.5


def test_a_smaller_object_has_fewer_pixels_and_rests_on_the_table(shared, plain):
    env = shared({"object_scale": 0.5})
    assert 0 < reddish(image(env, 1)) < reddish(image(plain, 1)) / 1.5
    height = env.simulator.sim.data.get_body_xpos("cube_main")[2]
    for _ in range(10):
        env.simulate(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    assert abs(env.simulator.sim.data.get_body_xpos("cube_main")[2] - height) < 0.03  # robosuite drops it from 1 cm


@pytest.mark.parametrize("task", ["Lift", "PickPlaceCan"])
def test_distractors_keep_clear_of_the_objects_and_stay_where_they_are(make, task):
    env = make(task, cameras=(), distractors=4)
    for seed in range(3):
        env.reset(seed=seed)
        data, model = env.simulator.sim.data, env.simulator.sim.model
        names = [name for name in model.body_names if name.startswith("distractor")]
        assert len(names) == 4
        placed = np.array([data.get_body_xpos(name) for name in names])
        objects = np.array([data.get_body_xpos(thing.root_body) for thing in env.simulator.model.mujoco_objects])
        gaps = np.linalg.norm(placed[:, None, :2] - objects[None, :, :2], axis=-1)
        assert gaps[:, ~np.char.startswith([o.name for o in env.simulator.model.mujoco_objects], "Visual")].min() > 0.1
        for _ in range(20):
            env.simulate(np.zeros(7))
        moved = np.array([data.get_body_xpos(name) for name in names]) - placed
        assert np.linalg.norm(moved[:, :2], axis=1).max() < 0.03


def test_the_recorded_model_holds_the_variant(make):
    env = make(cameras=(), object_scale=0.5, distractors=2, camera_pose=True, lighting=True)
    env.reset(seed=3)
    with robosuite_twin(env) as theirs:
        for name in ("geom_size", "cam_pos", "cam_quat", "light_pos", "light_diffuse"):
            ours = getattr(env.simulator.sim.model, name)
            np.testing.assert_allclose(getattr(theirs.sim.model, name), ours, atol=1e-7, err_msg=name)
        ours, rebuilt = (simulation.sim.model._model.vis.headlight.diffuse for simulation in (env.simulator, theirs))
        np.testing.assert_allclose(rebuilt, ours, atol=1e-7)
        np.testing.assert_allclose(theirs.sim.data.geom_xpos, env.simulator.sim.data.geom_xpos, atol=1e-9)


def test_the_expert_still_solves_a_hard_variant(make):
    env = make(cameras=(), object_scale=0.5, distractors=6)
    # It solved all of 60 seeds; on another processor, some other seed may be one that it does not.
    assert any(collect_episode(env, make_expert("Lift"), seed, noise=0.15)["success"] for seed in range(3))


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("Lift", {"distractor": 2}, "unknown variant option 'distractor'; did you mean 'distractors'"),
        ("Lift", {"distractors": 9}, "variant.distractors is 9; it must be from 0 to 6"),
        ("Lift", {"object_scale": 0.1}, "variant.object_scale is 0.1; it must be from 0.5 to 1"),
        ("Door", {"object_scale": 0.5}, "does not apply to Door"),
        ("Door", {"distractors": 1}, "does not apply to Door"),
    ],
)
def test_an_impossible_variant_is_one_error(make, task, options, message):
    with pytest.raises(EnvConfigError, match=message):
        make(task, **options)
