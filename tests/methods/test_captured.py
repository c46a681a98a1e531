"""The step that a GPU replays, run here without a graph: the same numbers as the plain one, bit for bit."""

import gc
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from m2ib_lightning.backbones import Backbone, load_backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.data.loading import PINNING
from m2ib_lightning.losses import Relevance, ScheduledCompression
from m2ib_lightning.methods import M2IB, m2ib
from m2ib_lightning.methods import captured as recording
from m2ib_lightning.methods.captured import CapturedSteps, fill_batch, pad_texts, shape_of
from m2ib_lightning.methods.streams import Streams
from tests.backbones.openclip_made import batch_of
from tests.methods.test_m2ib import assert_same_maps, scene_pairs


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone("embedded")


def captured(method: M2IB, *pair_lists) -> list:
    """Results of the last of some batches of one shape that went through the same place."""
    backbone = method.prepare()
    batches = [pad_texts(backbone.preprocess_pairs(pairs), backbone.text.length) for pairs in pair_lists]
    fit = method.new_fit(batches[0])
    steps = CapturedSteps(fit, method.new_optimizer(fit.parameters()), graph=False)
    for batch in batches:
        done = steps.run(batch, method.steps)
    return method.results(done)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"tolerance": 0.02, "steps": 25}])
def test_a_replayed_step_gives_the_plain_steps_numbers_for_every_batch(embedded, arguments):
    method = M2IB(embedded, noise_samples=2, modalities=["image"], **arguments)
    first, second = scene_pairs(6)[:3], scene_pairs(6)[3:]
    for last in (first, second):
        plain = method.attribute(pad_texts(embedded.preprocess_pairs(last), embedded.text.length))
        for a, b in zip(captured(method, first, last), plain, strict=True):
            assert (a.id, a.steps, a.stop_reason, a.score) == (b.id, b.steps, b.stop_reason, b.score)
            # Dropped rows change how sums are blocked; without them it is the same to the bit.
            assert_same_maps(a, b, tolerance=1e-2 if arguments else 0.0)
            for name, values in b.history.items():
                np.testing.assert_allclose(a.history[name], values, rtol=0, atol=5e-3 if arguments else 0)


def test_padding_of_texts_and_of_a_batch_changes_no_pair(embedded):
    method, pairs = M2IB(embedded, noise_samples=2, steps=4), scene_pairs(3)
    plain = embedded.preprocess_pairs(pairs)
    padded = fill_batch(pad_texts(plain, embedded.text.length))
    assert padded.input_ids.shape[1] % 8 == 0 and len(padded.tokens) == 4
    for a, b in zip(method.attribute(padded)[:3], method.attribute(plain), strict=True):
        assert a.tokens == b.tokens
        assert_same_maps(a, b)


@pytest.mark.parametrize("words", range(1, 12))
def test_texts_are_padded_to_a_multiple_of_8_or_to_all_that_is_read(embedded, words):
    scene = make_scene(3)
    batch = embedded.preprocess([scene.image], [" ".join(["a"] * words)])
    length = batch.input_ids.shape[1]
    padded = pad_texts(batch, embedded.text.length)
    assert padded.input_ids.shape == padded.attention_mask.shape == (1, length + -length % 8)
    assert not padded.attention_mask[:, length:].any()
    assert pad_texts(batch, length + 1).input_ids.shape[1] == min(length + 1, length + -length % 8)


def test_a_pair_that_diverges_is_held_as_it_was(embedded):
    method = M2IB(embedded, noise_samples=2, steps=3, modalities=["image"])
    batch = embedded.preprocess_pairs(scene_pairs(2))
    fit = method.new_fit(batch)
    steps = CapturedSteps(fit, method.new_optimizer(fit.parameters()), graph=False)
    clean_pass = fit.clean_pass

    def broken(modality, batch):
        hidden, clean = clean_pass(modality, batch)
        return hidden, clean.index_fill(0, torch.tensor([0] if modality == "text" else []).long(), torch.nan)

    fit.clean_pass = broken  # its loss is nan from the first step on
    done = steps.run(batch, 3)
    assert done.stopping.reason.tolist() == [3, 0] and done.stopping.updates.tolist() == [0, 3]
    assert float(done.bottleneck("image").alpha[0].detach().min()) == method.initial_alpha


