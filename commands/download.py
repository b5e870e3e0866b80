"""`skipvsr download`: fetch the result of a job from a server; an interrupted download continues."""

from __future__ import annotations

from pathlib import Path

import click

from commands.shared.command_line import FILE, Command, option
from commands.shared.service import Document, JobId, connected, server_options


@click.command(cls=Command)
@click.argument("job", type=JobId(), metavar="JOB", help="Id, or the first characters")
@option("-o", "--output", type=FILE, metavar="PATH", help="File or folder; default: this folder")
@option("--overwrite", is_flag=True, help="Replace an existing file")
@option("-q", "--quiet", is_flag=True, help="Print errors only")
@server_options
def command(
    job: str, output: Path | None, overwrite: bool, quiet: bool, server: str | None, api_key: str | None
) -> int:
    """Download the result of a job; an interrupted download continues."""
    from commands.shared.naming import check_names

    with connected(server, api_key) as service:
        document = service.job(service.find(job))
        target = _target(document, output)
        check_names(None, {"the output": target}, overwrite=overwrite)
        service.download(document["id"], target, quiet=quiet)
    if not quiet:
        print(f"{target}  {target.stat().st_size} bytes")
    return 0


def _target(job: Document, output: Path | None) -> Path:
    """The file to write: `output`, or the default name in the folder `output`."""
    from commands.shared.naming import marked, usual_container

    folder = output or Path()
    if not folder.is_dir():
        return folder
    name = Path(Path(job["filename"]).name)  # a server must not choose the folder
    container = (job.get("output") or {}).get("container") or usual_container(name)
    return folder / marked(name, container)
