"""Another default device moves nothing of ours: networks, data and sweeps stay where they are asked to be."""

import tempfile

import pytest
import torch
from analysis.given_anything import analyses, cases

from mechinterp import constructions, models, tasks
from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.erasure import decodability, leace, mean_projection, probe_projection
from mechinterp.analysis.geometry import spectrum
from mechinterp.analysis.metrics import margin
from mechinterp.analysis.patching import activation_patching
from mechinterp.analysis.probes import Logistic, online_code, probe
from mechinterp.analysis.similarity import cka, similarity
from mechinterp.analysis.state_basis import state_basis
from mechinterp.hooks import Edit, Site, resample, run, run_with_cache, zero
from mechinterp.models import HookedTransformer, TransformerConfig, generate
from mechinterp.models.folding import fold_ln
from mechinterp.models.rotation import rotate_stream
from mechinterp.models.sharpened import sharpened
from mechinterp.training import Recipe, fit

TASKS = {
    "modular_addition": lambda: tasks.ModularAddition(p=7, train_fraction=0.5),
    "linear_regression": lambda: tasks.LinearRegression(d=3, n_context=4, max_context=6, n_test=20),
    "regex_language": lambda: tasks.RegexLanguage(pattern="a*b*", n_samples=200, max_len=6),
    "state_machine": lambda: tasks.StateMachine(length=6, n_test=50),
    "text_arithmetic": lambda: tasks.TextSum(n_test=50, zero_padded=True),
    "text_modular": lambda: tasks.TextModular(n_test=50),
    "digit_addition": lambda: tasks.DigitAddition(n_digits=2, n_test=50),
    "sortedness": lambda: tasks.Sortedness(n_test=20),
}


