"""Edits and caches belong to a call, also where several threads call one network."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.metrics import margin
from mechinterp.hooks import Site, run, run_with_cache, turn, zero
from mechinterp.models import Decoder, HookedEncoderDecoder, HookedTransformer, TransformerConfig, generate
from mechinterp.models.config import EncoderDecoderConfig

SIZES = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 64, "n_ctx": 12, "d_vocab": 11}
HOOK = "blocks.1.attn.hook_z"
TOKENS = torch.randint(11, (32, 8), generator=torch.Generator().manual_seed(0))


def network(kind="ours"):
    if kind == "two stacks":
        return HookedEncoderDecoder(EncoderDecoderConfig(**SIZES, n_ctx_source=4)).eval()
    return HookedTransformer(TransformerConfig(**SIZES)).eval()


def edit(head):
    return [zero(Site.at(HOOK, head=head))]


def hooked(model, head):
    def zeroed(z, hook):
        z = z.clone()
        z[:, :, head] = 0
        return z

    return model.run_with_hooks(TOKENS, fwd_hooks=[(HOOK, zeroed)])


def swept(model, fast):
    found = ablation(model, TOKENS, margin(TOKENS[:, 0]), reference="zero", fast=fast)
    return torch.as_tensor(found.values.values)


CALLS = {
    "run": lambda model, i: run(model, TOKENS, edits=edit(i)),
    "run_with_cache": lambda model, i: run_with_cache(model, TOKENS, edits=edit(i), names=HOOK)[1][HOOK],
    "run_with_hooks": hooked,
    "cache of TransformerLens": lambda model, i: model.run_with_cache(TOKENS)[1][HOOK],
    "forward": lambda model, i: model(TOKENS),
    "forward at a position": lambda model, i: model(TOKENS, read=(-1,)),
    "generate": lambda model, i: generate(model, TOKENS, 3),
    "fast sweep": lambda model, i: swept(model, True),
    "whole passes": lambda model, i: swept(model, False),
}


@pytest.mark.parametrize("kind", ["ours", "two stacks"])
@pytest.mark.parametrize("name", CALLS)
def test_threads_that_edit_one_network_do_not_meet(name, kind):
    model, call = network(kind), CALLS[name]
    wanted, loudest = [call(model, i) for i in range(4)], CALLS["run"]
    failed, alone = [], loudest(model, 0)

    def work(i):
        for _ in range(3):
            failed.append(not torch.allclose(call(model, i), wanted[i], atol=1e-5))
            failed.append(not torch.allclose(loudest(model, 0), alone, atol=1e-5))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(failed) == 24
    assert not any(failed)


def test_a_decoder_takes_turns_with_the_network_it_is_part_of():
    whole = network("two stacks")
    decoder = Decoder(whole, TOKENS[:, :4])
    assert turn(decoder) is turn(whole)
    assert turn(network()) is not turn(network())


def test_a_thread_may_call_a_network_within_a_hook_of_its_own():
    model = network()
    inner = []
    run(model, TOKENS, edits=[zero(Site(HOOK))])
    with model.hooks(fwd_hooks=[(HOOK, lambda z, hook: inner.append(z.shape))]):
        model(TOKENS)
    assert len(inner) == 1


def test_a_failed_call_gives_its_turn_back():
    model, done = network(), threading.Event()
    with pytest.raises(ValueError, match="within"):
        run(model, TOKENS, edits=[zero(Site.at(HOOK, head=9))])
    threading.Thread(target=lambda: (model(TOKENS), done.set())).start()
    assert done.wait(20)


def test_networks_are_freed_though_threads_share_their_locks():
    import gc
    import weakref

    model = network()
    model(TOKENS)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
