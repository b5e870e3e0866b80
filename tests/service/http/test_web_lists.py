"""What the page's scripts list is what the commands and the models list."""

from __future__ import annotations

import re
from pathlib import Path

import service.http
from commands.shared.files import VIDEOS
from model.zoo.models import cards

STATIC = Path(service.http.__file__).parent / "static"


def test_a_folder_on_the_page_holds_the_videos_of_a_folder_of_the_commands() -> None:
    endings = re.search(r"const VIDEO = /\\\.\((.+)\)\$/i;", (STATIC / "page" / "queue.js").read_text())
    accepted = re.search(r'id="files" multiple accept="video/\*,([^"]+)"', (STATIC / "index.html").read_text())
    assert endings
    assert accepted
    assert {f".{ending}" for ending in endings[1].split("|")} == VIDEOS
    assert set(accepted[1].split(",")) == VIDEOS


def test_each_model_of_the_list_has_a_description(tmp_path: Path) -> None:
    models = (STATIC / "page" / "options.js").read_text()
    described = dict(re.findall(r'"?([a-z0-9-]+)"?: "\1: ([^"]+)"', models))
    assert described.keys() == {card.name for card in cards(tmp_path)} - {"tiny"}
