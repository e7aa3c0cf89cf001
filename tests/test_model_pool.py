"""Models in memory: the budget holds, the oldest leave, models in use stay, and one load serves all who wait."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from vlcompare.errors import CheckpointError, DeviceMemoryError
from vlcompare.runtime.loading import devices
from vlcompare.runtime.loading.model_pool import ModelPool
from vlcompare.runtime.loading.precision import advice
from vlcompare.runtime.loading.registry import registry
from vlcompare.runtime.loading.told import Told
from vlcompare.types import ModelSpec, Notify


class Loader:
    """A device of 100 bytes on which every checkpoint takes 40, or `size`; fails as often as it is told to."""

    def __init__(self, fail: int = 0, size: int = 40) -> None:
        self.loaded: list[str] = []
        self.fail, self.size = fail, size

    def __call__(self, key: ModelSpec, say) -> SimpleNamespace:
        if self.fail:
            self.fail -= 1
            raise DeviceMemoryError("The device is full.")
        self.loaded.append(key.checkpoint)
        return SimpleNamespace(weights_bytes=self.size, name=key.checkpoint)


def pool(loader: Loader, budget: int | None = 100) -> ModelPool:
    return ModelPool(budget, load=loader, estimate=lambda key: 40, free=lambda key: 10**9)


def names(of: ModelPool) -> list[str]:
    return sorted(key.checkpoint for key in of.resident())


def test_the_least_recently_used_leaves() -> None:
    loader = Loader()
    models = pool(loader)
    said: list[str] = []
    for name in ("a", "b", "a", "c"):
        with models.acquire(ModelSpec(name), said.append) as model:
            assert model.name == name
    assert names(models) == ["a", "c"]
    assert loader.loaded == ["a", "b", "c"]
    assert "b was evicted to make room" in said


def test_models_in_use_stay_and_the_refusal_says_why() -> None:
    models = pool(Loader())
    with models.acquire(ModelSpec("a")), models.acquire(ModelSpec("b")):
        with (
            pytest.raises(DeviceMemoryError, match="c needs about .*: choose a smaller checkpoint or .*until"),
            models.acquire(ModelSpec("c")),
        ):
            pass
        assert names(models) == ["a", "b"]
    with models.acquire(ModelSpec("c")):
        assert "c" in names(models)


def test_out_of_memory_evicts_and_retries_once() -> None:
    loader = Loader()
    models = pool(loader)
    with models.acquire(ModelSpec("a")):
        pass
    loader.fail = 1
    said: list[str] = []
    with models.acquire(ModelSpec("b"), said.append) as model:
        assert model.name == "b"
    assert names(models) == ["b"]
    assert any("trying again" in sentence for sentence in said)


def test_out_of_memory_with_nothing_to_evict_is_told() -> None:
    models = pool(Loader(fail=1))
    with pytest.raises(DeviceMemoryError), models.acquire(ModelSpec("a")):
        pass
    assert names(models) == []


def test_one_load_serves_all_who_wait() -> None:
    loader = Loader()
    models = pool(loader)
    seen = []

    def use() -> None:
        with models.acquire(ModelSpec("a")) as model:
            seen.append(model)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loader.loaded == ["a"]
    assert len(seen) == 8
    assert len(set(map(id, seen))) == 1


@pytest.mark.parametrize("wanted", ["a", "b"], ids=["the one that is being loaded", "another one"])
def test_who_waits_for_another_s_load_can_stop_waiting(wanted: str) -> None:
    loader, begun, go_on = Loader(), threading.Event(), threading.Event()

    def slow(key: ModelSpec, say) -> SimpleNamespace:
        begun.set()
        assert go_on.wait(60)
        return loader(key, say)

    def tired() -> None:
        raise InterruptedError

    models = ModelPool(100, load=slow, estimate=lambda key: 40, free=lambda key: 10**9)
    first = threading.Thread(target=lambda: models.acquire(ModelSpec("a")).__enter__())
    first.start()
    assert begun.wait(60)
    said: list[str] = []
    with pytest.raises(InterruptedError), models.acquire(ModelSpec(wanted), said.append, tired):
        pass
    go_on.set()
    first.join()
    assert said == ["Waiting until another checkpoint is loaded"]
    assert loader.loaded == names(models) == ["a"]


@pytest.fixture
def two_gpus() -> ModelPool:
    """Two GPUs of 100 bytes; a model takes 40."""
    loaded: dict[str, int] = {"cuda:0": 0, "cuda:1": 0}

    def load(key: ModelSpec, say) -> SimpleNamespace:
        loaded[key.device] += 40
        return SimpleNamespace(weights_bytes=40, name=key.checkpoint, device=key.device)

    def free(key: ModelSpec) -> int:
        there = sum(size for known, size in models.resident().items() if known.device == key.device)
        return 100 - there

    models = ModelPool(
        None, load=load, estimate=lambda key: 40, free=free,
        gpus=lambda: {name: 100 - size for name, size in loaded.items()},
    )  # fmt: skip
    return models


def test_two_sides_go_to_two_gpus_and_stay_there(two_gpus: ModelPool) -> None:
    with two_gpus.acquire(ModelSpec("a")) as left, two_gpus.acquire(ModelSpec("b", device="cuda")) as right:
        assert (left.device, right.device) == ("cuda:0", "cuda:1")
    for _ in range(2):  # found again where they are, whatever is free elsewhere
        with two_gpus.acquire(ModelSpec("b", device="cuda")) as right, two_gpus.acquire(ModelSpec("a")) as left:
            assert (left.device, right.device) == ("cuda:0", "cuda:1")
    with two_gpus.acquire(ModelSpec("a", device="cuda:1")) as asked:
        assert asked.device == "cuda:1"
    assert len(two_gpus.resident()) == 3


def test_room_is_made_on_the_gpu_that_needs_it(two_gpus: ModelPool) -> None:
    said: list[str] = []
    for name, device in (("a", "cuda:0"), ("b", "cuda:1"), ("c", "cuda:1"), ("d", "cuda:1")):
        with two_gpus.acquire(ModelSpec(name, device=device), said.append):
            pass
    assert said.count("b was evicted to make room") == 1
    assert {(key.checkpoint, key.device) for key in two_gpus.resident()} == {
        ("a", "cuda:0"), ("c", "cuda:1"), ("d", "cuda:1"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("device", "free", "models", "expected"),
    [
        ("auto", {}, {}, "auto"),  # one GPU or none: nothing to choose
        ("cpu", {"cuda:0": 9, "cuda:1": 9}, {}, "cpu"),
        ("cuda:1", {"cuda:0": 9, "cuda:1": 1}, {"cuda:1": 3}, "cuda:1"),
        ("auto", {"cuda:0": 5, "cuda:1": 9}, {}, "cuda:1"),
        ("auto", {"cuda:0": 5, "cuda:1": 9}, {"cuda:1": 1}, "cuda:0"),
        ("cuda", {"cuda:0": 9, "cuda:1": 9}, {"cuda:0": 1}, "cuda:1"),
    ],
)
def test_placement(device: str, free: dict[str, int], models: dict[str, int], expected: str) -> None:
    assert devices.choose_gpu(device, free, models) == expected


def test_on_this_machine_placement_agrees_with_torch() -> None:
    import torch

    free = devices.free_bytes_of_gpus()
    assert len(free) == (torch.cuda.device_count() if torch.cuda.device_count() > 1 else 0)


def test_a_download_holds_up_nobody_and_evicts_nothing() -> None:
    loader, begun, go_on = Loader(), threading.Event(), threading.Event()

    def fetch(key: ModelSpec, say) -> None:
        if key.checkpoint == "large":
            begun.set()
            assert go_on.wait(60)

    models = ModelPool(80, load=loader, estimate=lambda key: 40, free=lambda key: 10**9, fetch=fetch,
                       missing=lambda key: True)  # fmt: skip
    for name in ("a", "b"):
        with models.acquire(ModelSpec(name)):
            pass
    thread = threading.Thread(target=lambda: models.acquire(ModelSpec("large")).__enter__())
    thread.start()
    assert begun.wait(60)
    assert names(models) == ["a", "b"], "they leave when there is something to put in their place"
    with models.acquire(ModelSpec("a"), lambda said: pytest.fail(said)), models.acquire(ModelSpec("c")):
        assert loader.loaded == ["a", "b", "c"]
    go_on.set()
    thread.join()
    assert "large" in names(models)


def test_what_is_in_memory_needs_no_files() -> None:
    """They may have been removed meanwhile."""
    here = [True]
    sizes = {"estimate": lambda key: 40, "free": lambda key: 10**9}
    models = ModelPool(80, load=Loader(), missing=lambda key: not here[0], **sizes)
    assert not models.missing(ModelSpec("a"))
    with models.acquire(ModelSpec("a")):
        here[0] = False
        assert not models.missing(ModelSpec("a")) and models.missing(ModelSpec("b"))


def test_all_sides_are_measured_before_the_first_byte() -> None:
    from vlcompare.runtime.loading.cost import Cost

    asked: list[str] = []

    def cost(key: ModelSpec, say: Notify) -> Cost:
        asked.append(key.checkpoint)
        if key.checkpoint == "absent":
            raise CheckpointError("There is none.")
        return Cost(0 if key.checkpoint == "here" else 20, 60, 0)

    loader = Loader()
    models = ModelPool(100, load=loader, estimate=lambda key: 40, free=lambda key: 10**9, cost=cost)
    with pytest.raises(DeviceMemoryError, match="Nothing was fetched of x and y: they need about 120 B .* 100 B"):
        models.check_together([ModelSpec("x"), ModelSpec("y")])
    assert asked == ["x", "y"] and not loader.loaded
    failed = models.check_together([ModelSpec("x"), ModelSpec("absent")])
    assert {key.checkpoint: str(error) for key, error in failed.items()} == {"absent": "There is none."}
    models.check_together([ModelSpec("here"), ModelSpec("here", "nf4")])  # nothing to fetch: each is told at its load
    with models.acquire(ModelSpec("x")):
        models.check_together([ModelSpec("x"), ModelSpec("y")])  # 40 are held, 60 are to come
    with models.acquire(ModelSpec("z")), pytest.raises(DeviceMemoryError):
        models.check_together([ModelSpec("x", "nf4"), ModelSpec("y")])  # one in use does not leave for them


def test_the_published_models_one_encoder_counts_once() -> None:
    from vlcompare.runtime.loading.cost import VISION_PARAMETERS, Cost, published_encoder

    names = "finetuned_pythiavl_1b", "finetuned_mambavl_790m"
    pair = [ModelSpec(name, device="cpu", dtype="float32") for name in names]
    one, size = published_encoder(pair[0]), 4 * VISION_PARAMETERS
    assert one is not None and one == published_encoder(pair[1]) and one.bytes == size
    smaller = published_encoder(replace(pair[1], image_size=224))
    assert smaller is not None and not smaller.keys & one.keys and published_encoder(ModelSpec("somebody/else")) is None
    weights = 2 * size
    limit = 2 * weights - size  # of both, with one encoder

    def pool(budget: int) -> ModelPool:
        cost = lambda key, say: Cost(20, weights, 0, published_encoder(key))  # noqa: E731
        return ModelPool(budget, load=Loader(size=weights), estimate=lambda key: 0, free=lambda key: 10**12, cost=cost)

    pool(limit).check_together(pair)
    for budget, specs in ((limit - 1, pair), (limit, [pair[0], replace(pair[1], image_size=224)])):
        with pytest.raises(DeviceMemoryError):
            pool(budget).check_together(specs)
    one_loaded = pool(limit)
    with one_loaded.acquire(pair[0]):
        one_loaded.check_together(pair)  # the second one's encoder is in memory


def test_advice_names_only_what_can_help(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(packs: bool, *specs: ModelSpec) -> str:
        monkeypatch.setattr("vlcompare.runtime.loading.quantize.has_kernels", lambda method, device: packs)
        return advice(specs)

    large = "finetuned_pythiavl_2.8b"
    assert said(True, ModelSpec(large, "nf4", "cpu")) == "choose a smaller checkpoint"
    assert said(True, ModelSpec(large, device="cpu")) == "choose a smaller checkpoint or nf4"
    assert said(False, ModelSpec(large, "nf4", "cpu", "float32")) == "choose a smaller checkpoint or bfloat16"
    assert said(False, ModelSpec(large, device="cpu", dtype="bfloat16")) == "choose a smaller checkpoint"
    smallest = min((one.parameters or 0, one.name) for one in registry().checkpoints)[1]
    assert "choose" not in said(False, ModelSpec(smallest, device="cpu", dtype="bfloat16"))


def test_how_far_a_download_is() -> None:
    said: list[str] = []
    now = [0.0]
    told = Told(said.append, clock=lambda: now[0])
    for seconds, done in ((0.0, 10e6), (0.1, 20e6), (2.0, 210e6), (2.1, 211e6), (4.0, 1e9)):
        now[0] = seconds
        told("Downloading x", int(done), 10**9)
    told("Looking up y")
    assert said == [
        "Downloading 10 MB of 1.0 GB: x",
        "Downloading 210 MB of 1.0 GB, 100 MB/s, 7.9 s left: x",
        "Downloading 1.0 GB of 1.0 GB: x",
        "Looking up y",
    ]
