#!/usr/bin/env bash
# Add the OpenMMLab stack to .venv, for detectors/openmmlab and the tests in tests/openmmlab. mmcv is compiled against
# the torch that is there. Safe to run again: it stops at once when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
source scripts/installer.sh
PINS=requirements-openmmlab.txt
stamp=".venv/.openmmlab-$(stamp_of "$PINS" requirements.txt scripts/setup_openmmlab.sh)"
[ -f "$stamp" ] && exit 0
command -v g++ >/dev/null || fail "g++ not found. It compiles the mmcv operators; install a C++17 compiler (Debian: apt-get install g++)."
.venv/bin/python -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' ||
    fail "Python.h not found. mmcv is compiled against it; install the headers (Debian: apt-get install python3-dev)."

works() { .venv/bin/python -c 'from mmcv.ops import box_iou_rotated, nms_rotated'; }

step "1/2 mmcv: compiles its C++ operators, 8 to 12 minutes on two idle cores the first time (the wheel is kept)"
install .venv --only-binary :all: $(pinned "$PINS" 'wheel|ninja')
alive "mmcv" .venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation $(pinned "$PINS" 'onedl-mmcv')
works || fail "mmcv was installed without its operators. Remove it (.venv/bin/pip uninstall onedl-mmcv; .venv/bin/pip cache remove onedl_mmcv) and run make setup-openmmlab again."

step "2/2 the rest of the stack"
alive "packages" install .venv -r requirements.txt -r "$PINS"
# mmcv asks for opencv-python, whose cv2 needs libGL; the headless build of the same version goes on top of it.
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$(pinned requirements.txt opencv-python-headless)"
works
.venv/bin/pip check --disable-pip-version-check
rm -f .venv/.openmmlab-*
touch "$stamp"
step "OpenMMLab ready after $SECONDS s"
