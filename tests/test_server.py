"""The inference server over real sockets, on the loopback interface only."""

import asyncio
import contextlib
import functools
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("websockets", reason="run by make test-export")
msgpack = pytest.importorskip("msgpack", reason="run by make test-export")

# ruff: noqa: E402
from deployment_toys import SIZE, make_observation, write_checkpoint
from snippets import snippet
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from s2robot.checkpoint import load_policy
from s2robot.config.deployment import ServeConfig
from s2robot.deployment import client as client_module
from s2robot.deployment.client import MessageError, RefusedError, RemotePolicy, UnreachableError, pack, unpack
from s2robot.deployment.episode_runner import EpisodeRunner
from s2robot.deployment.server import PolicyServer, is_loopback
from s2robot.interfaces import ConfigError, Observation
from s2robot.policies.bc_transformer import BCTransformerConfig
from s2robot.policies.diffusion_unet import DiffusionUNetConfig

DIFFUSION = DiffusionUNetConfig(
    action_steps=4, execute_steps=2, down_dims=[16], step_embedding=16, train_timesteps=5, inference_steps=5
)
# The one policy that sees its own past actions.
TRANSFORMER = BCTransformerConfig(observation_steps=4, action_steps=4, execute_steps=2, layers=1, width=32, heads=2)
CPU = torch.device("cpu")
# Seconds until what does happen is given up: far more than it takes, as machines can be busy.
WAIT = 120
# Between the same computations here, but for the modes of autograd; features are rounded to float16 alike in both.
ROUNDING = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "bc": write_checkpoint(folder / "bc"),
        "bc_transformer": write_checkpoint(folder / "transformer", TRANSFORMER),
        "diffusion_unet": write_checkpoint(folder / "diffusion", DIFFUSION),
    }


@pytest.fixture(scope="module")
def runners(checkpoints):
    return {name: EpisodeRunner(*load_policy(path, CPU), CPU) for name, path in checkpoints.items()}


class Running:
    """A server in a thread of its own."""

    def __init__(self, runner, token=None, port=0, **limits):
        self.config = ServeConfig(**{"checkpoint": "toy", "port": port, "timeout": WAIT, **limits})
        self.server = PolicyServer(runner, self.config, token)
        self.port, self.failure = None, None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._started.wait(WAIT)
        if self.failure:
            raise self.failure

    async def _run(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self.server.run(self._ready, self._stop)
        except Exception as error:
            self.failure = error
            self._started.set()

    def _ready(self, port):
        self.port = port
        self._started.set()

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}"

    def stop(self):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def running(runner, token=None, **limits):
    server = Running(runner, token, **limits)
    try:
        yield server
    finally:
        server.stop()


def remote(server, **settings):
    return RemotePolicy(server.url, **{"timeout": WAIT, "patience": WAIT, **settings})


def walk(policy, seed, steps=7):
    """The actions that a policy chooses over an episode of fixed observations."""
    policy.reset(seed)
    return np.stack([policy.step(make_observation(100 * seed + step)) for step in range(steps)])


def raw(server, **settings):
    patient = {"open_timeout": WAIT, "ping_interval": None}
    return connect(server.url, compression=None, max_size=2**26, proxy=None, **patient, **settings)


def receive(connection):
    return unpack(connection.recv(timeout=WAIT))


@functools.cache
def loaded(checkpoint):
    return load_policy(checkpoint, CPU)


@functools.cache
def expected_actions(checkpoint, seed, steps=7):
    """The same episode computed without a server, from the definition: windows of To steps, chunks of execute_steps."""
    policy, encoder, recorded = loaded(checkpoint)
    config, shapes = recorded.config.policy, recorded.spec.features
    generator = torch.Generator().manual_seed(seed)
    seen, executed = [], []
    while len(executed) < steps:
        seen = [make_observation(100 * seed + step) for step in range(len(executed) + 1)]
        window = [seen[max(0, len(seen) - config.observation_steps + i)] for i in range(config.observation_steps)]
        # Both cameras in one call, as the server encodes them: kernels round otherwise for other batch sizes.
        encoded = [
            encoder.encode_cameras({camera: torch.from_numpy(step[f"{camera}_image"])[None] for camera in shapes})
            for step in window
        ]
        rows = {
            camera: torch.stack([shape.flatten(features[camera])[0].half() for features in encoded])[None]
            for camera, shape in shapes.items()
        }
        proprioception = np.stack([np.concatenate([step["position"], step["gripper"]]) for step in window])
        past = np.zeros((config.observation_steps, 4), np.float32)
        past = np.concatenate([past, np.array(executed, np.float32).reshape(-1, 4)])[-config.observation_steps :]
        observation = Observation(rows, torch.from_numpy(proprioception).float()[None], torch.from_numpy(past)[None])
        executed += list(policy.act(observation, [generator])[0, : config.execute_steps].numpy())
    return np.stack(executed[:steps])


