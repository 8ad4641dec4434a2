# make demo: the whole path on synthetic data. make test: the tests. make help: the rest.
BIN := .venv/bin
export PYTHONUNBUFFERED := 1

.PHONY: help setup demo check test test-full fmt bench bench-codec fuzz-codec docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## create .venv with the pinned packages (first time: 10 to 20 minutes)
	@bash scripts/setup.sh

demo: setup ## synthetic data -> train -> prune -> quantise -> pack -> report, at most 10 minutes on 2 cores
	@$(BIN)/python scripts/make_synthetic.py --out out/data/synthetic --object-px 32 56 --val 20 --test 50
	@$(BIN)/python compress/run.py recipes/demo.yaml --out out

check: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: setup ## the tests, at most 20 minutes on 2 cores
	@$(BIN)/python -m pytest -m "not slow" --timeout 600

test-full: setup ## all tests, the slow ones too
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

fuzz-codec: setup ## coverage-guided fuzzing of the codec, 10 minutes (ARGS="--minutes 60" for longer)
	@bash scripts/setup_codec.sh
	@.venv-codec/bin/python scripts/fuzz_codec.py $(ARGS)

docs: setup ## regenerate what is generated: schemas of recipe and report, README tables
	@$(BIN)/krimp schema -o recipes/recipe.schema.json
	@$(BIN)/python -m compress.report.document
	@$(BIN)/python scripts/update_readme.py

clean: ## remove outputs and caches, keep .venv
	rm -rf out build .mypy_cache .ruff_cache .pytest_cache .hypothesis
