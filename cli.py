"""`skipvsr`: the composition root. Parses the command line, loads what a command needs, turns errors into one line.

Commands import what they need when they run: `skipvsr submit` and `skipvsr api` work where torch is not installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from commands import bench
from commands.errors import CommandError
from commands.naming import container_of
from jobs.errors import SkipVsrError
from jobs.schema import JobOptions
from jobs.settings import Settings
from media.errors import MediaError
from model.engine.memory import keep_freed_memory
from model.errors import ModelError

EXPECTED = (CommandError, SkipVsrError, MediaError, ModelError)
"""Errors whose message is written for the user."""
_SPIN_COUNT = "10000"
"""For GNU OpenMP: how long the network's threads spin where they wait for each other. Its default, 300000, can be
some percent faster for a service that has its cores to itself, but is several times slower beside anything else."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)  # read when torch is first imported
    keep_freed_memory()
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args, _settings()))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (the interpreter flushes it at exit)
        return 141
    except ValidationError as error:
        return _fail(_first(error), 2)
    except EXPECTED as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1)
    except ImportError as error:
        return _fail(f"this command needs {error.name}, which is not installed: pip install 'skipvsr[all]'", 1)


def _settings() -> Settings:
    """From the environment, `.env`, and files named like the variables in the folder SKIPVSR_SECRETS_DIR, if set."""
    folder = os.environ.get("SKIPVSR_SECRETS_DIR")
    return Settings(_secrets_dir=folder if folder and Path(folder).is_dir() else None)


def _fail(message: str, status: int) -> int:
    if os.environ.get("SKIPVSR_DEBUG"):
        import traceback

        traceback.print_exc()
    print(f"skipvsr: {' '.join(message.split())}", file=sys.stderr)
    return status


def _first(error: ValidationError) -> str:
    """The first thing that is wrong with a setting or an option."""
    detail = error.errors()[0]
    where = "_".join(str(part) for part in detail["loc"])
    name = f"SKIPVSR_{where.upper()}" if error.title == Settings.__name__ else f"--{where}" if where else ""
    return f"{name}: {detail['msg'].removeprefix('Value error, ')}".removeprefix(": ")


# ---- the commands ---------------------------------------------------------------------------------------------------


def _up(args: argparse.Namespace, settings: Settings) -> int:
    from commands import up

    return up.run(settings)


def _api(args: argparse.Namespace, settings: Settings) -> int:
    from commands import api, logs
    from jobs import tracing

    logs.set_up(settings)
    tracing.set_up(settings, "api")
    return api.run(settings, inherited=args.fd)


def _worker(args: argparse.Namespace, settings: Settings) -> int:
    from commands import logs
    from commands.embedded_redis import connected
    from jobs import tracing
    from worker.main import main as work

    logs.set_up(settings)
    tracing.set_up(settings, "worker")
    return work(connected(settings))


def _grpc(args: argparse.Namespace, settings: Settings) -> int:
    from commands import logs, rpc

    logs.set_up(settings)
    return rpc.run(settings)


def _stream(args: argparse.Namespace, settings: Settings) -> int:
    from commands import stream

    return stream.run(args, settings)


def _upscale(args: argparse.Namespace, settings: Settings) -> int:
    from commands import upscale

    _name_container(args, args.target)
    return upscale.run(args.source, args.target, _options(args), settings, report=args.report, skipmap=args.skipmap)


def _submit(args: argparse.Namespace, settings: Settings) -> int:
    from commands import client
    from commands.addresses import address

    _name_container(args, args.output)
    _options(args)  # errors before the upload
    fields = {name: str(value) for name in JobOptions.model_fields if (value := getattr(args, name)) is not None}
    key = settings.api_key.get_secret_value() if settings.api_key else None
    url = args.url or f"http://{address(settings.http_host, settings.http_port)}"
    return client.run(args.source, args.output, url=url, api_key=key, fields=fields)


def _models(args: argparse.Namespace, settings: Settings) -> int:
    from commands import models

    return models.run(settings.weights, fetch=args.fetch)


def _bench(args: argparse.Namespace, settings: Settings) -> int:
    return int(args.bench(args, settings.weights))


def _name_container(args: argparse.Namespace, target: Path) -> None:
    """Let the output's name say the container, unless an option does."""
    if args.container is None:
        args.container = container_of(target, " (or give --container)")


def _options(args: argparse.Namespace) -> JobOptions:
    given = {name: value for name in JobOptions.model_fields if (value := getattr(args, name)) is not None}
    return JobOptions(**given)


def _train(args: argparse.Namespace, settings: Settings) -> int:
    from commands import train

    return train.run(args.config, args.cache, args.out, settings.weights)


def _train_skip(args: argparse.Namespace, settings: Settings) -> int:
    from commands import train_skip

    return train_skip.run(
        args.model,
        args.clips,
        args.out,
        frames=args.frames,
        confidence=args.confidence,
        rounds=args.rounds,
        heads_of=args.heads_of,
        clean=args.degrade,
        weights_dir=settings.weights,
    )


def _eval(args: argparse.Namespace, settings: Settings) -> int:
    from commands import eval as evaluation

    return evaluation.run(
        args.gt,
        lr=args.lr,
        how=args.degrade,
        model=args.model,
        routing=args.routing,
        frames=args.frames,
        out=args.json,
        weights_dir=settings.weights,
    )


