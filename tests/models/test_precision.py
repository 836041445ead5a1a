"""Every kind of network is right to the precision of its dtype, and is itself again after every detour."""

import contextlib
import copy
import io
import json
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_networks import BASE, KINDS, inputs

from mechinterp.hooks import Site, run, run_with_cache, scale
from mechinterp.models import EncoderDecoderConfig, HookedEncoderDecoder, HookedTransformer, TransformerConfig
from mechinterp.models.folding import fold_ln
from mechinterp.models.generation import generate
from mechinterp.models.normalisation import Normalisation
from mechinterp.models.rotation import rotate_stream
from mechinterp.models.sharpened import sharpened

ALL = {
    **KINDS,
    "codebooks": {"codebook_size": 6, "codebook_top_k": 6},  # all pass: no choice hangs on rounding
    "rms_tied": {"normalization_type": "RMS", "tie_embeddings": True},
    "sinusoidal_layernorm": {"normalization_type": "LN", "positional_embedding_type": "sinusoidal"},
    "encoder_decoder": {},
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HALF = DTYPES[:2]
EPS = {dtype: torch.finfo(dtype).eps for dtype in DTYPES}


def build(kind, dtype=torch.float32, **changes):
    """A network with biases and scales of its own, in evaluation mode."""
    fields = BASE | {"dtype": dtype} | ALL[kind] | changes
    if kind == "encoder_decoder":
        model = HookedEncoderDecoder(EncoderDecoderConfig(**fields, n_ctx_source=3, normalization_type="LN"))
    else:
        model = HookedTransformer(TransformerConfig(**fields))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.rsplit(".", 1)[-1].startswith(("b", "w")):
                weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float32)
    return model.eval()


def ids(model, rows=24):
    return inputs(model, rows=rows).to(torch.float32 if model.cfg.d_input else torch.int64)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def near(found, expected, dtype, times=60):
    """Whether a result is right up to some roundings of its dtype."""
    found, expected = found.double(), expected.double()
    assert torch.isfinite(found).all()
    assert (found - expected).norm() <= times * EPS[dtype] * (expected.norm() + 1e-3)


@pytest.fixture(scope="module")
def originals():
    """Each kind in each dtype, and the same weights in float64."""
    made = {}

    def of(kind, dtype):
        if (kind, dtype) not in made:
            model = build(kind, dtype)
            exact = copy.deepcopy(model).double()
            for name, table in build(kind, torch.float64).named_buffers():
                exact.get_buffer(name).copy_(table)  # not rounded to half and back
            made[kind, dtype] = model, exact
        return made[kind, dtype]

    return of


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_runs(kind, dtype, originals):
    model, exact = originals(kind, dtype)
    x = ids(model)
    intact = model(x)
    assert intact.dtype == dtype
    near(intact, exact(x), dtype)
    near(model(x, read=(-1,)), exact(x)[:, -1:], dtype)
    output, cache = run_with_cache(model, x)
    near(output, intact, dtype)
    assert all(
        value.dtype == (torch.float32 if dtype in HALF and "ln" in name else dtype)
        for name, value in cache.items()
    )
    edits = [
        scale(Site.at("blocks.0.attn.hook_z", head=1), 2.0),
        scale(Site.at("blocks.1.hook_resid_pre"), 0.5),
    ]
    near(run(model, x, edits=edits), run(exact, x, edits=edits), dtype)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind", ALL)
def test_gradients(kind, dtype, originals):
    model, exact = originals(kind, dtype)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    slopes = []
    for one in (model, exact):
        loss = (one(ids(model)).double().square().mean() + 1).sqrt()
        found = torch.autograd.grad(loss, [one.get_parameter(name) for name in trained], allow_unused=True)
        slopes.append(torch.cat([g.double().flatten() for g in found if g is not None]))
    near(slopes[0], slopes[1], dtype, times=100)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in ("encoder_decoder", "codebooks")])
@torch.no_grad()
def test_other_forms(kind, dtype, originals):
    model, exact = originals(kind, dtype)
    x, forms = ids(model), [rotate_stream(model)]
    forms += [fold_ln(model)] if model.cfg.normalization_type in ("LN", "RMS") else []
    forms += (
        [] if model.cfg.attention == "linear" else [sharpened(model, model.cfg.attn_log_n or model.cfg.n_ctx)]
    )
    for form in forms:
        assert {weight.dtype for weight in form.parameters()} == {dtype} == {form.cfg.dtype}
        near(form(x), exact(x), dtype, times=120)
        again = type(form)(form.cfg).eval()
        again.load_state_dict(form.state_dict())
        assert torch.equal(again(x), form(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in ("encoder_decoder", "codebooks")])
