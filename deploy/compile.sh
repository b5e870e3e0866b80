#!/bin/sh
# compile.sh DIR: compile all Python below DIR to bytecode, valid for any file time. A read-only image cannot store bytecode
# later, and every process (health checks, probes of files) would compile again.
set -eu
# Deliberately broken files in tests and templates do not compile, and need not.
python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$1" >/dev/null || true
