"""The command line as a whole: help, suggestions, completion, exit codes, and imports at start-up."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import cli
from commands.shared.command_line import MODELS
from commands.shared.job_options import HELP
from jobs.schema import JobOptions
from tests.support.paths import ROOT

NAMES = [name for section in cli.COMMANDS.values() for name in section]
HEAVY = {"av", "fastapi", "grpc", "model", "numpy", "torch", "uvicorn"}


def commands() -> Iterator[tuple[list[str], click.Command]]:
    """(words of the command line, command) of all commands and subcommands."""
    context = click.Context(cli.skipvsr)
    for name in NAMES:
        command = cli.skipvsr.get_command(context, name)
        assert command is not None
        yield [name], command
        if isinstance(command, click.Group):
            yield from (([name, sub], each) for sub, each in command.commands.items())


ALL = list(commands())


def run(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "cli", *argv],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def imported(*lines: str) -> set[str]:
    """Top-level packages that a process imports for these command lines."""
    code = (
        "import cli, json, sys; [cli.main(line.split()) for line in sys.argv[1:]]; print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *lines],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_help(words: list[str], command: click.Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: skipvsr {' '.join(words)} " in text
    for parameter in command.params:
        assert parameter.help, parameter.name
        assert not parameter.help.endswith("."), parameter.name
        shown = parameter.opts[-1] if isinstance(parameter, click.Option) else parameter.human_readable_name
        assert shown in text


@pytest.mark.parametrize(("words", "command"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_options_are_the_parameters_of_the_function(words: list[str], command: click.Command) -> None:
    assert command.callback is not None
    signature = inspect.signature(command.callback).parameters.values()
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in signature):
        expected = {each.name for each in signature if each.name != "context"}
        assert {parameter.name for parameter in command.params} == expected


def test_the_help_lists_every_module_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    modules = {path.stem.replace("_", "-") for path in (ROOT / "commands").glob("*.py")}
    assert set(NAMES) == modules - {"--init--", "generated-docs"}
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for words, command in ALL:
        if len(words) == 1:
            summary = next(section[words[0]] for section in cli.COMMANDS.values() if words[0] in section)
            assert command.help is not None
            assert command.help.splitlines()[0] == f"{summary}."
            assert summary in " ".join(text.split())


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Usage: skipvsr" in said.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("skipvsr 0.")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("upscal a b", "no such command 'upscal'; did you mean upscale? (see skipvsr --help)"),
        ("bench modle", "no such command 'modle'; did you mean model? (see skipvsr bench --help)"),
        ("upscale a b --rooting off", "no such option '--rooting'; did you mean --routing"),
        ("quux", "no such command 'quux' (see skipvsr --help)"),
        ("upscale", "missing IN (see skipvsr upscale --help)"),
        ("submit", "missing IN (see skipvsr submit --help)"),
        ("download", "missing JOB (see skipvsr download --help)"),
        ("jobs --state over", "--state: 'over' is not one of 'queued', 'running'"),
        ("upscale a b.mp4 --codec divx", "--codec: 'divx' is not one of 'auto', 'h264', 'hevc', 'av1'"),
        ("upscale a b.mp4 --scale 5", "--scale: "),
        ("upscale a b.mp4 --chunk many", "--chunk: 'many' is not a valid integer range"),
        ("upscale a b.mp4 --lookahead 65", "--lookahead: 65 is not in the range 0<=x<=64"),
        ("stream a b.mp4 --crf 52", "--crf: 52 is not in the range 0<=x<=51"),
        ("stream a b.mp4 --routing wild", "--routing: 'wild' is not one of 'off', 'balanced', 'fast'"),
        ("eval --gt a --routing wild", "--routing: 'wild' is not one of"),
        ("eval --gt a --frames 0", "--frames: 0 is not in the range x>=1"),
        ("train-skip tiny --clips a --error-budget 0", "--error-budget: '0' is not a number above 0"),
        ("train-skip tiny --clips a --error-budget inf", "--error-budget: 'inf' is not a number above 0"),
        ("pack a.toml --cache b --out c --mib 0", "--mib: 0 is not in the range x>=1"),
        ("train-skip tiny --clips a --rounds 100", "--rounds: 100 is not in the range 0<=x<=99"),
        ("bench model --clips a --models b --set luma", "--set: 'luma' is not NAME=NUMBER"),
        ("upscale a b.webm --codec h264", "webm can't hold h264"),
        ("upscale a b.mp4 --scale 2 --height 100", "either scale or height"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("skipvsr: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def test_choices_are_in_the_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("upscale", "submit", "watch"):
        assert cli.main([name, "--help"]) == 0
        text = capsys.readouterr().out
        for choices in ("off|balanced|fast", "auto|h264|hevc|av1", "auto|mp4|mkv|mov|webm", "2|3|4", "high|normal|low"):
            assert f"[{choices}]" in text
        for bounds in ("--height 16-8192", "--chunk 1-256", "--lookahead 0-64", "--crf 0-51"):
            assert bounds in text
        for value in ("24", "4", "18", "balanced", "auto", "normal"):
            assert f"[default: {value}]" in text
        assert ",".join(MODELS) in "".join(text.split())  # lines break at hyphens too


def test_job_options_are_those_of_the_schema() -> None:
    assert list(HELP) == list(JobOptions.model_fields)
    for words, command in ALL:
        if words[0] in ("upscale", "submit", "watch"):
            assert [each.name for each in command.params if each.name in HELP] == list(HELP)


def test_models_are_those_of_the_zoo() -> None:
    from model.zoo.models import CARDS

    assert set(MODELS) == {"auto", *(card.name for card in CARDS)} - {"tiny"}


def test_options_with_several_values() -> None:
    (model,) = (command for words, command in ALL if words == ["bench", "model"])
    line = "--models a b --clips c --clips d e -s luma=2 mask=false --set drift=1 --rounds 2"
    values = model.make_context("model", line.split()).params
    assert values["models"] == ("a", "b")
    assert values["clips"] == (Path("c"), Path("d"), Path("e"))
    assert values["changes"] == (("luma", 2.0), ("mask", False), ("drift", 1.0))
    assert values["rounds"] == 2
    assert values["routings"] == ("off", "balanced", "fast")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_SKIPVSR_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("skipvsr up", {"up", "upscale"}),
        ("skipvsr upscale --ro", {"--routing"}),
        ("skipvsr upscale --routing ", {"off", "balanced", "fast"}),
        ("skipvsr upscale --model basicvsr-v", {"basicvsr-video", "basicvsr-vimeo-bi", "basicvsr-vimeo-bd"}),
        ("skipvsr upscale --model mi", {"mine"}),
        ("skipvsr bench m", {"model"}),
        ("skipvsr completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_completions(
    line: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.safetensors").touch()
    monkeypatch.setenv("SKIPVSR_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("_SKIPVSR_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    assert cli.main([]) == 0
    assert {item.partition(",")[2] for item in capsys.readouterr().out.split()} == expected


def test_the_help_imports_little() -> None:
    assert imported("--help") & (HEAVY | {"httpx", "pydantic", "redis", "rich"}) == set()


def test_the_help_of_no_command_imports_the_network_or_a_server() -> None:
    helps = [f"{' '.join(words)} --help" for words, _ in ALL]
    assert imported(*helps) & (HEAVY - {"model"}) == set()


@pytest.mark.parametrize("word", ["--help", "models"])
def test_a_reader_that_goes_away_is_status_141(word: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as output:
        done = subprocess.run([sys.executable, "-m", "cli", word], cwd=ROOT, stdout=output, check=False)
    assert done.returncode == 141


def test_an_interrupt_is_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("commands.models.run", lambda *given, **more: interrupted())
    assert cli.main(["models"]) == 130
    assert capsys.readouterr().err == "skipvsr: interrupted\n"


def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["api"]) == 1
    assert "this command needs uvicorn, which is not installed: pip install 'skipvsr[api]'" in capsys.readouterr().err


def test_the_module_is_the_command() -> None:
    done = run("upscal")
    assert done.returncode == 2
    assert "did you mean upscale?" in done.stderr
