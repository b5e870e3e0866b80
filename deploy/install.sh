#!/bin/sh
# install.sh EXTRAS: install the pinned dependencies of the package and of these extras into /opt/venv. The code of the
# package and of its client is a separate layer.
set -eu
python -m venv --without-pip /opt/venv
python - "$1" >wanted.txt <<'EOF'
import sys
import tomllib
from pathlib import Path


def wanted(folder, extras):
    project = tomllib.loads(Path(folder, "pyproject.toml").read_text())["project"]
    for line in sum((project["optional-dependencies"][extra] for extra in extras), project["dependencies"]):
        name, _, given = line.partition("==")[0].rstrip("]").partition("[")
        if name == "skipvsr-client":
            wanted("clients/python", filter(None, given.split(",")))
        else:
            print(line)


wanted(".", sys.argv[1].split(","))
EOF
pip --python /opt/venv/bin/python install --quiet --no-compile -c requirements.lock -r wanted.txt
# No container runs test suites or needs headers.
find /opt/venv -type d \( -name tests -o -name __pycache__ -o -path '*/torch/include' \) -prune -exec rm -rf {} +
find /opt/venv -name '*.pyi' -delete
# Debug symbols make up a third of PyAV and most of uvloop. Libraries bundled in wheels have none.
find /opt/venv -name '*.so' -not -path '*.libs/*' -not -path '*/torch/*' -exec strip --strip-unneeded {} +
./compile.sh /opt/venv
