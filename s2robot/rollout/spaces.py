"""Check that environments offer what the policy was trained on."""

from __future__ import annotations

from collections.abc import Mapping

from gymnasium import Space

from s2robot.checkpoint import Checkpoint
from s2robot.data.appearance import recorded_size
from s2robot.encoder import S2Encoder
from s2robot.interfaces import RolloutError, unknown_name


def check_spaces(
    checkpoint: Checkpoint, encoder: S2Encoder, execute_steps: int, observations: Mapping[str, Space], actions: Space
) -> None:
    """Compare one environment's spaces with what the checkpoint records.

    Args:
        checkpoint: checkpoint of the policy.
        encoder: encoder of the policy.
        execute_steps: number of actions that one step of the environment executes.
        observations: key -> space, with the leading To axis.
        actions: the space of one chunk, [execute_steps, A].

    Raises:
        RolloutError: the shape of actions differs, a camera or proprioception key is missing, or images have another
            size.
    """
    expected = (execute_steps, checkpoint.spec.action_width)
    if actions.shape != expected:
        raise RolloutError(
            f"the environment takes action chunks of shape {actions.shape}, but the policy gives {expected} "
            "(steps, width)"
        )
    steps = checkpoint.config.policy.observation_steps
    for camera in checkpoint.spec.features:
        _check_camera(checkpoint, encoder, camera, steps, observations)
    width = 0
    for key in checkpoint.proprioception:
        shape = _entry(observations, key, key, "proprioception", "")
        width += _product(shape[1:])
    if width != checkpoint.spec.proprioception_width:
        raise RolloutError(
            f"proprioception {checkpoint.proprioception} has {width} numbers in the environment, but the policy was "
            f"trained on {checkpoint.spec.proprioception_width}"
        )


def _check_camera(
    checkpoint: Checkpoint, encoder: S2Encoder, camera: str, steps: int, observations: Mapping[str, Space]
) -> None:
    shape = _entry(observations, f"{camera}_image", camera, "camera", "_image")
    if len(shape) != 4 or shape[0] != steps or shape[3] != 3:
        raise RolloutError(
            f"camera {camera!r} gives images of shape {shape}; the policy needs ({steps}, height, width, 3)"
        )
    height, width = shape[1:3]
    trained = recorded_size(checkpoint.environment, camera)
    if trained is not None and (height, width) != trained:
        way_out = f"; make the environment with image_size={trained[0]}" if trained[0] == trained[1] else ""
        raise RolloutError(
            f"camera {camera!r} gives images of {height} x {width} pixels, but the policy was trained on {trained[0]} "
            f"x {trained[1]}: features of resized images differ{way_out}"
        )
    features = encoder.feature_shape(height, width)
    if features != checkpoint.spec.features[camera]:
        raise RolloutError(
            f"images of {height} x {width} pixels from camera {camera!r} give features of {features}, but the policy "
            f"was trained on {checkpoint.spec.features[camera]}; make the environment with the image size of training"
        )


def _entry(observations: Mapping[str, Space], key: str, name: str, kind: str, ending: str) -> tuple[int, ...]:
    if key not in observations:
        choices = [other.removesuffix(ending) for other in observations if not ending or other.endswith(ending)]
        raise RolloutError(f"the policy needs a {kind} that the environment lacks: {unknown_name(kind, name, choices)}")
    shape = observations[key].shape
    if shape is None:
        raise RolloutError(f"observation {key!r} has no fixed shape")
    return shape


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
