#!/usr/bin/env bash
# From a fresh clone to a report: set-up, synthetic data, the run of recipes/demo.yaml; then a line of times.
# Ends with the exit code of the run: 1 if a requirement of the recipe is missed.
set -uo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh || exit
setup_s=$SECONDS
.venv/bin/python scripts/make_synthetic.py --out out/data/synthetic --object-px 32 56 --val 20 --test 50 || exit
data_s=$((SECONDS - setup_s))
.venv/bin/python compress/run.py recipes/demo.yaml --out out
code=$?
printf 'times: set-up %d s, data %d s, run %d s, total %d s\n' $setup_s $data_s $((SECONDS - setup_s - data_s)) $SECONDS
exit $code