# ---- their arguments ------------------------------------------------------------------------------------------------


def _at_least_one(text: str) -> int:
    """An argument that counts something. (argparse names the function's mistakes, but for this error.)"""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number, at least 1")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number above 0")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skipvsr", description="Upscale video by 4 with BasicVSR, and skip what changes nothing."
    )
    parser.add_argument("--version", action="version", version=f"skipvsr {version('skipvsr')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace, Settings], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(run=run)
        return sub

    command("up", _up, "start the service (API, gRPC server, worker, Redis) on this machine; ^C stops it")
    api = command("api", _api, "run the HTTP API alone")
    api.add_argument("--fd", type=int, metavar="N", help="file descriptor of a listening socket to serve on")
    command("worker", _worker, "run a worker alone")
    command("grpc", _grpc, "run the gRPC server alone")

    upscale = command("upscale", _upscale, "upscale a file here, without a server")
    upscale.add_argument("source", type=Path, metavar="IN")
    upscale.add_argument("target", type=Path, metavar="OUT")
    upscale.add_argument("--report", type=Path, metavar="FILE", help="write what was done, as JSON")
    upscale.add_argument(
        "--skipmap", type=Path, metavar="FILE", help="write the source with what was computed of it shown"
    )
    _add_options(upscale)

    submit = command("submit", _submit, "have a server upscale a file, and download the result")
    submit.add_argument("source", type=Path, metavar="IN")
    submit.add_argument("-o", "--output", type=Path, metavar="OUT", required=True)
    submit.add_argument("--url", help="the server (default: where `skipvsr up` listens)")
    _add_options(submit)

    stream = command("stream", _stream, "send a file, a camera or a pipe through a gRPC server, frame by frame")
    _add_stream(stream)

    models = command("models", _models, "list the models")
    models.add_argument("--fetch", action="store_true", help="get the official BasicVSR weights")

    train = command("train", _train, "train a network, or go on with a run that was stopped")
    train.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file, as in model/training/configs")
    train.add_argument("--cache", type=Path, required=True, metavar="DIR", help="where data is packed, once")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets weights, log, plot and state")

    skip = command("train-skip", _train_skip, "fit a confidence estimator to a model, so that it can skip blocks")
    skip.add_argument("model", metavar="MODEL")
    skip.add_argument("--clips", type=Path, required=True, metavar="DIR", help="videos to fit it on")
    skip.add_argument("--out", type=Path, metavar="FILE", help="default: where the model looks for it")
    skip.add_argument("--frames", type=_at_least_one, default=5, metavar="N", help="of each video (default: 5)")
    skip.add_argument("--confidence", type=_positive, default=0.02, metavar="X", help="to align at (default: 0.02)")
    skip.add_argument(
        "--rounds", type=int, choices=range(100), default=0, metavar="N", help="of alignment (default: 0)"
    )
    skip.add_argument("--degrade", choices=["bi", "bd"], default="bi", help="how LR is made (default: bi)")
    skip.add_argument("--heads-of", type=Path, metavar="FILE", help="only fit the heads of that estimator anew")

    evaluate = command("eval", _eval, "measure a model's quality over clips")
    evaluate.add_argument("--gt", type=Path, required=True, metavar="DIR", help="clips: videos, or folders of PNG")
    evaluate.add_argument("--lr", type=Path, metavar="DIR", help="their LR versions, under the same names")
    evaluate.add_argument(
        "--degrade", default="bi", metavar="HOW", help="bi (default), bd, h264:CRF, mpeg4:Q or mpeg2:Q"
    )
    evaluate.add_argument("--model", default="auto")
    evaluate.add_argument("--routing", default="off", help="off, balanced or fast (default: off)")
    evaluate.add_argument("--frames", type=_at_least_one, metavar="N", help="the first N of each clip (default: all)")
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write the rows")

    bench.add_arguments(command("bench", _bench, "measure speed and quality on this machine"))
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    """One option for each field of `JobOptions`; its checks and defaults are the API's own."""
    for name, field in JobOptions.model_fields.items():
        text = (field.description or "").replace("%", "%%")
        default = "" if field.default is None else f" (default: {field.default})"
        numeric = name in ("scale", "height", "chunk", "lookahead", "crf")
        parser.add_argument(f"--{name}", type=int if numeric else str, help=text + default)


def _add_stream(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="a file, a camera (/dev/video0), or - for the standard input")
    parser.add_argument("target", type=Path, metavar="OUT", help="an MP4 file")
    parser.add_argument("--address", help="host:port of the server (default: where `skipvsr grpc` listens)")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="use TLS; this CA (PEM) must have signed the server")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--routing", default="balanced", help="off, balanced or fast (default: balanced)")
    parser.add_argument("--lookahead", type=int, default=0, help="frames of delay for sharper ones (default: 0)")
    parser.add_argument("--chunk", type=int, default=1, help="frames that are upscaled together (default: 1)")
    parser.add_argument("--codec", choices=["h264", "hevc"], default="h264")
    parser.add_argument("--crf", type=int, choices=range(52), default=18, metavar="0-51")


if __name__ == "__main__":
    sys.exit(main())
