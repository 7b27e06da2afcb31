"""Serve a checkpoint to robots on other computers over websockets and msgpack; see `client.RemotePolicy`."""

from __future__ import annotations

import asyncio
import functools
import hmac
import http
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from s2robot.config.deployment import ServeConfig
from s2robot.deployment.episode_runner import EpisodeRunner, Request, RequestError
from s2robot.interfaces import ConfigError
from s2robot.system.extras import missing

try:
    from websockets.asyncio.server import Server, ServerConnection, serve
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request as HttpRequest
    from websockets.http11 import Response

    from s2robot.deployment.client import PROTOCOL, MessageError, pack, unpack
except ModuleNotFoundError as error:
    raise missing("websockets or msgpack", "server", error) from error

_log = logging.getLogger(__name__)


class PolicyServer:
    """Connects clients with an `EpisodeRunner`; waiting requests are computed together.

    Args:
        runner: computes the actions, in a thread of its own so that connections are served meanwhile.
        config: address and limits.
        token: token that clients must present; None = any local process may connect.

    Raises:
        ConfigError: other computers can reach the address, but there is no token.
    """

    def __init__(self, runner: EpisodeRunner, config: ServeConfig, token: str | None = None) -> None:
        if not token and not is_loopback(config.host):
            raise ConfigError(
                f"host={config.host!r} needs a token, because other computers can reach it; set S2ROBOT_TOKEN "
                "or token_file=FILE, or serve on host=127.0.0.1 and let clients in through an SSH tunnel"
            )
        self._runner, self._config, self._token = runner, config, token
        self._queue: asyncio.Queue[tuple[Request, asyncio.Future[tuple[np.ndarray, float]]]] = asyncio.Queue()
        self._clients = 0
        self._stopping = False

    async def run(self, ready: Callable[[int], None] = lambda port: None, stop: asyncio.Event | None = None) -> None:
        """Serve until `stop` is set; `ready` is called with the port once clients can connect.

        Raises:
            ConfigError: the address is in use or does not belong to this computer.
        """
        config = self._config
        with ThreadPoolExecutor(1, "policy") as thread:
            # Before clients can connect: engines compile in their first call, which takes longer than clients wait.
            await asyncio.get_running_loop().run_in_executor(thread, self._runner.warm_up)
            worker = asyncio.create_task(self._compute(thread))
            try:
                server = await serve(
                    self._converse,
                    config.host,
                    config.port,
                    process_request=self._authorize,
                    origins=[None],  # browsers send a page's origin; no web page may connect to a local server
                    max_size=config.max_megabytes * 2**20,
                    max_queue=1,  # a client waits for its answer; more would only hold memory
                    compression=None,  # raw images hardly shrink, and a small message must not unpack to a huge one
                    open_timeout=config.timeout,
                    ping_interval=config.timeout,
                    ping_timeout=config.timeout,
                    close_timeout=1,
                )
            except OSError as error:
                worker.cancel()
                raise ConfigError(f"cannot serve on host={config.host!r} port={config.port}: {error}") from error
            try:
                await self._until(server, worker, ready, stop or asyncio.Event())
            finally:
                self._stopping = True
                server.close()
                worker.cancel()
                await server.wait_closed()

    async def _until(
        self, server: Server, worker: asyncio.Task[None], ready: Callable[[int], None], stop: asyncio.Event
    ) -> None:
        ready(next(iter(server.sockets)).getsockname()[1])
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, worker], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if worker.done():
            worker.result()  # raises the error that ended the worker

    def _authorize(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        if self._token:
            given = request.headers.get_all("Authorization")
            expected = f"Bearer {self._token}".encode()
            # compare_digest takes the same time wherever the strings differ, so that timing reveals nothing.
            if len(given) != 1 or not hmac.compare_digest(given[0].encode(errors="replace"), expected):
                return connection.respond(http.HTTPStatus.UNAUTHORIZED, "wrong or missing token\n")
        if self._clients >= self._config.max_clients:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        return None

    async def _converse(self, connection: ServerConnection) -> None:
        """Serve one client from hello to goodbye; errors end this connection only."""
        self._clients += 1
        try:
            await self._send(connection, {"type": "hello", "protocol": PROTOCOL, **self._runner.info})
            client = _Client(self._runner, functools.partial(self._submit, connection))
            while True:
                async with asyncio.timeout(self._config.idle_seconds):
                    data = await connection.recv()
                answer = await client.answer(data)
                if self._stopping:
                    return  # without an answer, so that the client repeats its request after a restart
                await self._send(connection, answer)
        except ConnectionClosed:
            pass
        except TimeoutError:
            await connection.close(1001, "timed out: no complete message came, or the answer could not be sent")
        finally:
            self._clients -= 1

    async def _send(self, connection: ServerConnection, message: dict[str, Any]) -> None:
        async with asyncio.timeout(self._config.timeout):
            await connection.send(pack(message))

    async def _submit(self, connection: ServerConnection, request: Request) -> tuple[np.ndarray, float]:
        """Return the actions for one request, and the seconds spent on computing them."""
        if self._stopping:
            raise RequestError("the server is stopping")
        future: asyncio.Future[tuple[np.ndarray, float]] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((request, future))  # at most one per client, since a client waits for its answer
        leaving = asyncio.create_task(connection.wait_closed())
        either: list[asyncio.Future[Any]] = [future, leaving]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if future.cancel():  # so that `_compute` skips it
            raise RequestError("the client left")
        return future.result()

    async def _compute(self, thread: ThreadPoolExecutor) -> None:
        """Repeat: take all waiting requests, compute them in one batch, answer."""
        loop = asyncio.get_running_loop()
        waiting: list[tuple[Request, asyncio.Future[tuple[np.ndarray, float]]]] = []
        try:
            while True:
                waiting = [await self._queue.get()]
                while not self._queue.empty():
                    waiting.append(self._queue.get_nowait())
                # Drop the requests of clients that left.
                waiting = [(request, future) for request, future in waiting if not future.done()]
                start = time.perf_counter()
                try:
                    results = await loop.run_in_executor(thread, self._runner.act, [request for request, _ in waiting])
                except Exception as error:  # requests were checked, so this is our bug; it must not stop the server
                    _log.exception("the policy failed")
                    _fail(waiting, f"the policy failed: {error}")
                    continue
                seconds = time.perf_counter() - start
                for (_, future), actions in zip(waiting, results, strict=True):
                    if not future.done():
                        future.set_result((actions, seconds))
        finally:  # answer all, because a client that waits for its answer would keep the server from ending
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            _fail(waiting, "the server is stopping")


def _fail(waiting: list[tuple[Request, asyncio.Future[tuple[np.ndarray, float]]]], reason: str) -> None:
    for _, future in waiting:
        if not future.done():
            future.set_exception(RequestError(reason))


class _Client:
    """The server's state of one client: its episode, and steps that are not encoded yet."""

    def __init__(self, runner: EpisodeRunner, submit: Callable[[Request], Any]) -> None:
        self._runner, self._submit = runner, submit
        self._episode: Any = None
        self._waiting: list[Any] = []

    async def answer(self, data: bytes | str) -> dict[str, Any]:
        """Return the answer to one message, which is of type `error` if the request is invalid."""
        try:
            message = unpack(data)
            match message["type"]:
                case "reset":
                    self._episode, self._waiting = self._runner.reset(message)
                    return {"type": "ready"}
                case "act" if self._episode is None:
                    raise RequestError("act came before reset; send reset first")
                case "act":
                    request = self._runner.request(self._episode, self._waiting, message)
                    actions, seconds = await self._submit(request)
                    self._waiting = []
                    return {"type": "actions", "actions": actions, "seconds": seconds}
                case other:
                    raise RequestError(f"unknown message type {other[:40]!r}; choices: reset, act")
        except (MessageError, RequestError) as error:
            return {"type": "error", "message": str(error)[:1000]}


def is_loopback(host: str) -> bool:
    """Whether only processes of this computer can reach a server on `host`.

    Raises:
        ConfigError: the name does not resolve.
    """
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host or None, None)}
    except OSError as error:
        raise ConfigError(f"host={host!r} is not a valid address: {error}") from error
    return bool(host) and all(ipaddress.ip_address(str(address)).is_loopback for address in addresses)
