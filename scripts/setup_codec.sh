#!/usr/bin/env bash
# Create .venv-codec: the coders that the codec is compared with and the fuzzer, on top of .venv, which stays as it is.
exec bash "$(dirname "$0")/venv_over.sh" codec "${KRIMP_CODEC_VENV:-.venv-codec}"
