"""`checkpoints list | info | download | verify | remove`: what can be loaded, what is here, what it takes."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from typing import Any

from vlcompare import terminal
from vlcompare.cli.options import add_json, check_outputs
from vlcompare.errors import RequestError
from vlcompare.terminal import Progress
from vlcompare.units import format_bytes

_ANY = "a known checkpoint, a folder, or a Hub id"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("checkpoints", help="known checkpoints: list, info, download, verify, remove")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all known checkpoints, and what is on this machine")
    add_json(listing)
    info = actions.add_parser("info", help="everything known about one checkpoint")
    add_json(info)
    download = actions.add_parser("download", help="fetch a checkpoint from the Hub, or finish a download")
    download.add_argument("--update", action="store_true", help="look up what the branch is now, not as recorded")
    verify = actions.add_parser("verify", help="read all of a checkpoint and check it")
    remove = actions.add_parser("remove", help="free what the cache holds of a checkpoint")
    info.add_argument("name", metavar="NAME", nargs="?", help=_ANY)
    info.set_defaults(parser=info)
    verify.add_argument("name", metavar="NAME", help=_ANY)
    for action in (download, remove):
        action.add_argument("name", metavar="NAME", help="a known checkpoint, or a Hub id")
    for action in (download, verify):
        action.add_argument("--revision", help="commit, branch or tag (default: main as recorded)")


def run(args: argparse.Namespace) -> int:
    actions = {"list": _list, "info": _info, "download": _download, "verify": _verify, "remove": _remove}
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    check_outputs(args)
    from vlcompare.cli.report import write_json
    from vlcompare.runtime.loading import registry
    from vlcompare.runtime.loading.availability import state_of

    rows = [{**asdict(checkpoint), "state": state_of(checkpoint)} for checkpoint in registry.registry().checkpoints]
    if args.json:
        write_json(args.json, rows)
    if args.json == "-":
        return 0
    listed = [["name", "family", "size", "on this machine"]]
    listed += [[row["name"], row["family"], row["size"], row["state"]] for row in rows]
    print(terminal.table(listed))
    print("\n" + terminal.wrapped("`checkpoints info NAME` tells more of one."))
    return 0


def _info(args: argparse.Namespace) -> int:
    if args.name is None and args.json not in (None, "-"):  # `info --json NAME`
        args.name, args.json = args.json, "-"
    if args.name is None:
        args.parser.error("the following arguments are required: NAME")
    check_outputs(args)
    from vlcompare.cli.report import write_json
    from vlcompare.runtime.loading import hub, registry
    from vlcompare.runtime.loading.availability import state_of
    from vlcompare.runtime.loading.estimate import estimate
    from vlcompare.runtime.loading.locate import find_source
    from vlcompare.types import ModelSpec

    known = registry.find(args.name)
    source = find_source(args.name, offline=True)
    facts: dict[str, Any] = asdict(known) if known else {"name": args.name}
    facts["state"] = state_of(known) if known else ("here" if source else "not on this machine")
    if source is not None:
        facts.update(folder=str(source.folder), family=source.config.family, stored_as=source.quantization)
        facts.update(image_size=source.config.image_size, vision_encoder=source.config.vision.name)
        facts["revision"] = source.revision or facts.get("revision")
    stored_as = source.quantization if source else "none"
    facts["memory_bytes"] = {
        f"{dtype}, {stored_as}": estimate(ModelSpec(args.name, device="cpu", dtype=dtype)).weights or None
        for dtype in ("float32", "bfloat16")
    }
    if known and known.repository:
        facts["cached_bytes"] = hub.cached_bytes(known.repository)
    if known and known.scores:
        facts["scores_source"] = registry.registry().score_source
    if args.json:
        write_json(args.json, facts)
    if args.json == "-":
        return 0
    on_hub = known.repository is not None if known else source is None or source.repository is not None
    for key, value in facts.items():
        if value == {} or value is None and not on_hub:
            continue
        if isinstance(value, dict):
            print(f"{key}:")
            for name, item in value.items():
                print(f"  {name:<24}{_shown(key, item)}")
        else:
            print(f"{key + ':':<26}{_shown(key, value)}")
    return 0


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "not known"
    if key.endswith("_bytes"):
        return format_bytes(value)
    return f"{format_bytes(1e9 * sum(value))} in {len(value)} files" if key == "download_gb" else str(value)


def _download(args: argparse.Namespace) -> int:
    from vlcompare.runtime.loading import hub, registry
    from vlcompare.runtime.loading.locate import on_the_hub, read_config

    known = registry.find(args.name)
    if known is not None and known.embedded:
        print(f"{known.name} is part of this project; there is nothing to download.")
        return 0
    _refuse_folder(args.name, "there is nothing to download.")
    repository, revision = on_the_hub(args.name, args.revision)
    show = Progress()
    snapshot = hub.fetch(repository, revision=revision, progress=show, check=read_config, update=args.update)
    print(f"{repository} at commit {snapshot.commit} is complete in {snapshot.folder}.")
    tokenizer = registry.registry()
    if not (snapshot.folder / "tokenizer.json").is_file():
        shared = hub.fetch(tokenizer.tokenizer_repository, files=[tokenizer.tokenizer_file], progress=show)
        print(f"Tokenizer: {shared.folder / tokenizer.tokenizer_file}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from vlcompare.runtime.loading.verify import verify

    for sentence in verify(args.name, revision=args.revision, progress=Progress()):
        print(sentence)
    return 0


def _remove(args: argparse.Namespace) -> int:
    from vlcompare.runtime.loading import hub, registry
    from vlcompare.runtime.loading.locate import on_the_hub

    known = registry.find(args.name)
    if known is not None and known.embedded:
        raise RequestError(f"{known.name} is part of this project and is not removed.")
    _refuse_folder(args.name, "only what came from the Hub is removed.")
    repository, _ = on_the_hub(args.name)
    freed = hub.remove(repository)
    if not freed and known is None and os.path.exists(args.name):
        raise RequestError(f"{args.name} lies on this machine, and only what came from the Hub is removed.")
    print(f"{format_bytes(freed)} freed." if freed else f"Nothing of {repository} was in the cache.")
    return 0


def _refuse_folder(name: str, why: str) -> None:
    """Raise RequestError for a folder or file whose name has not the form of a Hub id, which goes first here."""
    from vlcompare.runtime.loading import hub, registry

    path = os.path.expanduser(name)
    if not hub.is_repository(registry.repository_of(name)) and os.path.exists(path):
        kind = "folder" if os.path.isdir(path) else "file"
        raise RequestError(f"{name} is a {kind} on this machine: {why}")
