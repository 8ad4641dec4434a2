# make demo: the whole path on synthetic data. make test: the tests. make help: the rest.
BIN := .venv/bin
export PYTHONUNBUFFERED := 1

# Two test processes with one thread each: numeric libraries would otherwise start a thread a core in each of them.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
NO_OPENMMLAB := --ignore=tests/openmmlab --ignore=tests/ray
SHORT := not slow and not openmmlab

.PHONY: help setup setup-openmmlab setup-ray demo check test test-fast test-openmmlab test-ray test-full fmt bench bench-codec bench-peers fuzz-codec \
	fuzz-checkpoints fuzz-metadata fuzz-recipes docs docs-site clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

setup: ## create .venv with the pinned packages, wheels only (about 3 GB to download; one minute after that)
	@bash scripts/setup.sh

setup-openmmlab: ## add the OpenMMLab stack to .venv; mmcv is compiled (g++, 8 to 12 minutes the first time)
	@bash scripts/setup_openmmlab.sh

setup-ray: setup ## add Ray to .venv, for krimp sweep --ray
	@bash scripts/setup_ray.sh

demo: ## set-up -> synthetic data -> train -> prune -> quantize -> pack -> report, about 6.5 minutes on 2 idle cores
	@bash scripts/demo.sh

check: setup ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: setup ## the tests that need no OpenMMLab, about 15 minutes on 2 cores
	@$(PYTEST) $(NO_OPENMMLAB) -m "$(SHORT)" --timeout 600

test-fast: setup ## the quick ones of them, at most 90 seconds
	@$(PYTEST) $(NO_OPENMMLAB) -m "$(SHORT) and not long" --timeout 120

test-openmmlab: setup-openmmlab ## the tests that need OpenMMLab
	@$(PYTEST) -m "openmmlab and not slow" --timeout 600

test-ray: setup-ray ## the tests that need Ray: a sweep on a cluster of several nodes on this machine
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ray --timeout 1800

test-full: setup-openmmlab setup-ray ## all tests, the slow ones too
	@$(BIN)/python -m pytest --timeout 3600

fmt: setup ## format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

bench: setup ## size and latency of the models in the zoo, against general compressors
	@$(BIN)/python benchmarks/size.py detectors/dcfl/zoo/*.krimp
	@$(BIN)/python benchmarks/latency.py detectors/dcfl/zoo/*.krimp

bench-codec: setup ## the codec against zstd, xz, ZipNN, NNCodec, constriction, dahuffman (20 to 30 minutes; ARGS=--quick for seconds)
	@bash scripts/setup_codec.sh
	@.venv-codec/bin/python benchmarks/codec.py $(ARGS)

bench-peers: setup ## Krimp beside other tools on one network (ARGS="RECIPE --set data.root=...", see benchmarks/peers.py)
	@bash scripts/setup_peers.sh
	@.venv-peers/bin/python benchmarks/peers.py $(ARGS)

fuzz-codec: setup ## coverage-guided fuzzing of the codec, 10 minutes (ARGS="--minutes 60" for longer)
	@bash scripts/setup_codec.sh
	@.venv-codec/bin/python scripts/fuzz_codec.py $(ARGS)

fuzz-checkpoints: setup ## mutated checkpoints against their reader, 10 minutes (ARGS="--minutes 60" for longer)
	@$(BIN)/python scripts/fuzz_checkpoints.py $(ARGS)

fuzz-metadata: setup ## hostile metadata of model files against the deployed part, 10 minutes (ARGS="--minutes 60" for longer)
	@$(BIN)/python scripts/fuzz_metadata.py $(ARGS)

fuzz-recipes: setup ## mutated recipes against their reader and the planner, 10 minutes (ARGS="--minutes 60" for longer)
	@$(BIN)/python scripts/fuzz_recipes.py $(ARGS)

docs: setup ## regenerate what is generated: schemas of recipe and report, reference of stages, README tables
	@$(BIN)/krimp schema --force -o recipes/recipe.schema.json
	@$(BIN)/krimp stages --markdown > recipes/README.md
	@$(BIN)/python -m compress.report.document
	@$(BIN)/python scripts/update_readme.py

docs-site: setup ## the pages and the reference as a site in out/site
	@bash scripts/docs_site.sh

clean: ## remove outputs and caches, keep .venv
	rm -rf out build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