@pytest.mark.parametrize("name", ["bc", "bc_transformer", "diffusion_unet"])
def test_remote_actions_are_those_of_the_policy(checkpoints, runners, name):
    with running(runners[name]) as server, remote(server) as policy:
        assert policy.info["policy"] == name
        for seed in (3, 4):
            np.testing.assert_allclose(walk(policy, seed), expected_actions(checkpoints[name], seed), **ROUNDING)


def test_two_clients_at_once_get_what_each_would_get_alone(runners):
    with running(runners["diffusion_unet"]) as server:
        with remote(server) as policy:
            alone = {seed: walk(policy, seed) for seed in (1, 2)}
        together = {}

        def run(seed):
            with remote(server) as policy:
                together[seed] = walk(policy, seed)

        threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    for seed in (1, 2):
        np.testing.assert_array_equal(together[seed], alone[seed])
    assert not np.array_equal(alone[1], alone[2])


def test_requests_that_wait_together_give_the_same_actions_batched(tmp_path, monkeypatch):
    # A checkpoint that records no size takes any that gives the same features.
    folder = write_checkpoint(tmp_path / "checkpoint", environment={"task": "Toy"})
    calls = {}

    def make(exact):
        policy, encoder, checkpoint = load_policy(folder, CPU)
        runner = EpisodeRunner(policy, encoder, checkpoint, CPU)
        assert runner._inference._exact
        runner._inference._exact = exact  # False as on a GPU
        encode, calls[exact] = encoder.encode_cameras, []
        monkeypatch.setattr(
            encoder, "encode_cameras", lambda images: (calls[exact].append(len(images["wrist"])), encode(images))[1]
        )
        return runner

    def requests(runner):
        made = []
        for seed, size in ((0, 64), (1, 64), (2, 96)):
            episode, waiting = runner.reset({"seed": seed})
            message = {"observations": [make_observation(seed, size)], "executed": np.zeros((0, 4)), "steps": 0}
            made.append(runner.request(episode, waiting, message))
        return made

    single, batched = make(True), make(False)
    ones, others = single.act(requests(single)), batched.act(requests(batched))
    # Features rounded to float16 may differ by one step; another client's actions differ by far more.
    np.testing.assert_allclose(others, ones, rtol=0, atol=5e-3)
    assert min(np.abs(ones[i] - ones[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.05
    assert calls == {True: [1, 1, 1], False: [2, 1]}  # one call for each size


def malformed():
    """A thousand messages of all kinds of nonsense, with the seed that made them."""
    rng = np.random.default_rng(0)
    good = pack({"type": "act", "observations": [make_observation(0)], "executed": np.zeros((0, 4)), "steps": 0})
    objects = [
        None,
        [],
        {},
        {"type": 3},
        {"type": "shutdown"},
        {"type": "reset"},
        {"type": "reset", "seed": -1},
        {"type": "reset", "seed": 0, "past_actions": np.zeros((9, 4))},
        {"type": "reset", "seed": 0, "observations": [1, 2, 3, 4]},
        {"type": "act"},
        {"type": "act", "observations": [], "executed": np.zeros((0, 4))},
        {"type": "act", "observations": [{}], "executed": np.zeros((0, 4))},
        {"type": "act", "observations": [make_observation(0)], "executed": np.full((0, 9), np.nan)},
        {"type": "act", "observations": [make_observation(0)], "executed": np.full((1, 4), np.inf), "steps": 1},
        {"type": "act", "observations": [make_observation(0, 8)], "executed": np.zeros((0, 4)), "steps": 0},
        {"type": "act", "observations": [make_observation(0)], "executed": np.zeros((0, 4)), "steps": 2**40},
        {"type": "act", "observations": [make_observation(0)] * 2, "executed": np.zeros((0, 4)), "steps": 0},
    ]
    arrays = [
        msgpack.ExtType(1, b""),
        msgpack.ExtType(1, b"\xff"),
        msgpack.ExtType(7, b"abc"),
        msgpack.ExtType(1, bytes([7]) + msgpack.packb(["|O8", [1]]) + b"12345678"),
        msgpack.ExtType(1, bytes([7]) + msgpack.packb(["<f4", [-1]]) + b"1234"),
        msgpack.ExtType(1, bytes([13]) + msgpack.packb(["|u1", [2**40, 2**40]])[:13]),
    ]
    deep = b"\x91" * 5000 + b"\xc0"
    fixed = [msgpack.packb(entry, default=client_module._pack_array) for entry in objects]
    fixed += [msgpack.packb({"type": "act", "observations": array}) for array in arrays]
    fixed += [b"", b"\xc1", deep, b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xffabc", good[:-1], good + good]
    for index in range(1000):
        if index < len(fixed):
            yield fixed[index]
        elif index % 3 == 0:
            yield rng.bytes(int(rng.integers(1, 200)))
        elif index % 3 == 1:
            yield good[: int(rng.integers(1, len(good)))]
        else:
            broken = bytearray(good)
            for place in rng.integers(0, 60, 4):  # in the header, so that it is not just another picture
                broken[place] = int(rng.integers(0, 256))
            yield bytes(broken)


def test_a_thousand_malformed_messages_are_answered_and_disturb_nobody(runners):
    with running(runners["bc"]) as server, remote(server) as policy:
        before = walk(policy, 1)
        with raw(server) as connection:
            receive(connection)
            errors = 0
            for message in malformed():
                connection.send(message)
                answer = receive(connection)
                errors += answer["type"] == "error"
                assert answer["type"] in ("error", "ready", "actions")
            connection.send("text")
            assert receive(connection) == {
                "type": "error",
                "message": "expected bytes, got text",
            }
        assert errors > 900  # some damage leaves a message that is one
        np.testing.assert_array_equal(walk(policy, 1), before)


def test_errors_say_what_was_expected(runners):
    def ask(connection, message):
        connection.send(pack(message))
        return receive(connection)["message"]

    observation = make_observation(0)
    act = {"type": "act", "observations": [observation], "executed": np.zeros((0, 4)), "steps": 0}
    with running(runners["bc"]) as server, raw(server) as connection:
        receive(connection)
        assert ask(connection, act) == "act came before reset; send reset first"
        assert "unknown message type 'stop'; choices: reset, act" in ask(connection, {"type": "stop"})
        connection.send(pack({"type": "reset", "seed": 0}))
        assert receive(connection) == {"type": "ready"}
        without = {key: value for key, value in observation.items() if key != "wrist_image"}
        assert "expected ['agentview_image', 'gripper', 'position', 'wrist_image']" in ask(
            connection, {**act, "observations": [without]}
        )
        flat = {**observation, "wrist_image": np.zeros((64, 64), np.uint8)}
        assert "uint8 (64, 64); expected uint8 [H, W, 3]" in ask(connection, {**act, "observations": [flat]})
        short = {**observation, "gripper": np.zeros(1)}
        assert "has 4 numbers; expected 5" in ask(connection, {**act, "observations": [short]})
        nan = {**observation, "gripper": np.full(2, np.nan)}
        assert "gripper must be an array of finite numbers" in ask(connection, {**act, "observations": [nan]})
        assert "expected 1 observations" in ask(connection, {**act, "observations": []})


def test_a_client_that_dies_in_the_middle_of_a_message_harms_nobody(runners):
    with running(runners["bc"]) as server, remote(server) as policy:
        before = walk(policy, 1)
        for cut in (1, 5, 30):
            connection = raw(server).__enter__()
            receive(connection)
            payload = pack({"type": "act", "observations": [make_observation(0)]})
            frame = b"\x82\xff" + len(payload).to_bytes(8, "big") + b"\0\0\0\0" + payload
            connection.socket.sendall(frame[:cut])
            connection.socket.shutdown(socket.SHUT_RDWR)  # no goodbye
            connection.socket.close()
        np.testing.assert_array_equal(walk(policy, 1), before)


def test_an_oversized_message_ends_its_own_connection_only(runners):
    with running(runners["bc"], max_megabytes=1) as server, remote(server) as policy:
        with raw(server) as connection:
            receive(connection)
            # The size that the header names is enough.
            connection.socket.sendall(b"\x82\xff" + (2**20 + 1).to_bytes(8, "big") + b"\0\0\0\0")
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(timeout=WAIT)
            assert closed.value.rcvd.code == 1009
        assert len(walk(policy, 1)) == 7


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}])
def test_wrong_or_missing_token_is_refused(runners, headers):
    with running(runners["bc"], token="right") as server:
        with pytest.raises(InvalidStatus) as refused, raw(server, additional_headers=headers):
            pass
        assert refused.value.response.status_code == 401
        with remote(server, token="right") as policy:
            assert len(walk(policy, 0)) == 7


def test_client_reports_a_refused_token_at_once(runners, monkeypatch):
    attempts = []
    connect = client_module.connect
    monkeypatch.setattr(client_module, "connect", lambda *a, **k: attempts.append(a) or connect(*a, **k))
    with running(runners["bc"], token="right") as server, pytest.raises(RefusedError, match="refuses the token"):
        remote(server, token="wrong")
    assert len(attempts) == 1


def test_web_pages_cannot_reach_the_server(runners):
    with running(runners["bc"]) as server:
        with pytest.raises(InvalidStatus) as refused, raw(server, origin="http://evil.example"):
            pass
        assert refused.value.response.status_code == 403


def test_an_address_that_others_can_reach_needs_a_token(runners, monkeypatch):
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ConfigError, match="needs a token"):
            PolicyServer(runners["bc"], ServeConfig(checkpoint="toy", host=host))
    assert is_loopback("127.0.0.1")
    assert not is_loopback("0.0.0.0")
    PolicyServer(runners["bc"], ServeConfig(checkpoint="toy", host="0.0.0.0"), token="secret")
    names = {
        "inside": ("127.0.0.1", "::1"),
        "outside": ("127.0.0.1", "192.168.1.2"),
    }  # what names mean is the machine's
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port: [(None, None, None, "", (address, 0)) for address in names[host]]
    )
    assert is_loopback("inside")
    assert not is_loopback("outside")


