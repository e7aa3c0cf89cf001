"""Training of the embedded pair: shared prefixes, losses, optimiser, resuming, and the exported folders."""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from vlcompare.errors import CheckpointError
from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.mamba import Mamba
from vlcompare.models.pythia import Pythia
from vlcompare.synth.scenes.questions import ask
from vlcompare.synth.scenes.scene import Scene, lay_out
from vlcompare.synth.train import encoded_questions as lesson_store
from vlcompare.synth.train import recipe as recipes
from vlcompare.synth.train import stages
from vlcompare.synth.train import word_tokenizer as pieces
from vlcompare.synth.train.batches import make_batch, mention_positions, option_marks
from vlcompare.synth.train.dense_targets import BLANK, COLORS, COLUMNS, IGNORE, KINDS, glyph_truth, patch_truth
from vlcompare.synth.train.held_out_probe import text_of
from vlcompare.synth.train.language import LanguageTraining, train_step
from vlcompare.synth.train.learner import Learner
from vlcompare.synth.train.losses import AnswerLoss, Pointer, smooth_embedding
from vlcompare.synth.train.pictures import HELD_OUT, SEEDS_PER_PICTURE, kept_seeds
from vlcompare.synth.train.shared_prefix import EmbeddedBlock, run, run_whole
from vlcompare.training.optim import Muon, orthogonalise, trapezoid
from vlcompare.training.progress import Log, TimeBudget, load_state, read_log
from vlcompare.types import TASKS, Box, Sample

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "model",
    [
        lambda: Pythia(PythiaConfig(50, 32, 2, 2, 64)),
        lambda: Mamba(MambaConfig(50, 32, 2, state_size=4)),
    ],
    ids=["pythia", "mamba"],
)
def test_questions_that_share_a_prefix_get_what_they_get_alone(model) -> None:
    torch.manual_seed(0)
    network = model()
    prefix = torch.randn(2, 7, 32)
    blocks = [
        EmbeddedBlock(torch.randn(3, 4, 32), torch.tensor([0, 1, 1]), torch.tensor([0, 0, 2]), torch.tensor([3, 1, 2])),
        EmbeddedBlock(torch.randn(2, 9, 32), torch.tensor([1, 0]), torch.tensor([1]), torch.tensor([8])),
    ]
    passed = run(network, prefix, blocks)
    places = [(block, row, column) for block in blocks for row, column in zip(block.rows, block.columns, strict=True)]
    for (block, row, column), final in zip(places, passed.final, strict=True):
        alone = network(torch.cat([prefix[block.prefix[row]], block.embeddings[row]])[None])[0, 7 + column]
        assert torch.allclose(alone, final, atol=1e-5)
    sequences = torch.cat([prefix[blocks[1].prefix], blocks[1].embeddings], 1)
    middle, final = run_whole(network, sequences, torch.tensor([1, 0]), torch.tensor([15, 4]))
    assert torch.allclose(final[0], passed.final[-1], atol=1e-5)
    assert torch.allclose(middle[:, 7:], passed.middle[1], atol=1e-5)


def test_muon_steps_are_nearly_orthogonal_and_split_parts_stay_apart() -> None:
    torch.manual_seed(0)
    for shape in ((8, 8), (16, 8), (8, 20)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(3, *shape)))
        assert values.min() > 0.5 and values.max() < 1.4
    matrices = torch.randn(3, 8, 16)
    alone = torch.cat([orthogonalise(one[None]) for one in matrices])
    torch.testing.assert_close(orthogonalise(matrices), alone, rtol=1e-4, atol=1e-5)
    weight = torch.nn.Parameter(torch.zeros(8, 4))
    weight.grad = torch.cat([torch.randn(4, 4), torch.zeros(4, 4)])
    Muon([{"params": [weight], "split": 2}], lr=0.1).step()
    assert weight[:4].abs().max() > 0.01 and torch.equal(weight[4:], torch.zeros(4, 4))


