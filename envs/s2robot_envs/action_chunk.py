"""Run several actions per step and render only the observations a policy will see."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from s2robot_envs.base import ImageEnv, ObservationDict
from s2robot_envs.errors import ActionError, EnvConfigError, unknown_name


class ActionChunk(gymnasium.Wrapper[ObservationDict, np.ndarray, ObservationDict, np.ndarray]):
    """Wrap an `ImageEnv` for policies that see To observations and predict Ta actions.

    - **Actions**: the action space is Box [Ta, A]. One `step` executes up to Ta actions in order. The reward is their
      sum.
    - **Observations**: every entry gets a leading To axis, oldest first. At reset the first observation is repeated.
      Frames that no policy sees are not rendered, because rendering takes most of the time on a machine without a GPU.
    - **End**: a chunk stops early at the horizon and at the first success. The history is then the newest observation
      To times, because the skipped frames were not rendered. Until `reset`, further steps change nothing and return the
      last observation, `steps` 0 and `truncated` True. So finished members of a vector environment cost no time while
      the others go on.
    - **Info**: `info` has the entries of `ImageEnv`, but `is_success` is True if any step of this chunk was a success.
      `steps` is the number of actions executed. At reset, `renderer` is the environment's `renderer_name`.
    - **Recording**: with `reset(options={"record": True})`, or a camera's name in place of True, `info["frames"]` holds
      that camera's frame of every step, uint8 [n, H, W, 3]: n is 1 at reset and `steps` after a step.

    Args:
        env: the environment to wrap.
        observation_steps: number of observations To.
        action_steps: number of actions Ta.

    Raises:
        EnvConfigError: To or Ta is below 1.
    """

    env: ImageEnv

    def __init__(self, env: ImageEnv, *, observation_steps: int = 1, action_steps: int = 1) -> None:
        super().__init__(env)
        for name, value in (("observation_steps", observation_steps), ("action_steps", action_steps)):
            if not isinstance(value, int) or value < 1:
                raise EnvConfigError(f"{name} is {value!r}; it must be a whole number of at least 1")
        self.action_steps = action_steps
        self._history: deque[ObservationDict] = deque(maxlen=observation_steps)
        self._record_camera: str | None = None
        self._truncated = False
        self.action_space = batch_space(env.action_space, action_steps)
        # Dict spaces sort their keys; batching entry by entry keeps cameras first, as in the observations.
        entries = cast(spaces.Dict, env.observation_space).spaces
        self.observation_space = spaces.Dict(  # type: ignore[assignment]  # gymnasium types Dict loosely
            {key: batch_space(entries[key], observation_steps) for key in entries}
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObservationDict, dict[str, Any]]:
        """Start an episode; see the class for the `record` option and `ImageEnv.reset` for the rest."""
        options = dict(options or {})
        self._record_camera = self._camera_to_record(options.pop("record", False))
        observation, info = self.env.reset(seed=seed, options=options)
        self._truncated = False
        self._fill_history(observation)
        frames = [] if self._record_camera is None else [self._frame(observation)]
        return self._stacked(), {**self._chunk_info(info["is_success"], 0, frames), "renderer": self.env.renderer_name}

    def step(self, actions: np.ndarray) -> tuple[ObservationDict, float, bool, bool, dict[str, Any]]:
        """Execute the chunk of actions [Ta, A].

        Raises:
            ActionError: the chunk has the wrong shape or holds NaN or infinity; no action was executed.
            EpisodeOverError: `reset` was never called.
        """
        actions = self._checked(actions)
        if self._history and (self._truncated or self.env.info()["success_so_far"]):
            return self._stacked(), 0.0, False, True, self._chunk_info(False, 0, [])
        planned = min(self.action_steps, max(self.env.steps_left, 1))
        rewards, frames, success = 0.0, [], False
        for executed, action in enumerate(actions[:planned], start=1):
            reward, self._truncated = self.env.simulate(action)
            rewards += reward
            success = self.env.info()["is_success"]
            over = success or self._truncated  # a simulation can also end by itself before the horizon
            observation = None
            if over or executed > planned - self._history.maxlen:  # type: ignore[operator]  # maxlen is set
                observation = self.env.observe()
                self._history.append(observation)
            if self._record_camera is not None:
                frames.append(self._frame(observation))
            if over:
                break
        if executed < planned:
            self._fill_history(self._history[-1])
        return self._stacked(), rewards, False, self._truncated, self._chunk_info(success, executed, frames)

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        array = np.asarray(actions, dtype=np.float64)
        if array.shape != self.action_space.shape:
            raise ActionError(f"action chunk has shape {array.shape}; expected {self.action_space.shape} (Ta, A)")
        if not np.isfinite(array).all():
            raise ActionError(f"action chunk holds NaN or infinity: {array.tolist()}")
        return array

    def _camera_to_record(self, record: bool | str) -> str | None:
        if record is False or record is None:
            return None
        if record is True:
            return next(iter(self.env.image_sizes), self.env.default_camera)
        available = self.env.available_cameras
        if record not in available:
            raise EnvConfigError(unknown_name("camera to record", record, available))
        return record

    def _frame(self, observation: ObservationDict | None) -> np.ndarray:
        """Return the recorded camera's current frame, from the observation if it has one (rendering is expensive)."""
        assert self._record_camera is not None
        key = f"{self._record_camera}_image"
        if observation is not None and key in observation:
            return observation[key]
        return self.env.render_camera(self._record_camera)

    def _fill_history(self, observation: ObservationDict) -> None:
        assert self._history.maxlen is not None
        self._history.extend([observation] * self._history.maxlen)

    def _stacked(self) -> ObservationDict:
        return {key: np.stack([observation[key] for observation in self._history]) for key in self._history[-1]}

    def _chunk_info(self, success: bool, steps: int, frames: list[np.ndarray]) -> dict[str, Any]:
        info = {**self.env.info(), "is_success": success, "steps": steps}
        if self._record_camera is not None and frames:
            info["frames"] = np.stack(frames)
        return info
