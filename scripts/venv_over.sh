#!/usr/bin/env bash
# Create .venv-NAME: what benchmarks/NAME-requirements.txt lists, on top of .venv, which stays as it is.
#   bash scripts/venv_over.sh NAME [ENVIRONMENT]
# Safe to run again. A package that cannot be installed is named with the reason; the benchmark then says so in its table.
set -euo pipefail
cd "$(dirname "$0")/.."
BASE="${KRIMP_VENV:-.venv}"
NAME="${1:?which list of benchmarks/NAME-requirements.txt?}"
VENV="${2:-.venv-$NAME}"
LIST="benchmarks/$NAME-requirements.txt"
stamp="$VENV/.krimp-$(cat "$LIST" scripts/venv_over.sh | sha256sum | cut -c1-16)"
[ -f "$stamp" ] && exit 0

[ -x "$BASE/bin/python" ] || { echo "setup_$NAME: $BASE/bin/python not found. Run make setup first." >&2; exit 1; }
command -v g++ >/dev/null || echo "setup_$NAME: g++ not found: what is compiled will be missing (nncodec, zipnn)." >&2
[ -x "$VENV/bin/python" ] || "$BASE/bin/python" -m venv "$VENV"
"$BASE/bin/python" - "$VENV" <<'PY'
import sys, sysconfig
from pathlib import Path

packages = Path(sys.argv[1]) / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
(packages / "krimp_base.pth").write_text(line, encoding="utf-8")
PY
missing=0
while read -r package; do
    printf '   %s ...' "$package"
    if "$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps "$package" >"$VENV/pip.log" 2>&1; then
        echo " installed"
    else
        missing=1
        echo " NOT INSTALLED: $(grep -m1 -iE 'error' "$VENV/pip.log" || tail -n 1 "$VENV/pip.log")"
    fi
done < <(grep -vE '^\s*(#|$)' "$LIST")
rm -f "$VENV"/.krimp-*
if [ "$missing" = 0 ]; then touch "$stamp"; fi
