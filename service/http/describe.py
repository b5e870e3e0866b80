"""Write openapi.json, the source for generated clients: `python -m service.http.describe`."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.settings import Settings
from service.http.app import create_app

TARGET = Path(__file__).parent / "openapi.json"


def main() -> None:
    """Write openapi.json next to this file. Redis is not needed."""
    app = create_app(Settings(redis_url="redis://127.0.0.1:6379"))
    TARGET.write_text(json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(TARGET)


if __name__ == "__main__":
    main()
