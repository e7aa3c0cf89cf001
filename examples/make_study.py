"""Puts a study folder's rows, figures and the lab's models into examples/study: what the page's Study tab opens.

    python examples/make_study.py DIR [--name NAME]

DIR is the folder that `study run GRID --out DIR` fills. Rows that are not finished yet are left out, and the report
says what is unfinished: run this again when there are more. Of trainings on pictures the rows are shipped, not the
models.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from vlcompare.errors import SampleError, VLCompareError
from vlcompare.study.figures import NAMES, ORDER_NAMES, share_text
from vlcompare.study.pictures.folder import holds_pictures, read_picture_rows
from vlcompare.study.pictures.report import rows_with_floors
from vlcompare.study.report import write_report
from vlcompare.study.rows import Folder, read_rows, setting_of
from vlcompare.study.tables import Row, for_lab, groups
from vlcompare.whole_files import write_whole

HERE = Path(__file__).resolve().parent / "study"
CARD = """# The retrieval lab's models

Small models trained from scratch to say at which position a symbol stands: `study run`, position retrieval, {symbols}
different symbols, the recipe `{recipe}` of `vlcompare/study/recipe.py`. Of each family, order and length the training
of seed {seed} at the best of {rates} learning rates, whatever came out. The rows are in `../{name}/rows.jsonl`.

{table}

A model has one token for each position of the length it was trained at, and can name no other. Accuracy: on {final:,}
held-out sequences; at longer lengths on {held:,}, asked for positions that it can name. Trained on sequences of random
symbols alone: they know nothing of language or pictures. MIT licence. A file's metadata is what it takes to build the
model (`vlcompare.study.weights.load_weights`).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", help="the grid's folder in examples/study: cpu, or pictures, by default")
    args = parser.parse_args()
    try:
        ship(args.folder, args.name)
    except (VLCompareError, OSError, ValueError) as error:
        parser.exit(2, f"make_study: {error}\n")


def ship(folder: Path, name: str | None) -> None:
    """Copy a folder's rows and its grid, and write the report. Raises SampleError where it holds no whole rows."""
    path = folder / "rows.jsonl"
    pictures = holds_pictures(path)
    rows = rows_with_floors(read_picture_rows(path)) if pictures else read_rows(path)
    if not rows:
        raise SampleError(f"{path} holds no finished rows.")
    grid = json.loads((folder / "grid.json").read_text(encoding="utf-8"))
    out = HERE / (name or ("pictures" if pictures else "cpu"))
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_whole(out / "grid.json", json.dumps(grid) + "\n")
    print(write_report(out, out / "figures"))
    if not pictures:
        ship_models(folder, rows, out.name)


def ship_models(folder: Path, rows: list[Row], name: str) -> None:
    """Copy the chosen rows' weights, and write their card. Raises SampleError where weights are missing.

    Rows may come from what was shipped before, without weights: the files shipped with them are kept.
    """
    from vlcompare.study.recipe import RECIPES

    source, out = Folder(folder), HERE / "models"
    settings = groups(rows)
    chosen = for_lab(settings)
    if not chosen:
        print("No order has rows of all families: the models are left as they are.")
        return
    out.mkdir(exist_ok=True)
    files = {f"{row['order']}-{row['length']}-{row['family']}.safetensors": row for row in chosen}
    for file, row in files.items():
        weights = source.weights_path(setting_of(row))
        if weights.exists():
            shutil.copyfile(weights, out / file)
        elif not (out / file).exists():
            raise SampleError(f"{weights} is not there; `study run` with its row removed from rows.jsonl makes it.")
    for old in out.glob("*.safetensors"):
        if old.name not in files:
            old.unlink()
    head = "| file | family | query | length | parameters | rate | examples seen | accuracy | {} |"
    longer = sorted({int(length) for row in chosen for length in row["extrapolation"]})
    lines = [head.format(" | ".join(f"at {length}" for length in longer)), "|" + "---|" * (8 + len(longer))]
    for file, row in files.items():
        cells = [
            f"`{file}`",
            NAMES[row["family"]],
            ORDER_NAMES[row["order"]].removeprefix("query "),
            row["length"],
            f"{row['parameters']:,}",
            f"{row['learning_rate']:g}",
            f"{row['examples']:,}",
            share_text(row["accuracy"]),
            *(share_text(row["extrapolation"].get(str(length))) for length in longer),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    recipe = RECIPES[chosen[0]["recipe"]]
    write_whole(
        out / "README.md",
        CARD.format(
            symbols=chosen[0]["vocabulary"],
            recipe=recipe.name,
            seed=chosen[0]["seed"],
            rates=max(group.rates_tried for group in settings),
            name=name,
            table="\n".join(lines),
            final=recipe.final,
            held=recipe.evaluation,
        ),
    )


if __name__ == "__main__":
    main()
