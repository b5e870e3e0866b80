#!/bin/sh
# install.sh EXTRAS: what the package and these of its extras need, pinned, into /opt/venv; without the package itself,
# whose code is a layer of its own.
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
# what nobody runs in a container: test suites and headers
find /opt/venv -type d \( -name tests -o -name __pycache__ -o -path '*/torch/include' \) -prune -exec rm -rf {} +
find /opt/venv -name '*.pyi' -delete
# debug symbols of compiled packages (a third of PyAV and most of uvloop); libraries that wheels bundle have none
find /opt/venv -name '*.so' -not -path '*.libs/*' -not -path '*/torch/*' -exec strip --strip-unneeded {} +
./compile.sh /opt/venv