@pytest.mark.parametrize(("pairs", "filled"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8)])
def test_a_batch_is_filled_up_to_a_power_of_two_with_its_last_pair(embedded, pairs, filled):
    found = fill_batch(embedded.preprocess_pairs(scene_pairs(pairs)))
    assert [pair.id for pair in found.pairs] == [*map(str, range(pairs)), *[str(pairs - 1)] * (filled - pairs)]


@pytest.mark.parametrize("read_out", ["mean", "clean"])
def test_what_a_graph_reads_lies_in_memory_of_its_own(embedded, read_out):
    """Another batch is copied there; a view that repeats one row would hold one value for all pairs."""
    fit = M2IB(embedded, read_out=read_out).new_fit(embedded.preprocess_pairs(scene_pairs(3)))
    read = [*fit.clean.values(), *(t for m in ("image", "text") for t in fit.hidden[m] if t is not None)]
    read += [t for m in ("image", "text") for t in fit.bottleneck(m).buffers() if t is not None]
    assert all(t.untyped_storage().nbytes() >= t.nbytes and 0 not in t.stride() for t in read)


class Reads(TorchDispatchMode):
    """The tensors that operations read and that none of them has made: by operation, where they lie and how."""

    def __init__(self) -> None:
        super().__init__()
        self.found, self._made = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.lift_fresh.default:  # a number of the code
            self._made += args
        made = {tensor.untyped_storage().data_ptr() for tensor in self._made}
        for tensor in tree_leaves((args, kwargs or {})):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in made:
                self.found.append((str(func), tensor.data_ptr(), tensor.shape, tensor.stride()))
        inside = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs or {})) if torch.is_tensor(t)}
        self._made += [  # kept, so that nothing else is put in its place
            t for t in tree_leaves(out) if torch.is_tensor(t) and t.untyped_storage().data_ptr() not in inside
        ]
        return out


@pytest.mark.parametrize("against", ["each other", "targets"])
@pytest.mark.parametrize("read_out", ["mean", "clean"])
def test_a_step_reads_each_batch_where_it_read_the_first(embedded, against, read_out):
    """A graph replays the operations of the first batch on its memory, so another batch must have been put there."""
    method, pairs = M2IB(embedded, noise_samples=2, steps=2, tolerance=None, read_out=read_out), scene_pairs(4)
    batches = [pad_texts(embedded.preprocess_pairs(some), embedded.text.length) for some in (pairs[:2], pairs[2:])]
    if against == "targets":
        batches = [batch._replace(**_aims(batch, seed)) for seed, batch in enumerate(batches)]
    fit = method.new_fit(batches[0])
    steps = CapturedSteps(fit, method.new_optimizer(fit.parameters()), graph=False)
    steps.run(batches[0], 2)
    read = []
    for batch in batches:
        steps._load(batch)
        steps.noise.fill(0)
        for run in (steps._run_clean, steps._step):
            with Reads() as reads:
                run()
            read.append(reads.found)
    assert all(len(found) > 100 for found in read) and read[:2] == read[2:]


def test_batches_against_targets_share_a_replayed_step(embedded):
    method, pairs = M2IB(embedded, noise_samples=2, steps=3, tolerance=None), scene_pairs(6)
    first, second = (embedded.preprocess_pairs(some) for some in (pairs[:3], pairs[3:]))
    aimed = [batch._replace(**_aims(batch, seed)) for seed, batch in enumerate((first, second))]
    fit = method.new_fit(aimed[0])
    steps = CapturedSteps(fit, method.new_optimizer(fit.parameters()), graph=False)
    steps.run(aimed[0], 3)
    for a, b in zip(method.results(steps.run(aimed[1], 3)), method.attribute(aimed[1]), strict=True):
        assert_same_maps(a, b, tolerance=0.0)
        assert np.array_equal(a.history["loss/total"], b.history["loss/total"])


def _aims(batch, seed):
    generator = torch.Generator().manual_seed(seed)
    count = len(batch.tokens)
    direction = torch.nn.functional.normalize(torch.randn(count, 128, generator=generator), dim=-1)
    return {"targets": {"image": direction}, "weights": {"image": torch.rand(count, generator=generator) + 0.5}}