def test_clients_beyond_the_limit_are_refused(runners):
    with running(runners["bc"], max_clients=1) as server, remote(server):
        with pytest.raises(InvalidStatus) as refused, raw(server):
            pass
        assert refused.value.response.status_code == 503


def test_a_slow_client_is_dropped_and_does_not_slow_the_others(runners):
    with running(runners["bc"], idle_seconds=1.0) as server, raw(server) as slow:
        receive(slow)
        with contextlib.suppress(OSError):  # dropped already, where this took more than a second
            slow.socket.sendall(b"\x82\xff" + (10**6).to_bytes(8, "big") + b"\0\0\0\0" + bytes(100))  # never the rest
        with remote(server) as policy:
            assert len(walk(policy, 1)) == 7
        with pytest.raises(ConnectionClosed) as closed:
            slow.recv(timeout=WAIT)
        assert closed.value.rcvd.code == 1001


def test_a_client_that_takes_no_answers_is_dropped(runners):
    class Deaf:
        closed = None

        async def send(self, data):
            await asyncio.Event().wait()  # as when its buffers are full

        async def close(self, code, reason):
            self.closed = code

    server, deaf = PolicyServer(runners["bc"], ServeConfig(checkpoint="toy", timeout=0.05)), Deaf()
    asyncio.run(asyncio.wait_for(server._converse(deaf), WAIT))
    assert deaf.closed == 1001
    assert server._clients == 0


