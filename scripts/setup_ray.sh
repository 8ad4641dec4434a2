#!/usr/bin/env bash
# Add Ray to .venv, for krimp sweep --ray and the tests in tests/ray. Safe to run again: it stops at once when nothing
# changed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/installer.sh
PINS=requirements-ray.txt
stamp=".venv/.ray-$(stamp_of "$PINS" requirements.txt scripts/setup_ray.sh)"
[ -f "$stamp" ] && exit 0
alive "ray" install .venv --only-binary :all: -r requirements.txt -r "$PINS"
.venv/bin/pip check --disable-pip-version-check
rm -f .venv/.ray-*
touch "$stamp"
step "Ray ready after $SECONDS s"
