"""Every kind of trial: of each tool, what is no effect, and what is one."""

from __future__ import annotations

from functools import partial
from typing import Any

import addition_trials as addition
import automaton_trials as automata
import code_trials as codes
import in_context_trials as in_context
import leak_trials as leaking
import reading_trials as reading
import sweep_trials as sweeps
from trial import Case, Trial

PATCHING, PATHS, ABLATION = "activation_patching", "path_patching", "ablation"
PAIRS, DIRECTIONS, MATCH = "pairwise_ablation", "erase_directions", "match_score"
SCORES, RIDGE, FOURIER = "attention_scores", "ridge probe", "Fourier probe"
ERASURE, CKA, TURNED = "erasure_effect", "similarity, CKA", "similarity, Procrustes"
TRANSITIONS, SWAP = "compare_transitions", "state_swap"
COMPONENTS, LOSSES = "component_patching", "component_ablation, loss"
FIRST_ORDER, DIRECT = "attribution_patching", "direct_logit_attribution"
STEP, SIMILARITY = "effective_step", "attention_similarity"
CODES, STEERING, LEAKS = "code_alignment", "code_steering", "leaks"
SPECTRUM, LOGITS, NEURONS = "spectrum", "key_frequencies", "clusters_by_frequency"


def _case(kind: Any, tool: str, what: str, trial: Any, **options: Any) -> Case:
    return Case(tool, what, partial(trial, **options), kind)


_null, _open, _planted = (partial(_case, kind) for kind in ("null", "open", "planted"))

