"""What is written about the project is true: settings, commands, addresses."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

import cli
from commands.settings_docs import env_example, with_table
from jobs.settings import Settings
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()
PAGES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]


def shell_lines() -> list[str]:
    """The README's commands, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_setting_is_documented() -> None:
    assert (ROOT / ".env.example").read_text() == env_example(), "run `make docs`"
    assert with_table(README) == README, "run `make docs`"
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert f"SKIPVSR_{name.upper()}" in README


def test_env_example_is_a_valid_env_file(tmp_path: Path) -> None:
    """With every line uncommented, the settings are the defaults."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    active = [line.removeprefix("#") for line in lines if re.match(r"#SKIPVSR_\w+=", line)]
    path = tmp_path / ".env"
    path.write_text("\n".join(active))
    assert Settings(_env_file=path) == Settings()


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("skipvsr ")])
def test_the_readmes_commands_exist(line: str) -> None:
    words = line.split()[1:]
    command: click.Command | None = cli.skipvsr
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
    assert command is not None
    args = command.make_context("skipvsr", words).params
    for name in ("source", "target"):
        if str(args.get(name, "")).startswith("examples/"):
            assert (ROOT / args[name]).is_file()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)", README))))
def test_the_readmes_make_targets_exist(target: str) -> None:
    run = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_the_architectures_tree_is_the_trees() -> None:
    tree = (ROOT / "ARCHITECTURE.md").read_text().split("```")[1]
    for name in re.findall(r"^([\w./-]+)  ", tree, re.MULTILINE):
        assert (ROOT / name).exists(), name
