"""Client of the policy server. A robot's computer needs only this file, numpy, msgpack and websockets.

    with RemotePolicy("ws://127.0.0.1:8765", token=…) as policy:
        policy.reset(seed=0)
        while running:
            robot.execute(policy.step(robot.observe()))  # one observation in, one action out

It imports nothing else from the package, so that it can be copied.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

PROTOCOL = 1
MAX_MESSAGE = 64 * 2**20
"""Largest size of a message in bytes; 64 MiB hold ten uncompressed frames of 1080 × 1920 pixels."""

_ARRAY = 1  # msgpack extension type of an array: header (type and shape), then the bytes in row-major order
_TYPES = ("|u1", "|b1", "<i4", "<i8", "<f4", "<f8")
_MAX_DIMENSIONS = 8


class RemotePolicyError(Exception):
    """Base class of all errors between client and server."""


class UnreachableError(RemotePolicyError):
    """The server did not answer in time, after repeated attempts."""


class RefusedError(RemotePolicyError):
    """The server refused the request, because of a wrong token or an invalid message."""


class MessageError(RemotePolicyError):
    """The bytes are not a message of this protocol."""


def pack(message: dict[str, Any]) -> bytes:
    """Encode a message of plain values and numpy arrays.

    Raises:
        MessageError: a value is not plain, or an array is not uint8, bool, int32, int64, float32 or float64.
    """
    return msgpack.packb(message, default=_pack_array)


def unpack(data: bytes | str) -> dict[str, Any]:
    """Decode a message; its arrays are read-only views of `data`. Nothing in a message is ever executed.

    Raises:
        MessageError: `data` is not a message that `pack` could have made.
    """
    if isinstance(data, str):
        raise MessageError("expected bytes, got text")
    try:
        message = msgpack.unpackb(data, ext_hook=_unpack_array)
    except MessageError:
        raise
    except Exception as error:  # msgpack raises many kinds of error, even UnicodeDecodeError and RecursionError
        raise MessageError(f"not valid msgpack: {type(error).__name__} {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise MessageError("not a mapping with a string 'type'")
    return message


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or value.dtype.newbyteorder("<").str not in _TYPES:
        kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise MessageError(f"cannot send {kind}; valid array types: {', '.join(_TYPES)}")
    array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    header = msgpack.packb([array.dtype.str, list(value.shape)])
    return msgpack.ExtType(_ARRAY, bytes([len(header)]) + header + array.tobytes())


def _unpack_array(code: int, data: bytes) -> np.ndarray:
    if code != _ARRAY or not data:
        raise MessageError(f"unknown msgpack extension {code}")
    kind, shape = msgpack.unpackb(data[1 : 1 + data[0]])
    if kind not in _TYPES or not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        raise MessageError(f"not a valid array: type {kind!r}, shape {shape!r}")
    if not all(type(side) is int and 0 <= side <= MAX_MESSAGE for side in shape):
        raise MessageError(f"not a valid array: shape {shape!r}")
    start = 1 + data[0]
    if math.prod(shape) * np.dtype(kind).itemsize != len(data) - start:
        raise MessageError(f"an array of type {kind} and shape {shape} cannot have {len(data) - start} bytes")
    return np.frombuffer(data, dtype=kind, offset=start).reshape(shape)


class RemotePolicy:
    """A policy that runs on another computer.

    After a lost connection the client reconnects and the episode continues: the client remembers the last observations
    and actions that the policy needs. (Policies that sample then draw new noise, which the seed still determines.)

    Args:
        url: address of the server, `ws://HOST:PORT`.
        token: token that the server requires; None if it requires none.
        timeout: seconds to wait for one answer, and for one connection.
        patience: seconds to keep trying before `UnreachableError`.
        seed: seed of the first episode.

    Attributes:
        info: description of the policy by the server: `cameras`, `proprioception`, `observation_steps`,
            `execute_steps`, `action_width`, …

    Raises:
        UnreachableError: no server answers for `patience` seconds.
        RefusedError: the server refuses the token, or speaks another protocol.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 10.0, patience: float = 30.0, seed: int = 0
    ) -> None:
        self._url, self._token, self._timeout, self._patience = url, token, timeout, patience
        self._socket: ClientConnection | None = None
        self._episode: dict[str, Any] = {}  # message from which a server can continue the episode
        self.info: dict[str, Any] = {}
        self._retry(lambda: None)
        self.reset(seed)

    def reset(self, seed: int = 0) -> None:
        """Start an episode; `seed` determines the noise of policies that sample."""
        self._chunk: list[np.ndarray] = []  # actions left to execute
        self._since: list[dict[str, Any]] = []  # observations and actions since the last decision
        self._executed: list[np.ndarray] = []
        past_actions = np.zeros((self.info["observation_steps"], self.info["action_width"]), np.float32)
        self._episode = {
            "type": "reset",
            "seed": seed,
            "decisions": 0,
            "observations": [],
            "past_actions": past_actions,
        }
        self._retry(lambda: self._request(self._episode))

    def step(self, observation: dict[str, Any]) -> np.ndarray:
        """Return the next action [A]; the server is asked only when a chunk of actions has been used up.

        Args:
            observation: `<camera>_image` uint8 [H, W, 3], upright, and the proprioception keys, float [d] each.
        """
        seen = [*self._since, copy.deepcopy(dict(observation))]  # copied, because drivers may reuse their arrays
        if not self._chunk:
            self._chunk = list(self.act(seen, np.array(self._executed, np.float32)))
            seen, self._executed = [], []
        self._since = seen  # stored only after success: a failed step is repeated with a new observation
        action = self._chunk.pop(0)
        self._executed.append(action)
        return action

    def act(self, observations: Sequence[dict[str, Any]], executed: np.ndarray | None = None) -> np.ndarray:
        """Return the actions to execute next, float32 [execute_steps, A] in environment units.

        Args:
            observations: observations after each action executed since the last call, oldest first; after `reset`, only
                the first observation. Only the last `observation_steps` are used.
            executed: actions executed since the last call, float [n, A]; none after `reset`.
        """
        width, steps = self.info["action_width"], self.info["observation_steps"]
        executed = np.zeros((0, width), np.float32) if executed is None else np.asarray(executed, np.float32)
        seen = copy.deepcopy(list(observations)[-steps:])  # copied, because it is sent again after a lost connection
        message = {
            "type": "act",
            "observations": seen,
            "executed": executed.reshape(-1, width)[-steps:],
            "steps": len(executed),
        }
        actions = self._retry(lambda: self._request(message))["actions"]
        before = self._episode
        self._episode = {
            **before,
            "decisions": before["decisions"] + 1,
            "observations": [*before["observations"], *seen][-steps:],
            "past_actions": np.concatenate([before["past_actions"], message["executed"]])[-steps:],
        }
        return actions

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _retry(self, request: Any) -> Any:
        """Run `request` over a connection; reconnect and repeat it until it succeeds or `patience` ends."""
        deadline, pause = time.monotonic() + self._patience, 0.05
        while True:
            try:
                if self._socket is None:
                    self._connect()
                return request()
            except RefusedError:
                self._drop()  # the server's state is unknown now; the next connection sends the episode again
                raise
            except (OSError, TimeoutError, WebSocketException, MessageError) as error:
                self._drop()
                if isinstance(error, InvalidStatus) and error.response.status_code in (401, 403):
                    raise RefusedError(f"{self._url} refuses the token (HTTP {error.response.status_code})") from error
                if time.monotonic() + pause > deadline:
                    raise UnreachableError(
                        f"{self._url} did not answer for {self._patience} s; last error: {type(error).__name__} {error}"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    def _connect(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
        connection = connect(
            self._url,
            additional_headers=headers,
            open_timeout=self._timeout,
            close_timeout=1,
            max_size=MAX_MESSAGE,
            compression=None,  # raw images hardly shrink
            proxy=None,
        )
        self._socket = connection.__enter__()  # stays open after this function; `_drop` and `close` end it
        self.info = self._receive("hello")
        if self.info.get("protocol") != PROTOCOL:
            protocol = self.info.get("protocol")
            self._drop()
            raise RefusedError(f"{self._url} speaks protocol {protocol}, but this client speaks protocol {PROTOCOL}")
        if self._episode:
            self._request(self._episode)

    def _request(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._socket is not None  # `_retry` has just connected
        self._socket.send(pack(message))
        return self._receive({"reset": "ready", "act": "actions"}[message["type"]])

    def _receive(self, expected: str) -> dict[str, Any]:
        assert self._socket is not None
        answer = unpack(self._socket.recv(timeout=self._timeout))
        if answer["type"] == "error":
            raise RefusedError(str(answer.get("message")))
        if answer["type"] != expected:
            raise MessageError(f"expected a message of type {expected!r}, got {answer['type']!r}")
        return answer

    def _drop(self) -> None:
        """Drop the connection without waiting for the closing handshake."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close_timeout = 0
            socket.close()
