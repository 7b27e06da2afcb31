"""What pictures of a task look like, which training and evaluation must share: render profile, variant and size.

A dataset records it in `env_args`, once for the file, and with every demonstration that this package renders, where
what drew the pictures stands beside it; a checkpoint records it in `environment`, and so do results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from s2robot.data.base import RENDERER, DemonstrationDataset
from s2robot.interfaces import ConfigError, DatasetError

ATTRIBUTE = "look"  # of a demonstration

Look = dict[str, Any]


def look_of(environment: Mapping[str, Any]) -> Look:
    """Render profile and variant of an environment's description; empty where it records neither."""
    return {name: environment[name] for name in ("render_profile", "variant") if name in environment}


def size_entry(height: int, width: int) -> int | dict[str, int]:
    """A camera's entry under `image_size`: the number that environments are made with where images are square.

    >>> size_entry(448, 448), size_entry(480, 640)
    (448, {'height': 480, 'width': 640})
    """
    return height if height == width else {"height": height, "width": width}


def recorded_size(environment: Mapping[str, Any], camera: str) -> tuple[int, int] | None:
    """Height and width of the images a policy was trained on; None where the environment does not say.

    A list holds several sizes of square images, of which the policy sees the largest.

    >>> recorded_size({"image_size": {"front": {"height": 480, "width": 640}}}, "front")
    (480, 640)
    """
    size = environment.get("image_size")
    if isinstance(size, Mapping):
        size = size.get(camera)
    if isinstance(size, Mapping):
        return size["height"], size["width"]
    side = max(size, default=None) if isinstance(size, list | tuple) else size
    return None if side is None else (side, side)


def check_look(dataset: DemonstrationDataset, render_profile: str | None = None) -> list[str]:
    """Refuse to learn from pictures of several looks, or of another render profile than asked for.

    Args:
        dataset: the demonstrations.
        render_profile: the one wanted; None for whichever was recorded.

    Returns:
        What drew the pictures (OpenGL's renderer and version), as far as the demonstrations say. Several are accepted:
        they differ by rounding.

    Raises:
        DatasetError: names the demonstration, what it looks like and what the file says.
    """
    expected = look_of(dataset.env_args.get("s2robot", {}))
    renderers = set()
    for index, demo in enumerate(dataset.demos):
        attributes = dataset.episode(index, cameras=[], proprioception=[]).attributes
        recorded = attributes.get(ATTRIBUTE)
        if RENDERER in attributes:
            renderers.add(str(attributes[RENDERER]))
        if recorded is not None and json.loads(recorded) != expected:
            raise dataset.error(
                f"its pictures are {recorded}, those of the file {json.dumps(expected)}: pictures of several looks; "
                "render all of them alike with `s2robot render`",
                demo,
            )
    profile = expected.get("render_profile")
    if render_profile is not None and render_profile != profile:
        raise DatasetError(
            f"dataset {str(dataset.path)!r} was rendered in the profile {profile or 'of another simulator'!r}, not in "
            f"{render_profile!r}; make it with `s2robot render dataset=… render_profile={render_profile}`"
        )
    return sorted(renderers)


def evaluation_environment(
    trained_on: Mapping[str, Any],
    *,
    render_profile: str | None = None,
    variant: Mapping[str, Any] | None = None,
    allow_mismatch: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The environment a policy is evaluated in: that of its demonstrations, unless another look is asked for twice.

    Args:
        trained_on: the environment a checkpoint records.
        render_profile: None for the recorded one.
        variant: None for the recorded one, `{}` for the task itself.
        allow_mismatch: whether it may differ from what the policy learned from.

    Returns:
        Arguments of `make_vector_env`, and what differs: name -> `{"trained_on": …, "evaluated_on": …}`.

    Raises:
        ConfigError: something differs and `allow_mismatch` is off.
    """
    asked = {"render_profile": render_profile, "variant": None if variant is None else dict(variant)}
    environment, mismatch = dict(trained_on), {}
    for name, value in asked.items():
        if value is not None and value != (trained_on.get(name) or type(value)()):
            environment[name] = value
            mismatch[name] = {"trained_on": trained_on.get(name), "evaluated_on": value}
    if mismatch and not allow_mismatch:
        changes = "; ".join(
            f"{name}={change['evaluated_on']!r}, but it learned from {change['trained_on']!r}"
            for name, change in mismatch.items()
        )
        raise ConfigError(
            f"the policy would see other pictures than it was trained on: {changes}; "
            "if that is the question, give allow_mismatch=true"
        )
    return environment, mismatch
