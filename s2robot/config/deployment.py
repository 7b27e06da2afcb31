"""Settings of the verbs that export and serve a policy."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from s2robot.config.checks import require

EXPORT_FORMATS = ("onnx", "torch_export")
PARTS = ("policy", "encoder")


@dataclass
class ExportConfig:
    """`s2robot export`: write encoder and policy as one graph, with a JSON file that describes inputs and outputs."""

    checkpoint: str = MISSING
    out: str = MISSING
    format: str = "onnx"
    part: str = "policy"  # policy = images to actions; encoder = images to features
    task_text: str | None = None  # the task that the graph does, for a policy that is told its task
    batch: int = 1
    image_size: list[int] | None = None  # [height, width] in pixels; null = the size recorded with the demonstrations

    def __post_init__(self) -> None:
        require(self.format in EXPORT_FORMATS, "format", self.format, ", ".join(EXPORT_FORMATS))
        require(self.part in PARTS, "part", self.part, ", ".join(PARTS))
        require(self.batch >= 1, "batch", self.batch, "1 or more")
        size = self.image_size
        require(size is None or (len(size) == 2 and min(size) >= 16), "image_size", size, "[height, width], 16 or more")


@dataclass
class ServeConfig:
    """`s2robot serve`: serve a checkpoint over a websocket; the token comes from a file or from $S2ROBOT_TOKEN."""

    checkpoint: str = MISSING
    host: str = "127.0.0.1"
    port: int = 8765  # 0 = any free port
    token_file: str | None = None
    task_text: str | None = None  # the task that is served, for a policy that is told its task
    device: str = "auto"
    engine: str | None = None  # engine that runs the backbone; null = as in training (features differ by rounding only)
    max_clients: int = 16
    max_megabytes: int = 64  # largest size of one message
    timeout: float = 20.0  # seconds allowed for a handshake, a ping, and sending an answer
    idle_seconds: float = 300.0  # seconds without a complete message after which a client is disconnected

    def __post_init__(self) -> None:
        require(0 <= self.port < 2**16, "port", self.port, "0 to 65535")
        for name in ("max_clients", "max_megabytes"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("timeout", "idle_seconds"):
            require(getattr(self, name) > 0, name, getattr(self, name), "more than 0 seconds")
