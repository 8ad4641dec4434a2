#!/usr/bin/env bash
# Create .venv-peers: the tools that Krimp is compared with, on top of .venv, which stays as it is.
exec bash "$(dirname "$0")/venv_over.sh" peers "${KRIMP_PEERS_VENV:-.venv-peers}"
