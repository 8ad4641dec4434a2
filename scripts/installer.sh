# Sourced by the set-up scripts: find Python, make a virtual environment, install into it, say that it lives.
# A set-up script is in the project's folder and has `set -euo pipefail` when it sources this one.

step() { printf '\n== %s\n' "$*"; }
fail() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; exit 1; }

# The versions that a file pins, for the names that match: pinned requirements.txt 'torch|numpy'.
pinned() { grep -E "^($2)==" "$1"; }

# The first 16 digits of the hash of what an environment was made from: it names the stamp that says it is ready.
stamp_of() { cat "$@" scripts/installer.sh | sha256sum | cut -c1-16; }

# Run a command that may stay silent for minutes; say every 30 s that it is alive.
alive() {
    local what="$1"; shift
    "$@" & local job=$! start=$SECONDS
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.2
        if (( SECONDS - start >= 30 )); then start=$SECONDS; echo "   $what: $SECONDS s ..."; fi
    done
    wait "$job"
}

# Print the Python to use: $PYTHON if it is set, else the first of the usual names that is 3.11, 3.12 or 3.13.
supported_python() {
    local name
    for name in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found (looked for ${PYTHON:-python3.11, python3.12, python3.13, python3}). Set PYTHON=/path/to/python3.11."
}

# Make the virtual environment $1 unless it is there.
make_venv() {
    [ -x "$1/bin/pip" ] && return
    local python
    python="$(supported_python)"
    "$python" -m venv "$1" || fail "$python cannot make a virtual environment. Install its venv module (Debian: apt-get install python3-venv)."
}

# Install into the virtual environment $1 what the other arguments (of pip install) name. uv does it in a tenth of
# pip's time; pip does it where uv cannot be installed or cannot reach the packages (it reads no pip.conf).
install() {
    local venv="$1"; shift
    if [ "${INSTALLER:-uv}" = uv ] && with_uv "$venv" "$@"; then return; fi
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-compile "$@"
}

with_uv() {
    local venv="$1"; shift
    if [ ! -x "$venv/bin/uv" ]; then
        "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$(pinned requirements.txt uv)" || return
    fi
    UV_HTTP_RETRIES="${UV_HTTP_RETRIES:-1}" "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" "$@" && return
    echo "   uv could not install this; pip tries" >&2
    return 1
}
