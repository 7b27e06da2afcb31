"""s2robot's policies in LeRobot, selected by `--policy.type=s2robot`."""

from s2robot.system.extras import MissingLibraryError

try:
    import lerobot  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingLibraryError(
        f"lerobot is not installed ({error}); run: pip install 'lerobot[training]>=0.6'"
    ) from error

from lerobot_policy_s2robot.configuration_s2robot import S2RobotConfig
from lerobot_policy_s2robot.modeling_s2robot import S2RobotPolicy
from lerobot_policy_s2robot.processor_s2robot import make_s2robot_pre_post_processors

__all__ = ["S2RobotConfig", "S2RobotPolicy", "make_s2robot_pre_post_processors"]