@pytest.mark.slow
def test_from_the_second_batch_of_a_shape_on_steps_are_replayed_and_give_the_plain_results(embedded, monkeypatch):
    made = []

    def without_graph(*arguments):
        made.append(CapturedSteps(*arguments, graph=False))
        return made[-1]

    monkeypatch.setattr(m2ib, "CapturedSteps", without_graph)
    monkeypatch.setattr(M2IB, "_replays", lambda self: True)
    method, plain = (M2IB(embedded, noise_samples=2, steps=3, tolerance=None) for _ in range(2))
    pairs = scene_pairs(12)
    for first, recorded in ((0, 0), (3, 1), (6, 1)):  # seen, recorded, replayed
        batch = embedded.preprocess_pairs(pairs[first : first + 3])
        ours = method.attribute(batch)
        assert len(made) == recorded
        monkeypatch.setattr(M2IB, "_replays", lambda self: False)
        for a, b in zip(ours, plain.attribute(batch), strict=True):
            assert a.id == b.id and a.tokens == b.tokens
            assert_same_maps(a, b)
        monkeypatch.setattr(M2IB, "_replays", lambda self: True)
    shapes = 1
    for count in (1, 2, 5):  # three more shapes: the first is forgotten, and recorded anew
        for _ in range(2):
            method.attribute(embedded.preprocess_pairs(pairs[:count]))
        shapes += 1
        assert len(made) == shapes and len(method._captured) == min(shapes, 3)
    method.attribute(embedded.preprocess_pairs(pairs[:3]))
    assert len(made) == shapes + 1