@pytest.mark.parametrize("name", ["bc", "bc_transformer"])
def test_the_episode_goes_on_after_a_restart_of_the_server(checkpoints, runners, name):
    server, servers, attempts = Running(runners[name]), [], []
    policy = remote(server)
    connect = policy._connect

    def restart_and_connect():
        attempts.append(None)
        if len(attempts) == 2:  # the first attempt finds nobody
            servers.append(Running(runners[name], port=server.port))
        connect()

    policy._connect = restart_and_connect
    try:
        policy.reset(5)
        actions = [policy.step(make_observation(500 + step)) for step in range(3)]
        server.stop()
        actions += [policy.step(make_observation(500 + step)) for step in range(3, 7)]
        assert len(servers) == 1
        # A deterministic policy cannot tell: history and past actions came along.
        np.testing.assert_allclose(np.stack(actions), expected_actions(checkpoints[name], 5), **ROUNDING)
    finally:
        policy.close()
        for other in servers:
            other.stop()


def test_client_gives_up_after_its_patience(monkeypatch):
    pauses = []
    monkeypatch.setattr(client_module, "time", SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError, match="did not answer for 30"):
            RemotePolicy(f"ws://127.0.0.1:{unused.getsockname()[1]}", patience=30.0)
    assert 25 < sum(pauses) <= 30
    assert pauses == sorted(pauses)  # ever more rarely


