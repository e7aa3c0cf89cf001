"""Options that several commands share, and the values made from them.

A command adds the groups that it needs and reads them back with `request_from`, `side_of` and `check_outputs`, so that
a mistake is reported before a model is loaded.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcompare import terminal
from vlcompare.cli import incomplete
from vlcompare.errors import RequestError
from vlcompare.paths import EMBEDDED, existing
from vlcompare.tasks.forms import SOURCES
from vlcompare.tasks.prompts import SPECS, read_box, require_known_source, validate
from vlcompare.types import (
    DECODING_FIELDS,
    DTYPES,
    MODEL_FIELDS,
    NORMS,
    PROMPT_ORDERS,
    QUANTIZATIONS,
    SIDES,
    Request,
    Side,
)

if TYPE_CHECKING:
    from vlcompare.ui.settings import AppSettings

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


# options by field of ModelSpec and Decoding, as keywords of argparse; what is not given takes the field's default
FIELD_OPTIONS: dict[str, dict[str, Any]] = {
    "quantization": {"choices": QUANTIZATIONS, "help": "default: none"},
    "device": {"metavar": "D", "help": "auto, cpu, cuda, cuda:1 (default: auto)"},
    "dtype": {
        "choices": DTYPES,
        "help": "default: bfloat16, but float32 for a small model on a CPU, and float16 on a GPU without bfloat16; "
        "float16 is for GPUs",
    },
    "image_size": {"type": int, "metavar": "PX", "help": "resample to this size (default: as trained)"},
    "revision": {"metavar": "R", "help": "of a Hub id: a commit, branch or tag"},
    "tokenizer": {"metavar": "F", "help": "path of a tokenizer.json (default: the checkpoint's)"},
    "norm": {"choices": NORMS, "help": "Mamba's norms (default: auto, by the tensors)"},
    "prompt_order": {"choices": PROMPT_ORDERS, "help": "default: image_first"},
    "max_new_tokens": {"type": int, "metavar": "N", "help": "tokens of an answer at most (default: the task's)"},
    "temperature": {"type": float, "metavar": "T", "help": "0 takes the likeliest (default)"},
    "top_p": {"type": float, "metavar": "P", "help": "sample from this share of probability (default: 1)"},
    "top_k": {"type": int, "metavar": "K", "help": "sample from the K likeliest (default: 0, from all)"},
    "seed": {"type": int, "metavar": "S", "help": "of the sampling (default: 0)"},
}
MODEL_OPTIONS = tuple(name for name in MODEL_FIELDS if name in FIELD_OPTIONS)


def add_asking(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str, **texts: Any
) -> argparse.ArgumentParser:
    """A command that asks about a picture: IMAGE and the question, with the tasks at the end of its help."""
    tasks = "tasks:\n" + terminal.table([[f"  {spec.name}", spec.hint] for spec in SPECS.values()])
    texts["description"] = terminal.wrapped(texts["description"])  # this formatter takes it as it is
    parser = subparsers.add_parser(name, epilog=tasks, formatter_class=argparse.RawDescriptionHelpFormatter, **texts)
    parser.add_argument("image", metavar="IMAGE", type=existing, help="path of a JPEG, PNG or WebP picture")
    group = parser.add_argument_group("the question")
    group.add_argument("--task", choices=SPECS, metavar="TASK", help="see below (default: vqa with --text, captioning)")
    group.add_argument("--text", default="", help="the question, description, statement or message")
    group.add_argument("--choices", nargs="+", metavar="C", help="possible answers; for pointing, boxes x0,y0,x1,y1")
    group.add_argument("--box", metavar="x0,y0,x1,y1", help="a region, in shares of width and height from 0 to 1")
    group.add_argument(
        "--truth", nargs="+", metavar="T", help="the right answer, if you know it: boxes x0,y0,x1,y1, or texts"
    )
    group.add_argument("--ocr-text", metavar="TEXT", help="text read from the picture, put into the prompt")
    group.add_argument(
        "--source", metavar="NAME", help=f"the prompt form of one benchmark: {', '.join(SOURCES)} (default: the task's)"
    )
    return parser


def add_address_options(parser: argparse.ArgumentParser) -> None:
    """Where the page is served, and under which names it is reached."""
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1; 0.0.0.0 for everybody in the network)")
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    parser.add_argument(
        "--allow-host", action="append", metavar="NAME", help="also answer to this host name, and its pages; repeatable"
    )
    parser.add_argument("--root-path", metavar="PATH", help="where a reverse proxy serves the page: /vl or an address")


def address_of(args: argparse.Namespace) -> dict[str, Any]:
    """`--host` and `--port` as fields of AppSettings."""
    return {"host": args.host, "port": args.port}


def serve_page(args: argparse.Namespace, settings: AppSettings, **more: Any) -> None:
    """Serve the page until interrupted, once what the operator named is checked.

    Its import takes seconds: a line says before it that something happens. more: goes to `ui.page.serve`. Raises
    CheckpointError for a misspelt checkpoint.
    """
    check_checkpoint(settings.left, settings.right, *settings.offered, *settings.preload)
    server_options = server_options_of(args)
    print("vlcompare: starting; the page is up in some seconds.", flush=True)
    incomplete.require(incomplete.FOR_THE_PAGE)
    from vlcompare.ui.fast_import import import_gradio

    import_gradio()
    from vlcompare.ui.page import serve

    serve(settings, server_options=server_options, inbrowser=args.open, **more)


def server_options_of(args: argparse.Namespace) -> Any:
    """`--allow-host` and `--root-path`, and what the environment says of them, as ServerOptions."""
    from vlcompare.ui.server.allowed_hosts import read_allowed, read_root_path
    from vlcompare.ui.server.options import ServerOptions

    return ServerOptions.from_environment(
        allow_hosts=read_allowed(args.allow_host) if args.allow_host else None,
        root_path=None if args.root_path is None else read_root_path(args.root_path),
    )


def add_sides(group: argparse._ArgumentGroup) -> None:
    """--left and --right, by default the embedded pair."""
    for side, default in zip(SIDES, EMBEDDED, strict=True):
        what = f"a name, a folder, or a Hub id (default: {default})"
        group.add_argument(f"--{side}", default=default, metavar="C", help=what)


def add_fields(group: argparse._ArgumentGroup, names: Iterable[str], sides: Iterable[str] = ()) -> None:
    """Options for fields of ModelSpec and Decoding; for each of `sides` another one, such as --seed-left."""
    for name in names:
        flag, how = "--" + name.replace("_", "-"), FIELD_OPTIONS[name]
        group.add_argument(flag, **how)
        for side in sides:
            group.add_argument(f"{flag}-{side}", **{**how, "help": argparse.SUPPRESS})


def given(args: argparse.Namespace, names: Iterable[str], side: str = "") -> dict[str, Any]:
    """The values of those options that were given: a side's own before the one for both."""
    values = {name: getattr(args, name, None) for name in names}
    own = {name: getattr(args, f"{name}_{side}", None) for name in names}
    return {name: value for name in names if (value := values[name] if own[name] is None else own[name]) is not None}


