.DEFAULT_GOAL := help
.PHONY: help install tools demo check test soak lock demo-model secrets image test-container

bin := .venv/bin
# Tests at a time: a whole file each, as its tests share what was trained for them.
WORKERS ?= 2

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Fill .venv with what fits this machine (nothing to do the second time)
	@requirements/install.sh

tools:
	@requirements/install.sh --test

demo: install ## A JSONL goes in, a QLoRA adapter comes out: the real thing on a tiny model, without a GPU
	@$(bin)/appliance demo

check: tools ## Lint, format, types, which layer may import which, and known vulnerabilities of what is locked
	@$(bin)/ruff check --quiet .
	@$(bin)/ruff format --check --quiet --diff .
	@$(bin)/mypy --no-error-summary
	@report=$$($(bin)/lint-imports --no-logo) || { echo "$$report"; exit 1; }
	@$(bin)/hadolint Dockerfile container/share/Dockerfile
	@requirements/audit.sh

test: check ## What CI runs: the checks and every test but the long ones (PYTEST_ARGS="-k labels" picks some)
	@$(bin)/python -m pytest -m "not soak and not container" -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		$(PYTEST_ARGS)

soak: tools ## The long tests: every crash point, hundreds of jobs, gigabyte files
	@$(bin)/python -m pytest -m soak $(PYTEST_ARGS)

secrets: ## Passwords, tokens and .env for compose.yaml (what is there already stays)
	@container/secrets.sh

image: install ## Build the container images, also where no image registry can be reached
	@$(bin)/python -m tests.container.images

test-container: tools ## Build the images and try the whole stack for real
	@$(bin)/python -m pytest -m container tests/container $(PYTEST_ARGS)

lock: ## Resolve requirements/*.lock again (UPGRADE=1 takes the newest versions admitted)
	@requirements/lock.sh
	@$(bin)/python requirements/licences.py

demo-model: install ## Train the tiny base model that ships with the package (about 20 minutes)
	@$(bin)/python -m appliance.stages.training.make_demo_model
