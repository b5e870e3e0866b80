"""Secrets in files: `SKIPVSR_<NAME>_FILE` names a file that holds the value of the setting `SKIPVSR_<NAME>`.

A named file that is missing or empty ends the process: a server without its key would serve everybody.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from jobs.errors import InvalidRequest

SECRETS: Final = ("api_key", "redis_url", "webhook_secret", "s3_secret_access_key")
"""Settings whose value may come from a file."""
_PREFIX: Final = "skipvsr_"
_SUFFIX: Final = "_file"


def check_folder(folder: Path, names: Iterable[str]) -> None:
    """Raise InvalidRequest for a secret of a setting that cannot be read; pydantic would leave the secret out.

    Docker, for example, creates a folder in place of a missing file that a container mounts.
    """
    secrets = {_PREFIX + name for name in names}
    for path in folder.iterdir():
        if path.name.lower() not in secrets:
            continue
        if not path.is_file() or folder.resolve() not in path.resolve().parents:
            raise InvalidRequest(f"SKIPVSR_SECRETS_DIR: {path} is no file of this folder; the secret is missing")
        _read("SKIPVSR_SECRETS_DIR", path)


class SecretFiles(PydanticBaseSettingsSource):
    """Values of the files that one source of variables names.

    Args:
        settings_cls: the settings.
        variables: the environment, or a `.env` file.
    """

    def __init__(self, settings_cls: type[BaseSettings], variables: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        assert isinstance(variables, EnvSettingsSource)
        self._variables = variables.env_vars

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: `__call__` reads all files."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """Read all named files. Raises InvalidRequest."""
        return {
            self._setting(variable): _secret(variable.upper(), Path(path).expanduser())
            for variable, path in self._variables.items()
            if path and self._names_a_file(variable)
        }

    def _names_a_file(self, variable: str) -> bool:
        is_setting = variable.removeprefix(_PREFIX) in self.settings_cls.model_fields
        return variable.startswith(_PREFIX) and variable.endswith(_SUFFIX) and not is_setting

    def _setting(self, variable: str) -> str:
        name = variable.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        if name not in SECRETS:
            known = " and ".join(f"SKIPVSR_{secret.upper()}_FILE" for secret in SECRETS)
            raise InvalidRequest(f"{variable.upper()}: no such setting; {known} name files")
        if self._variables.get(_PREFIX + name):
            raise InvalidRequest(f"{variable.upper()} and SKIPVSR_{name.upper()} are both set; remove one of them")
        return name


def _secret(variable: str, path: Path) -> str:
    text = _read(variable, path)
    if not text:
        raise InvalidRequest(f"{variable}: {path} is empty; write the secret into the file, or unset the variable")
    return text


def _read(variable: str, path: Path) -> str:
    """The text of a file. Raises InvalidRequest, which names the variable."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the file is no text"
        raise InvalidRequest(f"{variable}: cannot read {path}: {reason}") from error