def test_muon_takes_matrices_of_one_shape_in_different_dtypes_and_on_different_devices() -> None:
    torch.manual_seed(0)
    kinds = [{"dtype": torch.float32}, {"dtype": torch.bfloat16}, {"dtype": torch.float64}, {"device": "meta"}]
    together = [torch.nn.Parameter(torch.zeros(8, 6, **kind)) for kind in kinds]
    alone = [torch.nn.Parameter(torch.zeros(8, 6, **kind)) for kind in kinds]
    for one, other in zip(together, alone, strict=True):
        one.grad = other.grad = torch.randn(8, 6).to(one)
        Muon([other], lr=0.1).step()
    Muon(together, lr=0.1).step()
    assert all(torch.equal(one, other) for one, other in zip(together[:3], alone[:3], strict=True))


def test_the_schedule_does_not_depend_on_its_end_before_the_decay() -> None:
    rates = [[trapezoid(step, total, warmup=10, decay_from=0.5) for step in range(50)] for total in (100, 400)]
    assert rates[0] == rates[1] and rates[0][0] == 0.1 and rates[0][20] == 1.0
    assert trapezoid(75, 100, warmup=10, decay_from=0.5) == 0.5
    assert trapezoid(100, 100, warmup=10, decay_from=0.5) == 0.01


def test_a_near_coordinate_costs_less_than_a_far_one_and_words_are_exact() -> None:
    loss, size = AnswerLoss(0.8), len(pieces.vocabulary())
    first, _, _ = pieces.coordinate_ids()
    costs = []
    for bin in (50, 51, 80):
        logits = torch.zeros(1, size)
        logits[0, first[bin]] = 9.0
        costs.append(float(loss(logits, torch.tensor([first[50]]), torch.ones(1))))
    assert costs[0] < costs[1] < costs[2]
    word = torch.tensor([pieces.token_id("Yes")])
    logits = torch.randn(1, size)
    assert float(loss(logits, word, torch.ones(1))) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, word)), abs=1e-5
    )


def test_a_batch_without_anything_to_point_at_has_no_pointer_loss() -> None:
    none = torch.zeros(0, dtype=torch.long)
    value = Pointer(16)(torch.zeros(0, 16), torch.randn(2, 9, 16), none, none)
    assert float(value) == 0.0


def test_neighbouring_coordinates_and_forms_of_a_word_begin_alike() -> None:
    table = torch.nn.functional.normalize(smooth_embedding(64, torch.Generator().manual_seed(0)), dim=1)
    first, _, _ = pieces.coordinate_ids()
    assert table[first[40]] @ table[first[41]] > table[first[40]] @ table[first[90]]
    red = pieces.word_ids("red")
    assert len(red) == 2 and table[red[0]] @ table[red[1]] > 0.5


def test_every_thing_owns_the_patch_of_its_centre() -> None:
    for seed in range(40):
        _, objects, document = lay_out(seed, "training")
        truth = patch_truth(objects, document, 7)
        boxes = [line.box for line in document.lines] if document else [thing.box for thing in objects]
        assert truth.centre.sum() == len({lesson_store.patch_of(box, 7) for box in boxes})
        for index, box in enumerate(boxes):
            if [lesson_store.patch_of(b, 7) for b in boxes].count(lesson_store.patch_of(box, 7)) == 1:
                assert truth.owner[lesson_store.patch_of(box, 7)] == index
        glyphs = glyph_truth(document, 7)
        if document is None:
            assert (glyphs == IGNORE).all()
        else:
            digits = sorted(digit for line in document.lines for digit in str(line.value))
            assert sorted(str(value) for value in glyphs[glyphs != BLANK]) == digits