def test_steps_that_cannot_be_recorded_are_made_one_by_one_and_said_once(embedded, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("its term waits for the GPU")

    monkeypatch.setattr(m2ib, "CapturedSteps", fails)
    monkeypatch.setattr(M2IB, "_replays", lambda self: self.graphs)
    method, batch = M2IB(embedded, noise_samples=2, steps=2), embedded.preprocess_pairs(scene_pairs(2))
    before = method.attribute(batch)
    with pytest.warns(UserWarning, match=r"cannot be a CUDA graph \(its term waits for the GPU\)"):
        after = method.attribute(batch)
    method.attribute(batch)
    for a, b in zip(before, after, strict=True):
        assert_same_maps(a, b, tolerance=0.0)


@pytest.mark.parametrize(
    "arguments", [{"graphs": False}, {"keep": 0.9}, {"loss_terms": [Relevance(), ScheduledCompression()]}]
)
def test_what_no_graph_can_hold_is_not_replayed_on_a_gpu(embedded, arguments, monkeypatch):
    monkeypatch.setattr(type(embedded), "device", property(lambda self: torch.device("cuda")))
    assert M2IB(embedded)._replays()
    assert not M2IB(embedded, **arguments)._replays()
    monkeypatch.undo()
    assert not M2IB(embedded)._replays(), "nor on a processor"


def test_maps_less_their_opposite_are_never_replayed(embedded, monkeypatch):
    """A graph would make the steps for the target and leave those for its opposite out."""
    method, batch = M2IB(embedded, noise_samples=2, steps=3), embedded.preprocess_pairs(scene_pairs(2))
    aims = _aims(batch, 0)
    batch = batch._replace(**aims, opposed={m: -direction for m, direction in aims["targets"].items()})
    wanted = method.attribute(batch)
    monkeypatch.setattr(M2IB, "_replays", lambda self: True)
    monkeypatch.setattr(m2ib, "CapturedSteps", lambda *arguments: CapturedSteps(*arguments, graph=False))
    for _ in range(3):
        for a, b in zip(method.attribute(batch), wanted, strict=True):
            assert_same_maps(a, b, tolerance=0.0)


def test_batches_share_a_graph_where_all_that_it_reads_is_of_one_shape(embedded):
    batch = embedded.preprocess_pairs(scene_pairs(2))
    own, targets = shape_of(embedded, batch), {"text": torch.zeros(2, 128)}
    assert own == shape_of(embedded, embedded.preprocess_pairs(scene_pairs(2)[::-1])) and (8, 8) in own
    others = [
        batch.keep([0]),
        pad_texts(batch, 16)._replace(input_ids=torch.zeros(2, 16, dtype=torch.long)),
        batch._replace(targets=targets),
        batch._replace(targets={"image": targets["text"]}),
        batch._replace(weights={"text": torch.ones(2)}),
        batch._replace(targets=targets, weights={"text": torch.ones(2)}),
    ]
    shapes = [shape_of(embedded, other) for other in others]
    with torch.autocast("cpu", torch.bfloat16):
        shapes.append(shape_of(embedded, batch))
    assert len({own, *shapes}) == 8
    ragged = SimpleNamespace(device=torch.device("cpu"), image=SimpleNamespace(grids=lambda batch: [(2, 3), (3, 2)]))
    none = SimpleNamespace(device=torch.device("cpu"), image=SimpleNamespace(grids=lambda batch: None))
    assert shape_of(ragged, batch) == shape_of(none, batch) != own


def test_texts_of_a_multiple_of_8_and_of_all_that_is_read_are_left_as_they_are():
    def lengthened(length, longest):
        batch = batch_of([[1] * length])
        padded = pad_texts(batch, longest)
        assert padded.attention_mask.sum() == length and (padded is batch) == (padded.input_ids.shape[1] == length)
        return padded.input_ids.shape[1]

    assert [lengthened(n, 77) for n in (1, 7, 8, 9, 16, 73, 77)] == [8, 8, 8, 16, 16, 77, 77]
    assert lengthened(5, 6) == 6


def test_an_optimiser_that_no_graph_can_hold_is_named(embedded):
    method = M2IB(embedded, modalities=["text"], optimizer=torch.optim.SGD, noise_samples=1, antithetic=False)
    fit = method.new_fit(embedded.preprocess_pairs(scene_pairs(1)))
    with pytest.raises(RuntimeError, match="SGD has no `capturable`"):
        CapturedSteps(fit, method.new_optimizer(fit.parameters()))


@pytest.fixture
def cuda(monkeypatch):
    """Stands in for what `torch.cuda` records with; says who could disturb it at each moment."""
    said = []

    def say(what):
        said.append((what, PINNING.locked(), gc.isenabled()))

    @contextmanager
    def graph(of, capture_error_mode):
        assert capture_error_mode == "thread_local"
        say("begin")
        yield
        say("end")

    stream = SimpleNamespace(wait_stream=lambda other: None)
    stand_ins = {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: say("replay")),
        "graph": graph,
        "synchronize": lambda: say("wait"),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return said


def test_nobody_pins_memory_or_collects_garbage_while_a_graph_is_recorded_and_first_replayed(cuda):
    replay = recording._recorded(lambda: cuda.append("run"))
    assert cuda == ["run"] * 3 + [("begin", True, False), "run", ("end", True, False)] + [
        ("replay", True, False),
        ("wait", True, False),
    ]
    assert gc.isenabled() and not PINNING.locked()
    replay()
    assert cuda[-1] == ("replay", False, True)


def test_after_a_record_that_fails_memory_is_pinned_and_garbage_collected_as_before(cuda):
    def run():
        if PINNING.locked():
            raise RuntimeError("a copy")

    with pytest.raises(RuntimeError, match="a copy"):
        recording._recorded(run)
    assert gc.isenabled() and not PINNING.locked()


def test_who_collects_no_garbage_does_not_begin_to_after_a_record(cuda):
    gc.disable()
    try:
        recording._recorded(lambda: None)
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(("given", "fused"), [({}, True), ({"foreach": True}, None), ({"fused": False}, False)])
def test_an_optimiser_that_has_one_kernel_takes_it_unless_it_is_told_otherwise(embedded, monkeypatch, given, fused):
    monkeypatch.setattr(recording, "_recorded", lambda run: run)
    method = M2IB(embedded, modalities=["text"], optimizer=partial(torch.optim.Adam, **given))
    fit = method.new_fit(embedded.preprocess_pairs(scene_pairs(1)))
    optimizer = method.new_optimizer(fit.parameters())
    CapturedSteps(fit, optimizer)
    assert optimizer.param_groups[0]["fused"] is fused and optimizer.param_groups[0]["capturable"] is True
    assert isinstance(fit.by_tower, Streams)
