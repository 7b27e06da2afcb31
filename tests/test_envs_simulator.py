import sys

import pytest

from s2robot_envs.errors import EnvConfigError
from s2robot_envs.simulator import import_any_robosuite, import_robosuite


def test_without_the_simulator_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(EnvConfigError, match=r"not installed.*pip install 's2robot\[sim\]'"):
        import_any_robosuite.__wrapped__()


@pytest.mark.parametrize(("version", "fits"), [("1.4.0", False), ("1.4.1", False), ("1.5.2", True), ("1.6.0", False)])
def test_another_version_of_robosuite_is_one_clear_error(monkeypatch, version, fits):
    monkeypatch.setattr("robosuite.__version__", version)
    if fits:
        assert import_robosuite.__wrapped__().__version__ == version
    else:
        with pytest.raises(EnvConfigError, match=f"robosuite {version} is installed .* need 1.5"):
            import_robosuite.__wrapped__()
