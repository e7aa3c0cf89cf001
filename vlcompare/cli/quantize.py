"""`quantize`: write a checkpoint with NF4 or int8 weights, ready to load without the original."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vlcompare.cli.options import check_checkpoint
from vlcompare.terminal import Progress
from vlcompare.units import format_bytes


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "quantize",
        help="write a checkpoint with NF4 or int8 weights",
        description="Write a checkpoint with the language model's large linear layers in NF4 or int8. The new folder "
        "loads without the original and answers exactly as the original quantized at load.",
    )
    parser.add_argument("source", metavar="SRC", help="a known checkpoint, a folder, or a Hub id")
    parser.add_argument("out", metavar="OUT", type=Path, help="the new folder")
    method = parser.add_mutually_exclusive_group(required=True)
    method.add_argument("--nf4", dest="method", action="store_const", const="nf4", help="four bits, blocks of 64")
    method.add_argument("--int8", dest="method", action="store_const", const="int8", help="eight bits, one scale a row")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub repository")
    parser.add_argument("--device", default="auto", help="device to quantize on: auto, cpu, cuda (default: auto)")
    parser.add_argument("--push-to", metavar="REPO", help="also upload it to this Hub repository (owner/name)")


def run(args: argparse.Namespace) -> int:
    check_checkpoint(args.source)

    from vlcompare.errors import RequestError
    from vlcompare.runtime.loading import hub
    from vlcompare.runtime.loading.devices import resolve_device
    from vlcompare.runtime.loading.export import write_quantized
    from vlcompare.runtime.loading.locate import find_source, name_of

    if args.push_to and not hub.is_repository(args.push_to):
        raise RequestError(f"--push-to {args.push_to!r} is not a Hub id of the form owner/name.")
    show = Progress()
    device = resolve_device(args.device)
    source = find_source(args.source, revision=args.revision, progress=show)
    assert source is not None
    write_quantized(source, args.out, args.method, device, lambda done, total: show("Quantizing", done, total))
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: {format_bytes(size)} in {args.method}.")
    if not (args.out / "tokenizer.json").is_file():
        print("It has no tokenizer.json: none is known on this machine yet; EleutherAI/gpt-neox-20b's is used at load.")
    if args.push_to:
        print(f"Uploaded: {hub.push(args.out, args.push_to, progress=show)}")
    if (name := name_of(args.out)) != str(args.out):
        print(f"Use it as {name}: {args.out} is the name of another checkpoint.")
    return 0
