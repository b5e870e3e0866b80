"""The documentation is true: settings, commands, options, addresses, tests, links."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import click
import pytest

import cli
from deploy.generate_docs import configuration_page, env_example, formats_page, modules_page
from jobs.settings import Settings
from model.routing import PRESETS, Preset
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.name != "modules.md")
TOP_PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "weights/README.md")
]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def shell_lines(page: Path) -> list[str]:
    """Lines of a page's `sh` blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


COMMANDS = sorted({line for page in [*TOP_PAGES, *PAGES] for line in shell_lines(page) if line.startswith("skipvsr ")})


def test_generated_pages_are_up_to_date() -> None:
    assert (ROOT / ".env.example").read_text() == env_example(), "run `make docs`"
    assert (DOCS / "configuration.md").read_text() == configuration_page(), "run `make docs`"
    assert (DOCS / "formats.md").read_text() == formats_page(), "run `make docs`"


def test_every_setting_is_on_the_configuration_page() -> None:
    page = configuration_page()
    for setting, field in Settings.model_fields.items():
        assert field.description, setting
        assert page.count(f"| `SKIPVSR_{setting.upper()}` |") == 1


def test_pages_name_existing_settings() -> None:
    known = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", env_example())) | {"SKIPVSR_SECRETS_DIR"}
    for page in [*TOP_PAGES, *PAGES]:
        assert set(re.findall(r"SKIPVSR_[A-Z0-9_]*[A-Z0-9]", page.read_text())) <= known, page


def test_env_example_is_a_valid_env_file(tmp_path: Path) -> None:
    """With every line uncommented, the settings are the defaults."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    active = [line.removeprefix("#") for line in lines if re.match(r"#SKIPVSR_\w+=", line)]
    path = tmp_path / ".env"
    path.write_text("\n".join(active))
    assert Settings(_env_file=path) == Settings()


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_options_exist(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command | None = cli.skipvsr
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
    assert command is not None
    command.make_context("skipvsr", words)
    for path in re.findall(r"\bexamples/\S+", line):
        assert (ROOT / path).is_file(), path


def test_make_targets_exist() -> None:
    text = "".join(page.read_text() for page in [*TOP_PAGES, *PAGES])
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"[`\n]make ([a-z-]+)", text)) <= targets


@pytest.mark.parametrize("page", [*TOP_PAGES, *PAGES], ids=name)
def test_links_and_pictures_exist(page: Path) -> None:
    """Pictures and files too, which the site's generator does not check."""
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"`[^`\n]*`", "", page.read_text())):
        target = page.parent / link
        assert link.startswith("https://") or target.exists() or target == DOCS / "modules.md", link


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "lab-notebook.md"], ids=name)
def test_files_named_in_pages_exist(page: Path) -> None:
    roots = "|".join(
        path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("data", "bench", "build")
    )
    for path in re.findall(rf"`((?:{roots})/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists() or path.startswith("docs/modules"), path


def test_every_room_is_on_the_architecture_page() -> None:
    """Rooms by hand; the modules page, which the build writes, has everything below them."""
    page = (DOCS / "architecture.md").read_text()
    for package in _packages():
        assert f"| `{package.name}/` |" in page, package


def _packages() -> list[Path]:
    found = [path.parent for path in ROOT.glob("*/__init__.py")]
    return [path for path in found if path.name != "tests"]


def test_the_modules_page_names_every_module() -> None:
    page = modules_page()
    for package in _packages():
        for module in package.rglob("*.py"):
            if module.name != "__init__.py":
                assert f"| `{module.name}` | " in page, module


def test_every_route_is_on_the_rest_page() -> None:
    page = (DOCS / "rest.md").read_text()
    paths = re.findall(r'^    "(/[^"]*)": \{', (ROOT / "service" / "http" / "openapi.json").read_text(), re.MULTILINE)
    assert "/upscale" in paths
    for path in paths:
        assert re.search(rf"`[A-Z]+ {re.escape(path)}`", page), path


def test_the_routing_page_has_the_presets_numbers() -> None:
    row = r"^\| ((?:`\w+`(?:, )?)+) \| (.*?) \| (.*?) \|"
    shown = {}
    for names, balanced, fast in re.findall(row, (DOCS / "routing.md").read_text(), re.MULTILINE):
        for i, name in enumerate(re.findall(r"`(\w+)`", names)):
            shown[name] = [cell.split(", ")[i] if ", " in cell else cell for cell in (balanced, fast)]
    for field in fields(Preset):
        if field.name in ("mask", "overhead", "dense_above", "negated_flow"):
            continue
        for preset, text in zip(("balanced", "fast"), shown[field.name], strict=True):
            assert text.startswith(f"{getattr(PRESETS[preset], field.name):g}") or text == "–", (field.name, text)
