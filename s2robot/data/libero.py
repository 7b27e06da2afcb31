"""What LIBERO's demonstration files (`*_demo.hdf5`) say beyond robomimic's layout.

`scripts/create_dataset.py` of https://github.com/Lifelong-Robot-Learning/LIBERO writes them:

```
data                     attrs: bddl_file_name, bddl_file_content, problem_info (JSON: language_instruction, …),
                                env_args (JSON), macros_image_convention, env_name, num_demos, total
data/demo_<i>            attrs: num_samples, model_file, init_state
data/demo_<i>/actions    float64 [T, 7];  states [T, S];  robot_states [T, 9];  rewards, dones uint8 [T]
data/demo_<i>/obs/<key>  agentview_rgb, eye_in_hand_rgb uint8 [T, 128, 128, 3], bottom row first;
                         gripper_states [T, 2], joint_states [T, 7], ee_pos, ee_ori [T, 3], ee_states [T, 6]
```

The script steps the simulator before it stores the observation: observation t is the one *after* action t (state t is
the one before it). Files are read as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

_DEFINITION = "bddl_file_name"  # the attribute by which a file is recognised
_CONTROL = {"robots": "robots", "controller_configs": "controller", "control_freq": "control_freq"}


def with_environment(env_args: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `env_args` with the settings of `make_env` for LIBERO's task; unchanged for files that are not LIBERO's.

    Robot, controller and control frequency are those that the file records.

    Args:
        env_args: the recorded environment description.
        attributes: attributes of the group `data`.
    """
    definition = attributes.get(_DEFINITION)
    if not isinstance(definition, str) or "s2robot" in env_args:
        return dict(env_args)
    path = PurePosixPath(definition)
    kwargs = env_args.get("env_kwargs")
    recorded = kwargs if isinstance(kwargs, Mapping) else {}
    control = {ours: recorded[name] for name, ours in _CONTROL.items() if recorded.get(name) is not None}
    task = {"task": f"libero:{path.parent.name}/{path.stem}", "render_profile": "full"}
    return {**env_args, "s2robot": {**task, **control}}


def steps_behind(env_args: Mapping[str, Any]) -> int:
    """Return by how many steps observations follow the states of the same index: 1 in LIBERO's own files, else 0."""
    return int(is_libero(env_args) and "rendered_from" not in env_args)


def late_observations(env_args: Mapping[str, Any]) -> str:
    """Return a text that says by how much observations are late, and the way out; empty if they are not."""
    if not steps_behind(env_args):
        return ""
    return (
        "LIBERO stored each observation after the action of the same index, so a policy learns the action before; "
        "`s2robot render` makes observations before each action from the states"
    )


def is_libero(env_args: Mapping[str, Any]) -> bool:
    """Return whether LIBERO recorded an environment description."""
    return "bddl_file" in env_args


def language(attributes: Mapping[str, Any]) -> str | None:
    """Return the task in words, as the file records it; None if it does not."""
    try:
        words = json.loads(attributes["problem_info"])["language_instruction"]
    except (KeyError, TypeError, ValueError):
        return None
    return " ".join(words) if isinstance(words, list) else str(words)