NULLS = {
    "patch_random_answers": _null(PATCHING, "answers drawn at random", sweeps.patch_random_answers),
    "patch_random_pairs": _null(PATCHING, "random pairs, fixed answers", sweeps.patch_random_pairs),
    "patch_without_control": _null(
        f"{PATCHING}, control=False", "answers drawn at random", sweeps.patch_without_control
    ),
    "patch_strangers": _null(PATCHING, "every donor does as much", sweeps.patch_strangers),
    "patch_siblings": _null(PATCHING, "as much good as harm; strangers harm", sweeps.patch_siblings),
    "patch_no_class": _null(
        PATCHING, "two classes, no head brings them", sweeps.patch_two_classes, n_heads=0
    ),
    "patch_copies": _null(
        f"{PATCHING}, control=False", "random answers, each example 4 times", sweeps.patch_copies
    ),
    "ablate_unread_half": _null(ABLATION, "bfloat16, all it does is rounding", sweeps.ablate_unread_half),
    "path_random_answers": _null(PATHS, "answers drawn at random", sweeps.path_random_answers),
    "path_strangers": _null(PATHS, "every donor does as much", sweeps.path_strangers),
    "ablate_random_answers": _null(ABLATION, "answers drawn at random", sweeps.ablate_random_answers),
    "ablate_unread": _null(ABLATION, "all that it does is rounding", sweeps.ablate_unread),
    "component_random_answers": _null(COMPONENTS, "answers drawn at random", sweeps.component_random_answers),
    "component_random_pairs": _null(COMPONENTS, "random pairs, fixed answers", sweeps.component_random_pairs),
    "component_unread": _null(LOSSES, "all that it does is rounding", sweeps.component_unread),
    "attribution_random_answers": _null(
        FIRST_ORDER, "answers drawn at random", sweeps.attribution_random_answers
    ),
    "direct_random": _null(DIRECT, "random network and readout", sweeps.direct_random_readout),
    "pairs_random_answers": _null(PAIRS, "answers drawn at random", sweeps.pairs_random_answers),
    "pairs_that_add_up": _null(PAIRS, "effects add up, to rounding", sweeps.pairs_that_add_up),
    "match_random": _null(MATCH, "variable in random order", reading.match_random),
    "probe_random": _null(RIDGE, "labels drawn at random", reading.probe_random),
    "probe_pooled": _null(f"{RIDGE}, pool=True", "labels drawn at random", reading.probe_random, pool=True),
    "fourier_random": _null(FOURIER, "residues drawn at random", reading.fourier_random),
    "fourier_new_residues": _null(
        f"{FOURIER}, together=", "random vector a residue, held out whole", reading.fourier_new_residues
    ),
    "erase_random": _null(ERASURE, "concept drawn at random", reading.erase_random),
    "erase_everywhere": _null(
        ERASURE, "random concept, three positions", reading.erase_random, site=reading.EVERY
    ),
    "erase_unread": _null(ERASURE, "concept there, not read", reading.erase_planted, read=False),
    "cka_random": _null(CKA, "examples paired at random", reading.similar_random),
    "procrustes_random": _null(
        TURNED, "examples paired at random", reading.similar_random, measure="procrustes"
    ),
    "transitions_random": _null(
        TRANSITIONS, "random matrices, random automata", automata.compare, null="random automata"
    ),
    "transitions_relabelled": _null(
        TRANSITIONS, "random matrices, relabelled states", automata.compare, null="relabelled states"
    ),
    "swap_random": _null(SWAP, "what follows drawn at random", automata.swap),
    "step_random": _null(STEP, "random weights", in_context.step),
    "similarity_of_y": _null(SIMILARITY, "heads that look by y", in_context.similarity),
    "codes_random": _null(CODES, "random network, states of other sequences", codes.aligned),
    "leaks_random": _null(LEAKS, "three views of noise", leaking.leaked),
    "leaks_pairs": _null(LEAKS, "pairs, two views that differ in sign alone", leaking.leaked_pairs),
    "steering_random": _null(STEERING, "hand-built network, states of other sequences", codes.steered),
}
OPEN = {
    "spectrum_random": _open(f"{SPECTRUM}, a band a value", "independent entries", reading.spectrum_trial),
    "fourier_copies": _open(
        FOURIER,
        "random vector a residue, copies dealt out singly",
        reading.fourier_new_residues,
        together=False,
    ),
    "headline": _open(f"{PATCHING}, interval", "answers drawn at random", sweeps.headline),
    "scores_random": _open(f"{SCORES}, intervals", "random network", reading.scores_random),
    "ablate_first_two": _open(f"{ABLATION}, zero", "random network, fixed answers", sweeps.ablate_first_two),
    "pairs_first_two": _open(PAIRS, "random network, fixed answers", sweeps.pairs_first_two),
    "match_of_token": _open(
        MATCH, "random network, variable of the token", reading.match_random, of_token=True
    ),
    "untrained_logits": _open(LOGITS, "random network", addition.untrained_logits),
    "untrained_neurons": _open(NEURONS, "random network", addition.untrained_neurons),
}
PLANTED = {
    "patch_16": _planted(PATCHING, "2 of 8 heads, 16 examples", sweeps.patch_planted),
    "patch_40": _planted(PATCHING, "the same, 40 examples", sweeps.patch_planted, n=40),
    "patch_two_classes": _planted(
        PATCHING, "2 of 8 heads, two classes, 40 examples", sweeps.patch_two_classes
    ),
    "patch_half": _planted(PATCHING, "2 of 8 heads, bfloat16, 40 examples", sweeps.patch_half_precision),
    "path_16": _planted(PATHS, "1 of 32 paths, 16 examples", sweeps.path_planted),
    "path_40": _planted(PATHS, "the same, 40 examples", sweeps.path_planted, n=40),
    "ablate_16": _planted(ABLATION, "2 of 8 heads, 16 examples", sweeps.ablate_planted),
    "ablate_40": _planted(ABLATION, "the same, 40 examples", sweeps.ablate_planted, n=40),
    "component_16": _planted(COMPONENTS, "2 of 8 heads, 16 examples", sweeps.component_planted),
    "component_40": _planted(COMPONENTS, "the same, 40 examples", sweeps.component_planted, n=40),
    "component_loss": _planted(LOSSES, "2 of 8 heads, others write nothing", sweeps.component_loss_planted),
    "pairs": _planted(PAIRS, "2 of 4 heads stand in for each other", sweeps.pairs_planted),
    "directions_16": _planted(DIRECTIONS, "1 of 5 directions, 16 examples", sweeps.directions_planted),
    "directions_40": _planted(DIRECTIONS, "the same, 40 examples", sweeps.directions_planted, n=40),
    "match": _planted(MATCH, "1 of 8 heads, 0.1 nats", reading.match_planted, sharpness=0.1),
    "scores": _planted(SCORES, "1 of 8 heads, 2 nats", reading.scores_planted),
    "probe": _planted(RIDGE, "2 of 6 cells", reading.probe_planted, strength=0.5),
    "fourier": _planted(FOURIER, "1-3 of 6 frequencies in noise", reading.fourier_planted),
    "fourier_addition": _planted(FOURIER, "hand-built network", addition.stream_frequencies),
    "erase": _planted(ERASURE, "concept that is read", reading.erase_planted),
    "cka": _planted(CKA, "1 of 4 pairs", reading.similar_planted, strength=0.5),
    "cka_9": _planted(CKA, "1 of 9 pairs, stronger", reading.similar_planted, strength=2.0, layers=3),
    "procrustes": _planted(TURNED, "1 of 4 pairs", reading.similar_planted, measure="procrustes"),
    "spectrum": _planted(SPECTRUM, "1 of 8 directions", reading.spectrum_trial, strength=2.0),
    "logits": _planted(LOGITS, "hand-built network, blurred", addition.logit_frequencies),
    "neurons": _planted(NEURONS, "hand-built network, blurred", addition.neuron_frequencies, noise=0.3),
    "transitions": _planted(
        TRANSITIONS,
        "2 of 3 heads, noise of deviation 0.5",
        automata.compare,
        null="random automata",
        noise=0.5,
    ),
    "swap": _planted(SWAP, "directions that the readout reads", automata.swap, strength=6.0),
    "step": _planted(STEP, "best step, noise of .1 of its largest weight", in_context.step, noise=0.1),
    "similarity": _planted(SIMILARITY, "1 of 4 heads, beside y", in_context.similarity, strength=2.0),
    "codes": _planted(CODES, "hand-built network, 2 of 3 sequences wrong", codes.aligned, right=0.33),
    "leaks": _planted(LEAKS, "1 of 3 views", leaking.leaked, strength=1.0),
    "steering": _planted(STEERING, "hand-built network, 1 of 2 sites", codes.steered, right=1.0),
    "groups": _planted(PATCHING, "hand-built network, groups of neurons", addition.groups_patched),
}


def trials(name: str, n: int) -> list[Trial]:
    """The first n trials of a case."""
    return (NULLS | OPEN | PLANTED)[name].run(range(n))
