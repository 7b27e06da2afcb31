"""The look of a task's images (render profile, variant, size), which must be the same in training and evaluation.

- A dataset records the look in `env_args`, and again in every demonstration that this package renders, there together
  with the renderer.
- A checkpoint and results record it in `environment`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from s2robot.data.base import RENDERER, DemonstrationDataset
from s2robot.interfaces import ConfigError, DatasetError

ATTRIBUTE = "look"  # attribute of a demonstration that records its look as JSON

Look = dict[str, Any]


def look_of(environment: Mapping[str, Any]) -> Look:
    """Return render profile and variant from an environment's description; empty if it records neither."""
    return {name: environment[name] for name in ("render_profile", "variant") if name in environment}


def size_entry(height: int, width: int) -> int | dict[str, int]:
    """Return a camera's entry under `image_size`: one number if the images are square, as environments take it.

    >>> size_entry(448, 448), size_entry(480, 640)
    (448, {'height': 480, 'width': 640})
    """
    return height if height == width else {"height": height, "width": width}


def recorded_size(environment: Mapping[str, Any], camera: str) -> tuple[int, int] | None:
    """Return height and width of the images that a policy was trained on; None if the environment does not say.

    A list in `image_size` means several sizes of square images, of which the policy sees the largest.

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


def check_look(
    dataset: DemonstrationDataset, render_profile: str | None = None, episodes: Sequence[int] | None = None
) -> list[str]:
    """Check that all images of a dataset have one look, and the requested render profile.

    Args:
        dataset: the demonstrations.
        render_profile: the profile that the dataset must have; None accepts any.
        episodes: positions of the demonstrations that are checked; None = all.

    Returns:
        The renderers that drew the images (OpenGL's renderer and version), if recorded. Several are accepted, because
        their images differ by rounding only.

    Raises:
        DatasetError: the looks differ, or the profile is another one; the message names the demonstration, its look
            and the look that the file records.
    """
    expected = look_of(dataset.env_args.get("s2robot", {}))
    renderers = set()
    for index in range(len(dataset)) if episodes is None else episodes:
        demo = dataset.demos[index]
        attributes = dataset.episode(index, cameras=[], proprioception=[]).attributes
        recorded = attributes.get(ATTRIBUTE)
        if RENDERER in attributes:
            renderers.add(str(attributes[RENDERER]))
        if recorded is not None and json.loads(recorded) != expected:
            raise dataset.error(
                f"its images have the look {recorded}, but the file records {json.dumps(expected)}; render all "
                "demonstrations with one look: `s2robot render`",
                demo,
            )
    profile = expected.get("render_profile")
    if render_profile is not None and render_profile != profile:
        raise DatasetError(
            f"dataset {str(dataset.path)!r} has render profile {profile or 'not recorded'!r}, but {render_profile!r} "
            f"was requested; make it with `s2robot render dataset=… render_profile={render_profile}`"
        )
    return sorted(renderers)


def evaluation_environment(
    trained_on: Mapping[str, Any],
    *,
    render_profile: str | None = None,
    variant: Mapping[str, Any] | None = None,
    allow_mismatch: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the environment to evaluate a policy in: by default the one of its demonstrations.

    Another look must be requested twice, by its setting and by `allow_mismatch`.

    Args:
        trained_on: the environment that a checkpoint records.
        render_profile: profile to evaluate in; None for the recorded one.
        variant: variant to evaluate in; None for the recorded one, `{}` for the task itself.
        allow_mismatch: whether the look may differ from the training images.

    Returns:
        Arguments of `make_vector_env`, and the differences: name -> `{"trained_on": …, "evaluated_on": …}`.

    Raises:
        ConfigError: the look differs and `allow_mismatch` is False.
    """
    asked = {"render_profile": render_profile, "variant": None if variant is None else dict(variant)}
    environment, mismatch = dict(trained_on), {}
    for name, value in asked.items():
        if value is not None and value != (trained_on.get(name) or type(value)()):
            environment[name] = value
            mismatch[name] = {"trained_on": trained_on.get(name), "evaluated_on": value}
    if mismatch and not allow_mismatch:
        changes = "; ".join(
            f"{name}={change['evaluated_on']!r}, but it was trained on {change['trained_on']!r}"
            for name, change in mismatch.items()
        )
        raise ConfigError(
            f"the policy would see images that look unlike its training images: {changes}; "
            "to evaluate that on purpose, give allow_mismatch=true"
        )
    return environment, mismatch
