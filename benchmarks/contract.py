"""Does the service keep to openapi.json? schemathesis generates thousands of requests and checks every answer.

    python -m benchmarks.contract [--examples 100] [--seed 1]

`skipvsr up` runs in a data folder of its own, with a worker and the smallest network. Needs `pip install
'skipvsr[contract]'`. Ends with status 1 if an answer breaks the contract, at less than 2,000 cases, or if no request
paused and resumed a job.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import av
import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

_CHECKS: Final = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,missing_required_header,unsupported_method,"
    "allow_header_conformance,ensure_resource_availability"
)
"""Not checked: acceptance of valid data (a job's state may forbid an operation), refusal of invalid data (unknown
headers are no error), API keys, and event streams, which never end. `tests/service` has tests of these."""
_ROOT: Final = Path(__file__).parents[1]
_CASES: Final = 2000
_START_SECONDS: Final = 240
_COUNT: Final = re.compile(
    r'skipvsr_http_request_seconds_count\{method="(\w+)",route="([^"]*)",status="(\d+)"\} ([\d.e+]+)'
)
_MUST: Final = (("POST", "/jobs/{job_id}/pause", "200"), ("POST", "/jobs/{job_id}/resume", "200"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases, print the answers by route and status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--examples", type=int, default=100, help="generated cases of each operation")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    with _service() as url, tempfile.TemporaryDirectory(prefix="contract-") as folder:
        clip = _clip(Path(folder) / "clip.mp4")
        _seed(url, clip)
        output, status = _run(url, clip, arguments.examples, arguments.seed)
        counts = _counts(httpx.get(f"{url}/metrics", timeout=60).text)
    console = Console()
    console.print(_table(counts))
    cases = sum(int(number) for number in re.findall(r"(\d+) generated", output))
    reached = all(counts[key] for key in _MUST)
    console.print(f"{cases} cases, {sum(counts.values())} requests; pause and resume reached: {reached}")
    return int(bool(status) or cases < _CASES or not reached)


@contextmanager
def _service() -> Iterator[str]:
    """Run the whole service in a new folder during the block; yield its address."""
    with tempfile.TemporaryDirectory(prefix="contract-") as name, socket.create_server(("127.0.0.1", 0)) as free:
        folder, port = Path(name), free.getsockname()[1]
        free.close()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SKIPVSR_")}
        chosen = {"DATA_DIR": str(folder / "data"), "HTTP_PORT": str(port), "GRPC_PORT": "0", "MODEL": "tiny"}
        chosen |= {"DEVICE": "cpu", "PRECISION": "fp32", "THREADS": "1"}
        environment |= {f"SKIPVSR_{key}": value for key, value in chosen.items()}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "cli", "up"], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            _wait(f"http://127.0.0.1:{port}", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the service did not start: {log.read_text()}")


def _clip(path: Path) -> Path:
    """Write a video of six small frames."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 32, 24, "yuv420p"
        for shade in range(6):
            picture = np.full((24, 32, 3), 40 * shade, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
    return path


def _seed(url: str, clip: Path) -> None:
    """Make jobs in several states."""
    with httpx.Client(base_url=url, timeout=60) as client:
        for action in ("", "", "pause", "cancel"):
            made = client.post("/upscale", files={"file": ("clip.mp4", clip.read_bytes())}).raise_for_status().json()
            if action:
                client.post(f"/jobs/{made['id']}/{action}").raise_for_status()


def _run(url: str, clip: Path, examples: int, seed: int) -> tuple[str, int]:
    """Run schemathesis, and pass its output on; return the output and the exit status."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", _CHECKS]
    command += ["--max-examples", str(examples), "--seed", str(seed), "--request-timeout", "120", "--no-color"]
    command += ["--exclude-path-regex", "/events$", "--continue-on-failure"]
    environment = os.environ | {
        "PYTHONPATH": str(_ROOT),
        "SCHEMATHESIS_HOOKS": "benchmarks.contract_hooks",
        "SKIPVSR_CONTRACT_URL": url,
        "SKIPVSR_CONTRACT_CLIP": str(clip),
    }
    lines = []
    with subprocess.Popen(
        command, cwd=clip.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            sys.stdout.write(line)
            lines.append(line)
    return "".join(lines), run.returncode


def _counts(metrics: str) -> dict[tuple[str, str, str], int]:
    found: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    for method, route, status, number in _COUNT.findall(metrics):
        found[method, route, status] += int(float(number))
    return found


def _table(counts: dict[tuple[str, str, str], int]) -> Table:
    table = Table("request", "answers by status")
    routes: defaultdict[str, list[str]] = defaultdict(list)
    for (method, route, status), number in sorted(counts.items()):
        if status not in ("204", "405"):  # each path gets its other methods once
            routes[f"{method} {route}"].append(f"{status}: {number}")
    for route, answers in sorted(routes.items(), key=lambda row: row[0].split()[::-1]):
        table.add_row(route, ", ".join(answers))
    return table


if __name__ == "__main__":
    sys.exit(main())