def side_of(args: argparse.Namespace, side: str) -> Side:
    """The side of this name, from `--left` or `--right` and the options of a command that has them for each side."""
    return Side(getattr(args, side), **given(args, FIELD_OPTIONS, side))


def refuse_own(args: argparse.Namespace, names: Iterable[str], side: str, instead: str) -> None:
    """Raise RequestError for an option of a side that is not asked, such as --seed-right."""
    for name in names:
        if getattr(args, f"{name}_{side}", None) is not None:
            flag = f"--{name.replace('_', '-')}-{side}"
            raise RequestError(f"{flag} is for the {side} side, which is not asked: {instead}.")


def add_json(parser: argparse._ActionsContainer, what: str = "the report") -> None:
    """--json, to a file or to standard output."""
    text = f"write {what} as JSON to this file; none, or -: standard output"
    parser.add_argument("--json", nargs="?", const="-", metavar="F", help=text)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Where the result goes beside the terminal."""
    group = parser.add_argument_group("output")
    add_json(group, "the whole answer")
    group.add_argument("--save", metavar="F.png", help="write the result card: question, answers, boxes and times")


def above_zero(kind: Callable[[str], float]) -> Callable[[str], float]:
    """A `type` for argparse: a number of this kind that is more than 0."""

    def read(value: str) -> float:
        number = kind(value)
        if not number > 0:
            raise argparse.ArgumentTypeError(f"{value} is not above 0")
        return number

    read.__name__ = getattr(kind, "__name__", "number")  # argparse names it in its messages
    return read


def request_from(args: argparse.Namespace) -> Request:
    """The request that the options make, checked.

    Raises RequestError; also for a source that is not a prompt form, which here is a typing mistake.
    """
    require_known_source(args.source)
    request = Request(
        task=args.task or ("vqa" if args.text else "captioning"),
        text=args.text,
        choices=None if args.choices is None else tuple(args.choices),
        box=None if args.box is None else read_box(args.box),
        ocr_text=args.ocr_text,
        source=args.source,
        **given(args, DECODING_FIELDS),
    )
    return validate(request)


def check_checkpoint(*names: str | None) -> None:
    """Raise CheckpointError for a misspelt name, before anything is imported for it.

    Folders and Hub ids are looked at when they are loaded.
    """
    from vlcompare.errors import CheckpointError
    from vlcompare.paths import CHECKPOINTS
    from vlcompare.runtime.loading import registry

    for name in names:
        if name is None or registry.find(name) or "/" in name or os.path.exists(os.path.expanduser(name)):
            continue
        if not name or not os.path.isdir(CHECKPOINTS / name):
            raise CheckpointError(registry.unknown(name))


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse output paths that cannot be written, before any work is done for them."""
    for name in ("json", "save", "plot", "submission_file"):
        value = getattr(args, name, None)
        if value is None or (name == "json" and value == "-"):
            continue
        path = Path(value)
        if path.is_dir() or not path.parent.is_dir():
            raise RequestError(
                f"--{name.replace('_', '-')} {value} cannot be written: name a file in a folder that exists."
            )
        if name == "save" and path.suffix.lower() not in PICTURE_SUFFIXES:
            raise RequestError(f"--save {value} must end in one of {', '.join(PICTURE_SUFFIXES)}.")