def test_training_seeds_are_distinct_and_below_the_held_out_ones() -> None:
    seeds = kept_seeds(0, 50, 0.6)
    assert len(set(seeds)) == 50
    assert all(number == seed // SEEDS_PER_PICTURE for number, seed in enumerate(seeds)) and max(seeds) < HELD_OUT
    assert kept_seeds(10, 5, 0.6) == seeds[10:15]  # shards can be drawn in any order


def test_the_target_of_a_row_about_a_line_is_the_line() -> None:
    """A card's centre often lies in the cell of one of its lines: the area that the row is tagged with decides."""
    seen = 0
    for seed in range(40):
        ground, objects, document = lay_out(seed, "training")
        rows = ask(Scene(None, objects, document, ground, seed, "training")) if document else []
        for row in (row for row in rows if row.task == "document_vqa" and "row" in row.tags):
            target = lesson_store.taught_box(row)
            assert target and abs(target.area - row.tags["area"]) < 1e-4, (seed, row.text)
            seen += 1
    assert seen > 20


def test_lessons_are_the_prompts_and_answers_of_the_engine() -> None:
    lessons = lesson_store.make_lessons(range(6), 7)
    library = pieces.build()
    whole = [
        library.decode(lessons.ids[a:b].tolist(), skip_special_tokens=False)
        for a, b in zip(lessons.starts, lessons.starts[1:], strict=False)
    ]
    assert all(text.endswith("<|endoftext|>") for text in whole)
    for index, text in enumerate(whole):
        if TASKS[lessons.tasks[index]] == "grounding":
            assert text.startswith("Locate the region that is described by:\nThe ") and lessons.targets[index] >= 0
            prompt = lessons.ids[lessons.starts[index] :][: lessons.answers[index]]
            assert library.decode(prompt.tolist()).endswith(".\n")
    assert lesson_store.patch_of(Box(0.9, 0.9, 1.0, 1.0), 7) == 48


def test_recipes_by_name_and_from_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"name": "mine", "language": {"steps": 7}}))
    mine = recipes.load(str(path))
    assert mine.language.steps == 7 and mine.encoder == recipes.CPU.encoder
    path.write_text(json.dumps({"language": {"asked": {"chat": 9.0}}}))
    assert recipes.load(str(path)).language.asked == dataclasses.replace(recipes.ASKED, chat=9.0)
    path.write_text(json.dumps(recipes.to_dict(recipes.GPU)))
    assert recipes.load(str(path)) == recipes.GPU
    path.write_text(json.dumps({"language": {"stepz": 7}}))
    with pytest.raises(CheckpointError, match="stepz"):
        recipes.load(str(path))
    with pytest.raises(CheckpointError, match="Unknown recipe"):
        recipes.load("nothing")


def test_both_models_are_equal_in_size() -> None:
    counts = [Learner(family, recipes.CPU, 192).shipped_parameters() for family in ("pythia", "mamba")]
    assert abs(counts[0] - counts[1]) / max(counts) < 0.03


def test_a_line_of_the_log_is_said_in_words_and_on_a_terminal_gives_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path / "pythia.jsonl")
    log.write_passing(step=50, seconds=12.04, box_loss=0.123456)
    assert capsys.readouterr().out == "pythia: step 50 · seconds 12.04 · box loss 0.1235\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    log.write_passing(step=100, seconds=24.0, box_loss=0.1)
    said = capsys.readouterr()
    assert not said.out and "step 100" in said.err and said.err.endswith("\r")
    assert [row["step"] for row in read_log(log.path)] == [50, 100]