def fail(*_):
    raise RuntimeError("out of torque")


def test_a_failure_of_the_policy_is_answered_and_survived(checkpoints):
    runner = EpisodeRunner(*load_policy(checkpoints["bc"], CPU), CPU)
    act, failures = runner.act, [True]
    with running(runner) as server, remote(server) as policy:
        runner.act = lambda requests: act(requests) if not failures or not failures.pop() else fail()
        with pytest.raises(RefusedError, match="the policy failed: out of torque"):
            policy.step(make_observation(0))
        assert len(walk(policy, 1)) == 7


@pytest.mark.parametrize("failing", [0, 3], ids=["the first step", "a later one"])
def test_a_step_that_failed_can_be_taken_again(checkpoints, monkeypatch, failing):
    runner = EpisodeRunner(*load_policy(checkpoints["bc"], CPU), CPU)
    predict = runner._inference.predict
    with running(runner) as server, remote(server) as policy:
        policy.reset(1)
        actions = []
        for step in range(7):
            if step == failing:  # when the server has taken the step in already
                monkeypatch.setattr(runner._inference, "predict", fail)
                for wrong in (50, 51):
                    with pytest.raises(RefusedError, match="out of torque"):
                        policy.step(make_observation(wrong))
                monkeypatch.setattr(runner._inference, "predict", predict)
            actions.append(policy.step(make_observation(100 + step)))
    np.testing.assert_allclose(np.stack(actions), expected_actions(checkpoints["bc"], 1), **ROUNDING)


def test_an_observation_that_was_refused_is_forgotten(checkpoints, runners):
    with running(runners["bc"]) as server, remote(server) as policy:
        policy.reset(1)
        for _ in range(2):
            with pytest.raises(RefusedError, match="expected uint8"):
                policy.step({**make_observation(0), "wrist_image": np.zeros((64, 64), np.uint8)})
        actions = [policy.step(make_observation(100 + step)) for step in range(7)]
    np.testing.assert_allclose(np.stack(actions), expected_actions(checkpoints["bc"], 1), **ROUNDING)


@pytest.mark.parametrize("lost", [False, True], ids=["connected", "connection lost"])
def test_a_driver_that_fills_the_same_arrays_again_changes_no_history(checkpoints, runners, lost):
    with running(runners["bc_transformer"]) as server, remote(server) as policy:
        policy.reset(1)
        buffer, actions = make_observation(0), []
        for step in range(7):
            for key, value in make_observation(100 + step).items():
                buffer[key][...] = value
            if lost:
                policy._drop()
            actions.append(policy.step(buffer))
    np.testing.assert_allclose(np.stack(actions), expected_actions(checkpoints["bc_transformer"], 1), **ROUNDING)


def test_observations_given_to_act_are_remembered_as_they_were(checkpoints, runners):
    with running(runners["bc"]) as server, remote(server) as policy:
        actions = {}
        for overwritten in (False, True):
            policy.reset(1)
            buffer = make_observation(0)
            first = policy.act([buffer])
            if overwritten:
                buffer["wrist_image"][...] = 0
            policy._drop()  # the next server knows only what the client remembers
            actions[overwritten] = policy.act([make_observation(1)], first[:1])
    np.testing.assert_array_equal(actions[True], actions[False])


