#!/usr/bin/env bash
# Create .venv with every pinned package. Safe to run again: it stops at once when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3.11}"
stamp=".venv/.krimp-$(cat requirements.txt setup.cfg scripts/setup.sh | sha256sum | cut -c1-16)"
[ -f "$stamp" ] && exit 0

command -v "$PYTHON" >/dev/null || { echo "setup: $PYTHON not found. Krimp needs Python 3.11; set PYTHON=/path/to/python3.11." >&2; exit 1; }
command -v g++ >/dev/null || { echo "setup: g++ not found. It compiles the mmcv operators; install a C++17 compiler (Debian: apt-get install g++)." >&2; exit 1; }

step() { printf '\n== %s\n' "$*"; }
pinned() { grep -E "^($1)==" requirements.txt; }

# Run a command that may stay silent for minutes; say every 30 s that it is alive.
alive() {
    local what="$1"; shift
    "$@" & local job=$! start=$SECONDS
    while kill -0 "$job" 2>/dev/null; do
        sleep 1
        if (( (SECONDS - start) % 30 == 29 )); then echo "   $what: $((SECONDS - start)) s ..."; fi
    done
    wait "$job"
}

step "1/4 virtual environment in .venv"
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
# setuptools below 81: brevitas and the mmcv build still use pkg_resources.
.venv/bin/pip install --quiet --disable-pip-version-check $(pinned 'setuptools|wheel|packaging|ninja|psutil')

step "2/4 torch (about 3 GB to download; mmcv is compiled against it, so it comes first)"
alive "torch" .venv/bin/pip install --quiet --disable-pip-version-check $(pinned 'torch|torchvision|numpy')

step "3/4 mmcv: compiles its C++ operators, 8 to 12 minutes on two cores the first time (pip keeps the wheel)"
alive "mmcv build" .venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation $(pinned 'onedl-mmcv')
.venv/bin/python - <<'PY' || { echo "setup: mmcv was installed without its operators. Remove it (.venv/bin/pip uninstall onedl-mmcv; .venv/bin/pip cache remove onedl_mmcv) and run make setup again." >&2; exit 1; }
from mmcv.ops import box_iou_rotated, nms_rotated
PY

step "4/4 everything else"
alive "packages" .venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation -r requirements.txt
# mmcv asks for opencv-python, whose cv2 needs libGL; the headless build of the same version goes on top of it.
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall $(pinned 'opencv-python-headless')
.venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
.venv/bin/pip check
rm -f .venv/.krimp-*
touch "$stamp"
step "ready"