def test_logs_survive_a_line_cut_off(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", quiet=True)
    log.write(step=1, loss=0.123456789)
    log.path.write_text(log.path.read_text() + '{"step": 2, "lo')
    assert read_log(log.path) == [{"step": 1, "loss": 0.12346}]
    assert TimeBudget(5.0, budget_seconds=-1.0).spent and TimeBudget(5.0).seconds >= 5.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole smoke run: every stage but the report."""
    out = tmp_path_factory.mktemp("training")
    settings = stages.TrainingSettings(out, recipes.SMOKE)
    for stage in ("encoder", "features", "pythia", "mamba", "export"):
        assert stages.run_stage(stage, settings), stage
    return out


def test_exported_folders_load_and_answer(trained: Path) -> None:
    import vlcompare

    for name in ("tiny-pythia-vl", "tiny-mamba-vl"):
        folder = trained / "checkpoints" / name
        assert (folder / "model.safetensors").stat().st_size < 10e6
        assert {"config.json", "tokenizer.json", "curves.jsonl", "training.json"} <= {p.name for p in folder.iterdir()}
        model = vlcompare.load(str(folder), device="cpu")
        answer = vlcompare.generate(model, _picture(), task="grounding", text="the red car", max_new_tokens=6)
        assert answer.error is None and answer.tokens


def _picture():
    from vlcompare.synth.scenes.scene import draw_scene

    return draw_scene(3).image


def test_a_stopped_run_goes_on_exactly_where_it_was(trained: Path) -> None:
    from vlcompare.synth.train.corpus import Corpus

    corpus = Corpus.open(trained, recipes.SMOKE)
    whole, first = (LanguageTraining.fresh("mamba", recipes.SMOKE, corpus.width, CPU) for _ in range(2))
    for _ in range(4):
        train_step(whole, corpus, recipes.SMOKE, 4, CPU)
    for _ in range(2):
        train_step(first, corpus, recipes.SMOKE, 4, CPU)
    torch.save(first.state(), trained / "stopped.pt")
    second = LanguageTraining.fresh("mamba", recipes.SMOKE, corpus.width, CPU)
    second.restore(load_state(trained / "stopped.pt"))
    for _ in range(2):
        train_step(second, corpus, recipes.SMOKE, 4, CPU)
    for a, b in zip(whole.learner.parameters(), second.learner.parameters(), strict=True):
        assert torch.equal(a, b)


def test_both_families_see_the_same_batches(trained: Path) -> None:
    from vlcompare.synth.train.corpus import Corpus

    corpus = Corpus.open(trained, recipes.SMOKE)
    options = dataclasses.replace(recipes.SMOKE.language, questions=5)
    one, two = (make_batch(corpus, 3, options, 0) for _ in range(2))
    assert np.array_equal(one.pictures, two.pictures)
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(one.blocks, two.blocks, strict=True))
    assert not np.array_equal(one.pictures, make_batch(corpus, 4, options, 0).pictures)


def test_captions_point_from_their_step_on(trained: Path) -> None:
    from vlcompare.synth.train.corpus import Corpus

    corpus = Corpus.open(trained, recipes.SMOKE)
    asked = dataclasses.replace(recipes.ASKED, captioning=1e6)
    pointing = {}
    for begins in (3, 4):
        options = dataclasses.replace(
            recipes.SMOKE.language, pictures=8, questions=1, asked=asked, mention_pointer_from=begins
        )
        pointing[begins] = sum(map(len, [block.target for block in make_batch(corpus, 3, options, 0).blocks]))
    assert pointing[3] > 0 and pointing[4] == 0


def test_tasks_are_asked_by_their_weights(trained: Path) -> None:
    from vlcompare.synth.train.corpus import Corpus

    lessons = Corpus.open(trained, recipes.SMOKE).lessons
    for task in ("captioning", "chat"):
        weights = dataclasses.replace(recipes.ASKED, **{task: 1e6}).by_task()
        for picture in range(8):
            (sample,) = lesson_store.choose(lessons, picture, 1, weights, np.random.default_rng(picture))
            assert TASKS[lessons.tasks[sample]] == task


def test_listed_options_are_judged_where_they_end() -> None:
    encode = lesson_store.encoder()
    asked, choices = "What is the red thing?", ("Star", "Car", "Top left", "Fish")
    sample = Sample("one", "", "multiple_choice", asked, choices, references=("C",))
    row, prompt = lesson_store.sample_ids(sample, encode)
    marks = {column: token for column, token in option_marks(np.array(row), prompt)}
    assert [text_of([row[column]]).strip(" ?\n") for column in marks] == ["", "Star", "Car", "left", "Fish"]
    assert [text_of([token]).strip() for token in marks.values()] == ["Top", "No", "No", "C", "No"]
    row, prompt = lesson_store.sample_ids(Sample("two", "", "vqa", asked, references=("car",)), encode)
    assert option_marks(np.array(row), prompt) == []


def test_a_caption_points_at_the_things_it_mentions() -> None:
    looks = ("heart blue", "sign red", "heart blue", "boat red", "sign red")
    attributes = np.full((8, len(COLUMNS)), IGNORE)
    for row, look in zip(attributes, looks, strict=False):
        kind, color = look.split()
        row[:2] = KINDS.index(kind), COLORS.index(color)
    centres = np.array([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9], [0.5, 0.5], *[[0.0, 0.0]] * 3])
    boxes = np.concatenate([centres - 0.05, centres + 0.05], axis=1)
    answer = "two blue hearts, a red sign that says open, a red boat and a red sign that says 42"
    row, prompt = lesson_store.sample_ids(Sample("one", "", "captioning", references=(answer,)), lesson_store.encoder())
    pointed: dict[int, list[int]] = {}
    for column, patch in mention_positions(np.array(row), prompt, attributes, boxes, 7):
        pointed.setdefault(column, []).append(patch)
    written = [(text_of([row[column + 1]]).strip().lower(), patches) for column, patches in sorted(pointed.items())]
    assert written == [
        *((word, [0, 42]) for word in ("two", "blue", "hearts")),
        *((word, [6]) for word in ("a", "red", "sign", "that", "says", "open")),
        *((word, [48]) for word in ("a", "red", "boat")),
        *((word, [24]) for word in ("a", "red", "sign", "that", "says")),
        *((mark, [24]) for mark in ("", "4", "2")),
    ]
    assert mention_positions(np.array([5, 6, 7, 0]), 1, attributes, boxes, 7) == []


def test_the_smoke_run_left_its_curves(trained: Path) -> None:
    for family in ("pythia", "mamba"):
        rows = read_log(trained / f"{family}.jsonl")
        assert rows and "held_grounding" in rows[-1] and rows[-1]["step"] == recipes.SMOKE.language.steps
        assert load_state(trained / f"{family}.pt")["step"] == recipes.SMOKE.language.steps
    assert (trained / "curves.png").stat().st_size > 5000


def test_the_prior_answers_every_sample_and_a_card_shows_what_the_report_says(tmp_path: Path) -> None:
    from vlcompare.synth.scenes.dataset import evaluation_scenes
    from vlcompare.synth.train.model_card import write_card
    from vlcompare.synth.train.priors import prior_answers
    from vlcompare.synth.train.scores import figures

    samples = [sample for _, rows in evaluation_scenes(8, 3, 64) for sample in rows]
    prior = prior_answers(samples, scenes=60)
    assert set(prior) == {sample.id for sample in samples}
    right = {
        sample.id: {"text": sample.references[0] if sample.references else lesson_store.answer_of(sample)}
        for sample in samples
    }
    sides = {"pythia": right, "mamba": prior, "prior": prior, "blank-pythia": prior, "blank-mamba": prior}
    report = {"scenes": {"seed": 3, "count": 8, "size": 64}, **figures(samples, sides)}
    assert report["sides"]["pythia"]["vqa"]["accuracy"] == 1.0 > report["sides"]["prior"]["vqa"]["accuracy"]
    assert report["sides"]["pythia"]["grounding"]["acc@0.5"] == 1.0
    write_card(tmp_path, "pythia", report)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("# tiny-pythia-vl") and "| questions |" in card and "seed 3" in card


def test_a_longer_schedule_goes_on_from_before_the_decay(trained: Path) -> None:
    import shutil

    from vlcompare.synth.train.language import train_language

    out = trained.parent / "longer"
    shutil.copytree(trained, out, ignore=shutil.ignore_patterns("*.pt"))
    schedule = dataclasses.replace(recipes.SMOKE.language, steps=10, decay_from=0.6)
    short = dataclasses.replace(recipes.SMOKE, language=schedule)
    options = {"save_every": 2, "score_every": 1000}
    assert train_language("pythia", short, out, **options)
    stable = load_state(out / "pythia-before-decay.pt")
    assert stable["step"] == 6 and load_state(out / "pythia.pt")["step"] == 10
    long = dataclasses.replace(short, language=dataclasses.replace(short.language, steps=20))
    assert not train_language("pythia", long, out, resume=True, budget_seconds=0.0, **options)
    went_back = load_state(out / "pythia.pt")
    assert went_back["step"] == 6 and all(row["step"] <= 6 for row in read_log(out / "pythia.jsonl"))
    same = [torch.equal(a, b) for a, b in zip(went_back["learner"].values(), stable["learner"].values(), strict=True)]
    assert all(same)
    assert train_language("pythia", long, out, resume=True, **options)
    assert load_state(out / "pythia.pt")["step"] == 20


def test_a_training_is_never_begun_over_another_and_goes_on_by_its_recipe(trained: Path, tmp_path: Path) -> None:
    import shutil

    from vlcompare.synth.train.pictures import PictureStore

    kept = ("pythia.pt", "recipe.json")
    before = [(trained / name).read_bytes() for name in kept]
    wider = dataclasses.replace(recipes.SMOKE, shapes=dataclasses.replace(recipes.SMOKE.shapes, width=64))
    for train in (partial(stages.run_stage, "encoder"), partial(stages.run_stage, "pythia"), stages.run_all):
        with pytest.raises(CheckpointError, match="--resume"):
            train(stages.TrainingSettings(trained, wider))
    assert [(trained / name).read_bytes() for name in kept] == before and read_log(trained / "pythia.jsonl")
    out = tmp_path / "other"
    shutil.copytree(trained, out)
    with pytest.raises(CheckpointError, match="another recipe"):
        stages.run_stage("pythia", stages.TrainingSettings(out, wider, resume=True))
    assert (out / "recipe.json").read_bytes() == before[1]
    all_scenes = dataclasses.replace(recipes.SMOKE.pictures, scene_share=0.0)
    PictureStore(out / "pictures", recipes.SMOKE.pictures).get(0)
    with pytest.raises(CheckpointError, match="another recipe"):  # their questions would be about other scenes
        PictureStore(out / "pictures", all_scenes).get(0)
    (out / "mamba.pt").write_bytes(before[0][:1000])
    with pytest.raises(CheckpointError, match="not a whole state"):
        load_state(out / "mamba.pt")
    with pytest.raises(CheckpointError, match="no saved state"):
        load_state(out / "gone.pt")


def test_an_encoder_that_was_trained_on_needs_new_features(trained: Path, tmp_path: Path) -> None:
    import os
    import shutil

    out = tmp_path / "older"
    shutil.copytree(trained, out)
    settings = stages.TrainingSettings(out, recipes.SMOKE, resume=True)
    assert stages._finished("features", settings)
    later = (out / "features" / "features.npy").stat().st_mtime + 10
    os.utime(out / "encoder.pt", (later, later))
    assert not stages._finished("features", settings)


def test_an_encoders_log_forgets_what_is_done_again(trained: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "again"
    shutil.copytree(trained, out)
    Log(out / "encoder.jsonl", quiet=True).write(step=50, loss=1.0)  # later than the state's last step
    assert stages.run_stage("encoder", stages.TrainingSettings(out, recipes.SMOKE, resume=True))
    assert [row["step"] for row in read_log(out / "encoder.jsonl")] == [4]


def test_a_budget_that_is_spent_before_the_language_models_is_no_failure(tmp_path: Path) -> None:
    with stages._following(stages.TrainingSettings(tmp_path, recipes.SMOKE), stages.TRAINING):
        pass
    assert not stages._side_by_side(stages.TrainingSettings(tmp_path, recipes.SMOKE, budget_seconds=0.0))


def test_both_processes_get_their_threads_and_are_stopped_with_their_states_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys

    begun, popen = [], subprocess.Popen
    script = (
        "import pathlib, sys, time\n"
        "try: pathlib.Path(sys.argv[1]).touch(); time.sleep(60)\n"
        "except KeyboardInterrupt: time.sleep(0.5); pathlib.Path(sys.argv[1] + '-saved').touch()\n"
    )

    class Interrupted(popen):  # type: ignore[misc, valid-type]
        def __init__(self, command, **options) -> None:
            begun.append(command)
            self.mark = tmp_path / command[-1]
            super().__init__([sys.executable, "-c", script, str(self.mark)], **options)

        def wait(self, timeout=None):
            if timeout is None:
                import time

                while not all((tmp_path / family).exists() for family in ("pythia", "mamba")):
                    time.sleep(0.02)
                raise KeyboardInterrupt
            return super().wait(min(timeout, 60) if timeout == stages.SAVING else 0.1)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    monkeypatch.setattr(stages.threads, "budget", lambda: 7)  # shared by two processes
    with pytest.raises(KeyboardInterrupt):
        stages._side_by_side(stages.TrainingSettings(tmp_path, recipes.SMOKE, threads=3))
    assert all(command[command.index("--threads") + 1] == "3" for command in begun) and len(begun) == 2
    assert (tmp_path / "pythia-saved").exists() and (tmp_path / "mamba-saved").exists()


def test_a_step_and_a_state_are_whole_when_somebody_presses_ctrl_c() -> None:
    import os
    import signal

    from vlcompare.training.progress import unbroken

    done = []
    with pytest.raises(KeyboardInterrupt), unbroken():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("whole")
    assert done == ["whole"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_weights_are_asked_again_by_the_report(tmp_path: Path) -> None:
    from vlcompare.synth.train.scores import run_folder

    folder, data = tmp_path / "tiny-pythia-vl", tmp_path / "scenes-1-2"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"one")
    first = run_folder("pythia", tmp_path, data, tmp_path)
    (folder / "README.md").write_text("a card")
    assert run_folder("pythia", tmp_path, data, tmp_path) == first
    (folder / "model.safetensors").write_bytes(b"two")
    assert run_folder("pythia", tmp_path, data, tmp_path) != first


@pytest.mark.parametrize(
    "text",
    ["[1]", '{"language": 3}', '{"language": {"steps": "7"}}', '{"language": {"steps": true}}',
     '{"pictures": {"sizes": []}}', '{"pictures": {"sizes": 224}}', "\xff"],
)  # fmt: skip
def test_a_recipe_of_another_form_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"mine\.json"):
        recipes.load(str(path))


def test_the_command_line_goes_on_with_the_recipe_of_the_folder_and_says_what_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlcompare.cli import main, program

    monkeypatch.setattr(sys, "argv", ["/usr/bin/vlcompare"])
    seen: list[stages.TrainingSettings] = []
    monkeypatch.setattr(stages, "run_stage", lambda stage, settings: bool(seen.append(settings)))
    out = tmp_path / "an out"
    with stages._following(stages.TrainingSettings(out, recipes.SMOKE), stages.TRAINING):
        pass
    begin = ["train", "--out", str(out), "--stage", "pythia"]
    assert main([*begin, "--resume", "--checkpoints", "there"]) == 3 and seen[0].recipe == recipes.SMOKE
    assert f"'{out}'" in (said := capsys.readouterr().out) and "--checkpoints there" in said
    assert f"go on with: {program()} train" in said
    assert main([*begin, "--recipe", "gpu"]) == 3 and seen[1].recipe == recipes.GPU
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    nothing = ["train", "--stage", "export", "--out", str(tmp_path / "empty"), "--recipe", "smoke"]
    for arguments, reason in (
        (["train", "--stage", "encoder", "--out", str(tmp_path / "file" / "below")], "cannot be written"),
        (nothing, "no trained language model"),
        (["train", "--out", str(tmp_path / "none"), "--resume"], "no training to continue"),
        (
            ["evaluate", "x.jsonl", "--left", "tiny-mamba-vl", "--out", str(tmp_path / "none"), "--resume"],
            "no run to go on with",
        ),
    ):
        assert main(arguments) == 2 and reason in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    for flag, value in (("--budget", "nan"), ("--budget", "0"), ("--threads", "0")):
        with pytest.raises(SystemExit):
            main([*begin, flag, value])
        assert f"argument {flag}: {value} is not above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"encoder": {"batch": 500}}, "encoder.batch"),
        ({"language": {"pictures": 0}}, "language.pictures"),
        ({"language": {"pictures": 50_000}}, "language.pictures"),
        ({"language": {"auxiliary_until": 0}}, "auxiliary_until"),
        ({"pictures": {"count": 20_000}}, "kept_pictures"),
        ({"pictures": {"sizes": [8]}}, "sizes"),
        ({"pictures": {"image_size": 100}}, "image_size"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_before_anything_is_drawn(
    tmp_path: Path, changes: dict, wrong: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(changes))
    with pytest.raises(CheckpointError, match=wrong):
        recipes.load(str(path))
    assert all(recipes.impossible(recipe) is None for recipe in recipes.RECIPES.values())


def test_a_plan_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    from vlcompare.synth.train.language import planned_steps

    for text in ('{"steps": ', "[7]", '{"steps": null}'):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"plan\.json is not a plan"):
            planned_steps(tmp_path, recipes.SMOKE)
    (tmp_path / "plan.json").write_text('{"steps": 9}')
    assert planned_steps(tmp_path, recipes.SMOKE) == 9