def wait_until(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_clients_that_left_have_asked_for_is_not_computed(checkpoints):
    runner = EpisodeRunner(*load_policy(checkpoints["bc"], CPU), CPU)
    act, computed, busy, go_on = runner.act, [], threading.Event(), threading.Event()

    def slow(requests):
        computed.append(len(requests))
        busy.set()
        assert go_on.wait(WAIT)
        return act(requests)

    with running(runner) as server, remote(server) as first, remote(server) as second:
        runner.act = slow
        threads = [threading.Thread(target=policy.step, args=(make_observation(0),)) for policy in (first, second)]
        threads[0].start()
        assert busy.wait(WAIT)
        message = {"type": "act", "observations": [make_observation(0)], "executed": np.zeros((0, 4)), "steps": 0}
        for _ in range(3):
            with raw(server) as connection:
                receive(connection)
                connection.send(pack({"type": "reset", "seed": 0}))
                receive(connection)
                connection.send(pack(message))
        threads[1].start()
        wait_until(lambda: server.server._queue.qsize() == 4 and server.server._clients == 2)
        go_on.set()
        for thread in threads:
            thread.join(WAIT)
    assert computed == [1, 1]


@pytest.mark.parametrize(
    ("environment", "side"),
    [({"task": "Toy", "image_size": {"agentview": 96, "wrist": [96, 64]}}, 96), ({"task": "Toy"}, SIZE)],
)
def test_the_policy_has_acted_before_clients_are_let_in(tmp_path, environment, side):
    runner = EpisodeRunner(*load_policy(write_checkpoint(tmp_path / "toy", environment=environment), CPU), CPU)
    act, shapes = runner.act, []

    def spy(requests):
        shapes.extend(frame.images["wrist"].shape for request in requests for frame in request.frames)
        return act(requests)

    runner.act = spy
    with running(runner):
        assert shapes == [(side, side, 3)]


def test_a_server_ends_while_it_computes_for_a_client(checkpoints):
    runner = EpisodeRunner(*load_policy(checkpoints["bc"], CPU), CPU)
    started = threading.Event()
    server = Running(runner)
    runner.act = lambda requests: (started.set(), time.sleep(1))
    with raw(server) as connection:
        receive(connection)
        connection.send(pack({"type": "reset", "seed": 0}))
        connection.recv(timeout=WAIT)
        act = {"type": "act", "observations": [make_observation(0)], "executed": np.zeros((0, 4)), "steps": 0}
        connection.send(pack(act))
        assert started.wait(WAIT)
        server.stop()


def test_an_address_in_use_is_one_clear_error(runners):
    with running(runners["bc"]) as server, pytest.raises(ConfigError, match="cannot serve on host='127.0.0.1' port="):
        Running(runners["bc"], port=server.port)


@pytest.mark.parametrize("kind", ["uint8", "bool", "int32", "int64", "float32", "float64", ">f4"])
def test_arrays_survive_the_wire(kind):
    array = np.random.default_rng(0).integers(0, 2, (3, 0, 2)).astype(kind)
    more = np.arange(24).reshape(2, 3, 4).astype(kind).transpose(2, 0, 1)
    message = unpack(pack({"type": "x", "empty": array, "more": more, "scalar": np.float32(2), "none": np.array(3.0)}))
    np.testing.assert_array_equal(message["empty"], array)
    np.testing.assert_array_equal(message["more"], more)
    assert message["scalar"] == 2
    assert message["none"].shape == ()


@pytest.mark.parametrize("value", [object(), np.array([object()]), np.array(["text"]), np.zeros(2, complex)])
def test_what_cannot_be_sent_safely_is_refused(value):
    with pytest.raises(MessageError, match="cannot send"):
        pack({"type": "x", "value": value})


def test_the_client_is_one_file_that_needs_neither_torch_nor_this_package(tmp_path, runners):
    shutil.copy(Path(client_module.__file__), tmp_path / "client.py")
    script = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1]); import client\n"
        "with client.RemotePolicy(sys.argv[2]) as policy:\n"
        "    image = np.zeros((64, 64, 3), np.uint8)\n"
        "    seen = dict(agentview_image=image, wrist_image=image, position=np.zeros(3), gripper=np.zeros(2))\n"
        "    print(policy.step(seen).shape)\n"
        "assert not {'torch', 's2robot', 'gymnasium'} & set(sys.modules)\n"
    )
    with running(runners["bc"]) as server:
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), server.url], capture_output=True, text=True, timeout=WAIT
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(4,)"


def test_the_documented_client_drives_a_robot(runners):
    executed = []

    class Robot:
        def observe(self):
            return make_observation(len(executed))

        def execute(self, action):
            executed.append(action)

    with running(runners["bc"]) as server:
        code = (
            snippet("deployment.md", "python", "RemotePolicy")
            .replace("8765", str(server.port))
            .replace("range(200)", "range(20)")
        )
        exec(code, {"robot": Robot()})
    assert len(executed) == 20
