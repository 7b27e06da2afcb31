"""`s2robot export` and `s2robot serve`: use a trained policy outside this package."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from s2robot.cli.outcome import Output
from s2robot.cli.words import parse
from s2robot.config.deployment import ExportConfig, ServeConfig
from s2robot.interfaces import ConfigError

TOKEN_VARIABLE = "S2ROBOT_TOKEN"


def export(words: list[str]) -> Output:
    """Write encoder and policy as one graph."""
    from s2robot.checkpoint import load_record

    config: ExportConfig = parse(ExportConfig, words)
    load_record(config.checkpoint)  # an error here is told before torch is imported, which takes seconds
    from s2robot.deployment.export import export_checkpoint

    document = export_checkpoint(config)
    ports = [
        f"  {kind:6} {port['name']:20} {port['dtype']:8} {list(port['shape'])}"
        for kind in ("inputs", "outputs")
        for port in document[kind]
    ]
    text = "\n".join(
        [
            f"{config.out} ({config.format}): matches PyTorch to within {document['largest_difference']:.1e} "
            f"(tolerance {document['tolerance']:.0e}); described in {config.out}.json",
            *ports,
        ]
    )
    return Output(text, {"out": config.out, **document})


def serve(words: list[str]) -> Output:
    """Serve a checkpoint until interrupted."""
    config: ServeConfig = parse(ServeConfig, words)
    token = read_token(config)
    from s2robot.checkpoint import load_policy, load_record

    load_record(config.checkpoint)
    from s2robot.deployment.episode_runner import EpisodeRunner
    from s2robot.deployment.server import PolicyServer
    from s2robot.interfaces import resolve_device

    device = resolve_device(config.device)
    runner = EpisodeRunner(*load_policy(config.checkpoint, device, config.engine, task_text=config.task_text), device)
    server = PolicyServer(runner, config, token)

    def ready(port: int) -> None:
        who = "with the token" if token else "without a token, from this computer only"
        address = f"ws://{config.host}:{port}"
        print(f"serving {config.checkpoint} on {address} {who}; Ctrl+C ends it", file=sys.stderr, flush=True)

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, stop.set)
        await server.run(ready, stop)

    asyncio.run(run())
    return Output("", {"checkpoint": config.checkpoint})


def read_token(config: ServeConfig) -> str | None:
    """Return the token that clients must present, from the file or else the environment; None if neither is set.

    Raises:
        ConfigError: the file cannot be read or is empty.
    """
    if config.token_file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = Path(config.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token_file={config.token_file!r} cannot be read: {error}") from error
    if not token:
        raise ConfigError(f"token_file={config.token_file!r} is empty; it must hold the token")
    return token
