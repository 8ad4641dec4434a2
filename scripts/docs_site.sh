#!/usr/bin/env bash
# Build the site into out/site: the pages of the tree, the commands, and the reference from the docstrings. A warning is
# an error. The builder has an environment of its own, .venv-docs.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/installer.sh
stamp=".venv-docs/.krimp-$(stamp_of requirements-docs.txt scripts/docs_site.sh)"
if [ ! -f "$stamp" ]; then
    make_venv .venv-docs
    install .venv-docs --only-binary :all: -r requirements-docs.txt
    rm -f .venv-docs/.krimp-*
    touch "$stamp"
fi
.venv/bin/python scripts/docs_site.py --out out/docs
.venv-docs/bin/mkdocs build --quiet --strict --config-file out/docs/mkdocs.yml
echo "site: out/site/index.html"
