#!/usr/bin/env bash
# Create .venv with the pinned packages, wheels only: no compiler is needed. Safe to run again: it stops at once when
# nothing changed. scripts/setup_openmmlab.sh adds the OpenMMLab stack, which is compiled.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/installer.sh
stamp=".venv/.krimp-$(stamp_of requirements.txt setup.cfg pyproject.toml scripts/setup.sh)"
[ -f "$stamp" ] && exit 0

step "1/2 virtual environment in .venv"
make_venv .venv
step "2/2 packages (wheels only, about 3 GB to download the first time, most of it torch)"
alive "packages" install .venv --only-binary :all: -r requirements.txt
install .venv --no-build-isolation --no-deps -e .
.venv/bin/pip check --disable-pip-version-check
rm -f .venv/.krimp-*
touch "$stamp"
step "ready after $SECONDS s"