def test_reruns(kind, dtype, originals):
    model, _ = originals(kind, dtype)
    x = ids(model, rows=6)
    rerun = model.rerun(x, read=(-1,))
    at = torch.tensor([1])
    donor = torch.zeros(6, 1, x.shape[1], model.cfg.d_model, dtype=dtype)
    found = rerun.outputs(rerun.enter_stream(1, "resid_pre", at, donor))
    edited = run(model, x, edits=[scale(Site.at("blocks.1.hook_resid_pre", position=1), 0.0)], read=(-1,))
    near(found[0] if found is not None else rerun.intact, edited, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "kind", ["causal", "rotary", "alibi", "sharper", "layernorm", "tied", "encoder_decoder"]
)
def test_generation(kind, dtype, originals):
    model, _ = originals(kind, dtype)
    prompt = ids(model, rows=6)[:, :4]
    written = generate(model, prompt, 3)
    outputs = model(torch.cat((prompt, written), 1))[:, -4:-1]
    chosen = outputs.gather(-1, written[..., None])[..., 0]
    assert (outputs.amax(-1) - chosen <= 8 * EPS[dtype] * outputs.abs().amax()).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_copies_and_files(kind, dtype, originals):
    model, _ = originals(kind, dtype)
    x, (file := io.BytesIO()).name = ids(model), "weights"
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = type(model)(type(model.cfg).from_json(json.loads(json.dumps(model.cfg.to_json())))).eval()
    loaded.load_state_dict(torch.load(file))
    for other in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.cfg == replace(model.cfg)
        assert other.cfg.dtype == dtype
        assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_the_config_follows_the_weights(kind):
    model = build(kind)
    for change, dtype in (
        (lambda m: m.double(), torch.float64),
        (lambda m: m.half(), torch.float16),
        (lambda m: m.bfloat16(), torch.bfloat16),
        (lambda m: m.to(torch.float64), torch.float64),
        (lambda m: m.to("cpu", torch.float16), torch.float16),
        (lambda m: m.to(torch.zeros(1, dtype=torch.float32)), torch.float32),
        (lambda m: m.to("meta"), torch.float32),
    ):
        assert change(model) is model
        assert model.W_E.dtype == dtype
        for module in model.modules():
            cfg = getattr(module, "cfg", model.cfg)
            assert (cfg.dtype, cfg.device) == (dtype, str(model.W_E.device))


def test_weights_assigned_in_another_dtype_change_the_config():
    model = build("causal")
    model.load_state_dict(build("causal", torch.float64).state_dict(), assign=True)
    assert model.cfg.dtype == torch.float64


@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_another_default_dtype_changes_nothing(kind):
    for dtype in (torch.float32, torch.float64):
        plain = build(kind, dtype)
        x = ids(plain)
        made = [plain]
        if kind not in ("encoder_decoder", "codebooks"):
            made.append(rotate_stream(plain))
        expected = [model(x) for model in made]
        for default in (torch.float16, torch.bfloat16, torch.float64):
            with default_dtype(default):
                other = build(kind, dtype)
                found = [other] if len(made) == 1 else [other, rotate_stream(other)]
                for model, outputs in zip(found, expected):
                    assert {weight.dtype for weight in model.state_dict().values()} == {dtype}
                    assert torch.equal(model(x), outputs)
                    near(
                        run(model, x, edits=[scale(Site.at("blocks.0.hook_resid_pre"), 1.0)]), outputs, dtype
                    )
            for name, weight in plain.state_dict().items():
                assert torch.equal(weight, other.state_dict()[name])


def test_networks_of_one_config_have_configs_of_their_own():
    cfg = TransformerConfig(**BASE)
    one, other = HookedTransformer(cfg), HookedTransformer(cfg)
    one.half().set_use_attn_result(True)
    for each in (cfg, other.cfg, other.blocks[0].cfg):
        assert (each.dtype, each.use_attn_result) == (torch.float64, False)
    assert all(module.cfg is one.cfg for module in one.modules() if hasattr(module, "cfg"))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind", ["LN", "LNPre", "RMS", "RMSPre"])
@pytest.mark.parametrize("size", [1e-3, 1, 300, 1e4])
def test_norms_of_half_precision_neither_overflow_nor_underflow(kind, size, dtype):
    norm = build("causal", normalization_type=kind).blocks[0].ln1.to(dtype)
    assert isinstance(norm, Normalisation)
    x = (size * torch.randn(5, 3, 12, generator=torch.Generator().manual_seed(0))).to(dtype)
    x.requires_grad_()
    exact = copy.deepcopy(norm).double()
    for found in (norm(x), norm.without_hooks(x)):
        assert found.dtype == dtype
        near(found, exact(x.double()), dtype, times=1)
    slope = torch.autograd.grad(norm(x).double().square().sum().sqrt(), x)[0]
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [0.0, 1e-4, 1.0, 1e4])
def test_codes_of_vectors_of_any_length(size, dtype):
    book = build("codebooks", dtype).blocks[0].codebook_attn
    with torch.no_grad():
        book.codes[0] = 0
    x = size * torch.randn(4, 3, 12, generator=torch.Generator().manual_seed(0))
    x = x.to(dtype).requires_grad_()
    alike = book.similarity(x)
    near(alike, F.normalize(x.double(), dim=-1) @ F.normalize(book.codes.double(), dim=-1).T, dtype, times=4)
    assert not alike[..., 0].any()
    slope = torch.autograd.grad(book(x).double().square().sum(), [x, book.codes])
    assert all(torch.isfinite(g).all() and g.abs().max() < 1e6 for g in slope)


def test_losses_of_half_precision_do_not_overflow():
    model = build("causal", torch.float16)
    x = torch.randint(4, (20000, 5), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(x).bool()
    real[0, 0] = False
    loss = model(x, "loss", attention_mask=real)
    near(loss, copy.deepcopy(model).double()(x, "loss", attention_mask=real), torch.float16)


@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64], ids=str)
def test_vectors_and_streams_of_another_precision_are_taken(given):
    model = build("vectors", torch.float32)
    x = inputs(model)
    torch.testing.assert_close(model(x.to(given)), model(x), rtol=1e-2, atol=1e-2)
    stream = model(x, stop_at_layer=1)
    torch.testing.assert_close(model(stream.to(given), start_at_layer=1), model(x), rtol=1e-2, atol=1e-2)