@pytest.fixture
def elsewhere():
    """A default device that is not the CPU; "meta" stands for one that this machine may lack."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def factory(name):
    return getattr(models, {"text_modular": "text_arithmetic"}.get(name, name))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", TASKS)
def test_a_task_and_its_networks_do_not_move(name):
    task = TASKS[name]()
    for split in ("train", "test"):
        batch = task.dataset(split)
        parts = (batch.inputs, batch.targets, *batch.variables.values())
        assert {part.device.type for part in parts} == {"cpu"}
    if task.samples:
        fresh = task.sample(4, torch.Generator().manual_seed(0))
        assert fresh.inputs.device.type == "cpu"
    model = factory(name)(task)
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    answers = task.answers(model.eval(), batch)
    assert task.score(answers, batch) <= 1
    assert torch.isfinite(task.loss(answers, batch))
    assert isinstance(task.trivial, float)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("name", TASKS)
def test_another_default_dtype_draws_the_same(name, dtype):
    task = TASKS[name]()
    here = task.dataset("test"), task.trivial, list(factory(name)(task).parameters())
    torch.set_default_dtype(dtype)
    try:
        again = TASKS[name]()
        there = again.dataset("test"), again.trivial, list(factory(name)(again).parameters())
    finally:
        torch.set_default_dtype(torch.float32)
    assert here[1] == there[1]
    assert all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(here[2], there[2], strict=True))
    for part in ("inputs", "targets"):
        one, other = getattr(here[0], part), getattr(there[0], part)
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", [name for name in TASKS if name != "text_modular"])
def test_constructions_do_not_move(name):
    task = TASKS[name]()
    model = getattr(constructions, name)(task).eval()
    batch = task.dataset("test")
    assert task.score(task.answers(model, batch), batch) > 0.1


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", TASKS)
def test_training_does_not_move(name):
    task = TASKS[name]()
    model = factory(name)(task)
    recipe = Recipe(steps=2, batch_size=8, eval_every=1, save_every=1, checkpoints=2)
    with tempfile.TemporaryDirectory() as folder:
        job = fit(model, task, recipe, folder=folder)
        assert fit(model, task, recipe, folder=folder).history.train_loss == job.history.train_loss
    assert job.step == 2


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("positions", ["standard", "sinusoidal", "rotary", "alibi", "none"])
@pytest.mark.parametrize("norm", [None, "LN", "RMS"])
def test_networks_do_not_move(positions, norm):
    sizes = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "n_ctx": 9, "d_vocab": 7}
    cfg = TransformerConfig(**sizes, positional_embedding_type=positions, normalization_type=norm)
    model = HookedTransformer(cfg).eval()
    tokens = torch.randint(7, (20, 6), generator=torch.Generator().manual_seed(0), device="cpu")
    targets, mask = tokens[:, 0], torch.ones(20, 6, dtype=torch.bool, device="cpu")
    mask[:5, :2] = False
    site = Site.at("blocks.1.attn.hook_z", head=1, position=[0, -1])
    _, cache = run_with_cache(model, tokens)
    found = [
        model(tokens, read=(-1,), attention_mask=mask),
        run(model, tokens, edits=[zero(site), resample(site, cache)]),
        generate(model, tokens, 2),
        rotate_stream(model)(tokens),
        sharpened(model, 4)(tokens),
        *([fold_ln(model)(tokens)] if norm else []),
    ]
    for fast in (True, False):
        swept = ablation(model, tokens, margin(targets), reference="zero", fast=fast)
        patched = activation_patching(model, tokens, tokens.roll(1, 0), margin(targets), fast=fast)
        assert swept.values.notnull().all()
        assert patched.values.notnull().all()
    assert {each.device.type for each in found} == {"cpu"}


@pytest.mark.usefixtures("elsewhere")
def test_hooks_of_the_caller_keep_the_callers_default():
    sizes = {"n_layers": 1, "d_model": 8, "n_heads": 2, "d_head": 4, "d_mlp": 8, "n_ctx": 4, "d_vocab": 5}
    model, seen = HookedTransformer(TransformerConfig(**sizes)), []
    tokens = torch.tensor([[0, 1, 2], [3, 4, 0]], device="cpu")
    model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", lambda x, hook: seen.append(torch.zeros(1)))])
    run(model, tokens, edits=[Edit(Site("hook_embed"), lambda x, name: seen.append(torch.zeros(1)) or x)])
    swept = ablation(
        model.eval(), tokens, lambda y: seen.append(torch.zeros(1)) or y[:, 0, 0], reference="zero"
    )
    assert {x.device.type for x in seen} == {"meta"}
    assert swept.values.notnull().all()


ANALYSES, CALLS = analyses(), cases()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_analyses_find_the_same(name):
    here = ANALYSES[name](**CALLS[name])
    torch.set_default_device("meta")
    try:
        elsewhere = ANALYSES[name](**CALLS[name])
    finally:
        torch.set_default_device(None)
    assert type(here) is type(elsewhere)
    if hasattr(here, "to_json"):
        assert here.to_json() == elsewhere.to_json()


READERS = {
    "probe": lambda x, y: probe(x, y, shuffles=1, permutations=10),
    "logistic": lambda x, y: probe(x, y > 0, Logistic(), shuffles=1, permutations=10),
    "online": lambda x, y: online_code(x, y > 0),
    "leace": lambda x, y: leace(x, y)(x),
    "mean projection": lambda x, y: mean_projection(x, (y > 0).long())(x),
    "probe projection": lambda x, y: probe_projection(x, y)(x),
    "decodability": lambda x, y: decodability(x, y),
    "cka": lambda x, y: cka(x, x.flip(1)),
    "similarity": lambda x, y: similarity({"a": x}, {"a": x.flip(0)}, draws=5),
    "spectrum": lambda x, y: spectrum(x, draws=3),
    "state basis": lambda x, y: state_basis(x, (y > 0).long()).write,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_readers_find_the_same(name):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 5, generator=generator), torch.randn(80, generator=generator)
    here = READERS[name](x, y)
    torch.set_default_device("meta")
    try:
        elsewhere = READERS[name](x, y)
    finally:
        torch.set_default_device(None)
    if hasattr(here, "to_json"):
        assert here.to_json() == elsewhere.to_json()
    else:
        torch.testing.assert_close(torch.as_tensor(here), torch.as_tensor(elsewhere))
