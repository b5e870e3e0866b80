#!/bin/sh
# compile.sh DIR: bytecode of all Python below DIR, good for whatever file times a copy has. An image that is read-only
# can't keep any, and each process (health checks and the ones that look into files are such) would compile anew.
set -eu
# what is there to be wrong, in tests and as templates, does not compile, and need not
python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$1" >/dev/null || true
