import sys

import pytest

from s2robot_envs.errors import EnvConfigError
from s2robot_envs.simulator import import_robosuite


def test_without_the_simulator_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(EnvConfigError, match=r"not installed.*pip install 's2robot\[sim\]'"):
        import_robosuite.__wrapped__()
