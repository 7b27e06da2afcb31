# Every verb sets the project up by itself; that takes seconds once nothing has changed.
.DEFAULT_GOAL := help
.PHONY: help setup lock demo test test-slow test-newest test-portable test-pythons test-gpu test-robomimic test-diffusion-policy test-lerobot test-metaworld test-libero test-gyms test-clusters test-sb3 test-torchrl test-export test-integrations lint docs format clean

# `make test VENV=.venvs/other`: another environment than .venv. `NEWEST=1`: the newest versions that pyproject.toml allows
# instead of those that were tested (requirements/).
VENV := .venv
NEWEST ?=
UPGRADE ?=
export VENV NEWEST UPGRADE
BIN := $(VENV)/bin

# The OpenGL backend must be known before mujoco is imported; EGL needs no screen.
export MUJOCO_GL ?= egl
# Threads that spin while they wait slow every other process on a machine with few cores.
export OMP_WAIT_POLICY ?= PASSIVE

# `make demo DEMO_EPISODES=100`, and so on.
DEMO_OUTPUT ?= outputs/demo
DEMO_DEMONSTRATIONS ?= 60
DEMO_EPISODES ?= 50
DEMO_DATASET ?= $(DEMO_OUTPUT)/lift.hdf5
# OpenVINO runs this backbone about twice as fast as eager PyTorch on a CPU (docs/encoders.md).
DEMO_DEVICE ?= device=cpu encoder.engine=openvino

# Further arguments for pytest: `make test PYTEST_ARGS="-k encoder"`. Files of tests run side by side in so many processes.
PYTEST_ARGS ?=
PYTEST_WORKERS ?= 2
# --no-loadscope-reorder: in the order of tests/conftest.py, the longest files first.
PYTEST = $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## create .venv, with the system packages it needs
	@scripts/setup.sh

lock: ## write requirements/*.txt, the versions that setup installs (UPGRADE=1: the newest)
	@scripts/lock.sh

demo: setup ## collect demonstrations, train a policy on frozen S2 features, roll it out
	$(BIN)/s2robot collect task=Lift num=$(DEMO_DEMONSTRATIONS) size=448 out=$(DEMO_DATASET)
	$(BIN)/python train_policy.py +experiment=lift_bc dataset=$(DEMO_DATASET) output=$(DEMO_OUTPUT) $(DEMO_DEVICE)
	$(BIN)/s2robot evaluate checkpoint=$(DEMO_OUTPUT)/checkpoint episodes=$(DEMO_EPISODES) output=$(DEMO_OUTPUT) \
	  $(filter device=%,$(DEMO_DEVICE))

test: setup ## run the tests that take seconds each
	$(PYTEST) -m "not slow and not gpu and not integration" $(PYTEST_ARGS)

test-newest: ## the same with the newest versions that pyproject.toml allows, in an environment of its own
	$(MAKE) test VENV=.venvs/newest NEWEST=1

test-pythons: ## the same on Python 3.11, 3.12 and 3.13, each in an environment of its own
	for version in 3.11 3.12 3.13; do $(MAKE) test VENV=.venvs/py$$version PYTHON=python$$version || exit; done

test-portable: setup ## compare and test what other processors, thread counts and OpenGL drivers give
	-@MUJOCO_GL=osmesa scripts/setup.sh packages
	$(BIN)/python scripts/portable.py --workers $(PYTEST_WORKERS) $(PORTABLE_ARGS)

test-slow: setup ## run the tests that take minutes each
	$(PYTEST) -m "slow and not gpu and not integration" $(PYTEST_ARGS)

test-gpu: setup ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(PYTEST_ARGS)

# Each in .venvs/…, with that project's own versions. ROBOMIMIC=… and so on say where a project is installed from:
# a checkout, or anything that pip (diffusion_policy: git) can fetch.
# Plugins of pytest are off: those of .venv may not fit the versions here. $(1): the environment, $(2): its tests.
INTEGRATION_TEST = python=$$(scripts/setup_integration.sh $(1)) && \
  PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $$python -m pytest -s $(2) $(PYTEST_ARGS)

test-robomimic: setup ## train and roll out through robomimic's own scripts
	$(call INTEGRATION_TEST,robomimic,tests/test_integration_robomimic.py tests/test_data_libraries.py)

test-diffusion-policy: setup ## train in diffusion_policy's own workspace
	$(call INTEGRATION_TEST,diffusion_policy,tests/test_integration_diffusion_policy.py)

test-lerobot: setup ## train with lerobot-train (Python 3.12)
	$(call INTEGRATION_TEST,lerobot,tests/test_integration_lerobot.py tests/test_data_libraries.py)

test-sb3: setup ## train agents of Stable-Baselines3 through the features extractor
	$(call INTEGRATION_TEST,sb3,tests/test_integration_sb3.py)

test-torchrl: setup ## check and run TorchRL environments with the transform
	$(call INTEGRATION_TEST,torchrl,tests/test_integration_torchrl.py)

test-export: setup ## export policies to ONNX, run them, and talk to the inference server
	$(call INTEGRATION_TEST,export,tests/test_export.py tests/test_server.py)

test-integrations: test-robomimic test-diffusion-policy test-lerobot test-sb3 test-torchrl test-export ## all of these

test-metaworld: setup ## run Meta-World's tasks and its scripted policies
	$(call INTEGRATION_TEST,metaworld,tests/test_envs_metaworld.py)

test-libero: setup ## compare LIBERO's tasks with LIBERO itself, train and evaluate on its files
	$(call INTEGRATION_TEST,libero,tests/test_envs_libero.py)

test-gyms: setup ## train and evaluate on PushT, FetchPickAndPlace and a task of dm_control, from their public packages
	$(call INTEGRATION_TEST,gyms,tests/test_envs_gyms.py)

test-clusters: setup ## run a benchmark on Ray with a worker killed, and on SLURM (where installed) with a job preempted
	$(call INTEGRATION_TEST,clusters,tests/test_benchmark_executors.py)

lint: setup ## check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup ## build the documentation's site into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

format: setup ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, build products and tool caches (keeps outputs/ and demos/)
	rm -rf .venv .venvs build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
