"""Certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, as PEM files."""

    key: Path
    cert: Path


class Authority:
    """A CA whose files lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = self._made("ca")

    def server(self) -> Certificate:
        """A certificate for 127.0.0.1."""
        return self._signed("server", "-addext", "subjectAltName=IP:127.0.0.1")

    def client(self) -> Certificate:
        """A client's certificate."""
        return self._signed("client")

    def _signed(self, name: str, *options: str) -> Certificate:
        ca = ("-CA", str(self.ca.cert), "-CAkey", str(self.ca.key), "-addext", "basicConstraints=CA:FALSE")
        return self._made(name, *ca, *options)

    def _made(self, name: str, *options: str) -> Certificate:
        made = Certificate(self._folder / f"{name}.key", self._folder / f"{name}.pem")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", "2", "-subj", f"/CN={name}", "-keyout", str(made.key), "-out", str(made.cert), *options]
        subprocess.run(command, check=True, capture_output=True)
        return made
