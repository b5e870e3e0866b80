#!/bin/sh
# install.sh EXTRAS: install the pinned dependencies of the package and of these extras into /opt/venv. The package's own
# code is a separate layer.
set -eu
python -m venv --without-pip /opt/venv
python - "$1" >wanted.txt <<'EOF'
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
print(*project["dependencies"], sep="\n")
for extra in sys.argv[1].split(","):
    print(*project["optional-dependencies"][extra], sep="\n")
EOF
pip --python /opt/venv/bin/python install --quiet --no-compile -c requirements.lock -r wanted.txt
# No container runs test suites or needs headers.
find /opt/venv -type d \( -name tests -o -name __pycache__ -o -path '*/torch/include' \) -prune -exec rm -rf {} +
find /opt/venv -name '*.pyi' -delete
# Debug symbols make up a third of PyAV and most of uvloop. Libraries bundled in wheels have none.
find /opt/venv -name '*.so' -not -path '*.libs/*' -not -path '*/torch/*' -exec strip --strip-unneeded {} +
./compile.sh /opt/venv
