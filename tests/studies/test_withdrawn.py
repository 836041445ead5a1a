"""Claims that a counterfeit passes, or that an identity makes true, count nowhere as findings."""

import importlib.util
import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
import torch

from mechinterp import tasks
from mechinterp.analysis.clock_pizza import distance_irrelevance, gradient_symmetricity
from mechinterp.cli import main
from mechinterp.report import report
from mechinterp.result import Claim, Verdict, claims_table
from mechinterp.runs import Run
from mechinterp.studies.modular_addition import Anatomy
from mechinterp.studies.regex_language.anatomy import longer_words
from mechinterp.studies.withdrawn import WITHDRAWN, tally, withdraw

ROOT = Path(__file__).parent.parent.parent
NAMED = {
    "modular-addition": {"neurons_cause_the_answer"},
    "regex-language": {
        "classifies", "states_cause_the_answer", "weights_match_raw", "weights_match_state_basis",
        "shortcut_or_simulation",
    },
    "linear-regression": {
        "sensitivities_match_gd", "attention_is_similarity", "not_ols_at_depth_one",
        "extrapolates_in_context_length", "breaks_under_covariate_shift", "depth_is_more_steps",
    },
    "digit-addition": {"carry_has_its_own_heads"},
    "state-machine": {"belief_geometry", "codes_cause_the_prediction"},
    "text-arithmetic": {"residue_is_circular", "leace_removes_more_than_one_direction"},
    "sortedness": {"random_shuffles_leak"},
}  # fmt: skip
"""Claims of which it was shown that they say more than was measured."""
SOUND = {
    "modular-addition": {"learned", "few_key_frequencies", "embedding_circles"},
    "regex-language": {"predicts_tokens"},
    "linear-regression": {"reaches_one_step_optimum", "weights_are_gradient_step"},
    "digit-addition": {"adds", "heads_prunable_jointly"},
    "state-machine": {"predicts_at_ceiling", "codes_align_with_states"},
    "text-arithmetic": {"sum_learned", "residue_learned"},
    "sortedness": {"all_learn_in_range", "none_causal_extrapolates"},
}
JUDGES = {study: "claims" if study == "modular-addition" else "judge" for study in WITHDRAWN}
SEVERAL = {
    "restricted_and_excluded": ["restricted_sufficient", "excluded_necessary"],
    "weights_match": ["weights_match_raw", "weights_match_state_basis"],
}
"""Functions that make several claims."""
EVERY = [(study, id, reason) for study, reasons in WITHDRAWN.items() for id, reason in reasons.items()]


def claim(id: str, verdict: str = "holds", value: float = 0.5) -> Claim:
    seeds = {"values_by_seed": (0.25, 0.75), "holds_by_seed": (True, True)}
    return Claim(id=id, statement=f"It is so ({id})", value=value, verdict=verdict, **seeds)


class Anything(dict):
    """Results of every name."""

    def __missing__(self, name):
        return None


def judged(monkeypatch, study: str, verdict: str) -> dict[str, Claim]:
    """What a study's claims function returns where each claim comes out with one verdict."""
    room = import_module(f"mechinterp.studies.{study.replace('-', '_')}.claims")
    judge = getattr(room, JUDGES[study])

    def plant(name: str):
        ids = list(SEVERAL.get(name, [name]))
        if name == "weights_match":
            return lambda *_: claim(ids.pop(0), verdict)
        return lambda *_: [claim(id, verdict) for id in ids] if len(ids) > 1 else claim(ids[0], verdict)

    for name in inspect.unwrap(judge).__code__.co_names:
        if hasattr(room, name):
            monkeypatch.setattr(room, name, plant(name))
    given = {"modular-addition": (object.__new__(Anatomy), Anything()), "text-arithmetic": ([], None)}
    given["linear-regression"] = ([], [])
    return {one.id: one for one in judge(*given.get(study, ([],)))}


@pytest.mark.parametrize("verdict", sorted(set(get_args(Verdict)) - {"withdrawn"}))
@pytest.mark.parametrize("study", WITHDRAWN)
def test_whatever_is_measured_they_come_out_withdrawn_and_no_others_do(monkeypatch, study, verdict):
    found, listed = judged(monkeypatch, study, verdict), WITHDRAWN[study]
    assert listed.keys() <= found.keys()
    for id, one in found.items():
        assert (one.value, one.values_by_seed) == (0.5, (0.25, 0.75))
        assert (one.verdict, one.withdrawn) == (("withdrawn", listed[id]) if id in listed else (verdict, ""))


@pytest.mark.parametrize("study", WITHDRAWN)
def test_those_that_were_refuted_are_on_the_list_and_sound_ones_are_not(study):
    assert NAMED[study] <= WITHDRAWN[study].keys()
    assert not SOUND[study] & WITHDRAWN[study].keys()


@pytest.mark.parametrize(("study", "id", "reason"), EVERY)
def test_the_reason_is_one_plain_sentence(study, id, reason):
    assert len(reason.split()) <= 25
    assert reason[0].isupper()
    assert reason.endswith(".")
    assert ". " not in reason
    assert not set("|\n") & set(reason)


@pytest.mark.parametrize(("study", "id", "reason"), EVERY)
def test_the_page_of_results_shows_it_with_its_reason(study, id, reason):
    section = (ROOT / "RESULTS.md").read_text().split(f"\n## {study}\n")[1].split("\n## ")[0]
    assert section.strip().startswith("Written at commit `")
    rows = [line for line in section.splitlines() if line.startswith((f"| `{id}`: ", f"- `{id}`: "))]
    assert len(rows) == 1
    assert f"**withdrawn**: {reason}" in rows[0].replace("**Withdrawn**", "**withdrawn**")
    assert f"(`{id}`): **holds**" not in section
    if study == "regex-language":
        head, *lines = (line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| ")
        assert len(lines) == 10
        assert all(line[head.index(f"`{id}`")].startswith("withdrawn") for line in lines)


@pytest.mark.parametrize("study", WITHDRAWN)
def test_the_front_page_says_so_where_it_tells_findings(study):
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    row = next(row for row in rows if f"`mechinterp study {study}`" in row)
    finding, listed = row.strip("| ").split(" | ")[2:]
    assert {id.strip("`") for id in listed.split(", ")} == WITHDRAWN[study].keys()
    assert not any(id in finding for id in WITHDRAWN[study])


def test_it_is_printed_tabled_reported_and_read_again_with_its_reason():
    reason = "An untrained network passes."
    made = claim("one").withdraw(reason)
    assert str(made).startswith("WITHDRAWN one: It is so")
    assert "holds" not in str(made)
    assert reason in str(made)
    row = claims_table([made]).splitlines()[-1]
    assert f"| **withdrawn**: {reason} |" in row
    assert "0.5; by seed 0.25, 0.75" in row
    assert Claim.from_json(json.loads(json.dumps(made.to_json()))) == made
    page = report("Title", "Summary", [made, claim("two")], [], {})
    assert f'<span class="withdrawn">withdrawn</span><small>{reason}</small>' in page
    assert page.count("2 of 2 seeds") == 1
    assert tally([made, claim("two")]) == ("2 claims 1 hold, 0 fail, 0 are untested and 1 are withdrawn")


def test_claims_saved_before_are_read_and_withdrawn():
    record = claim("belief_geometry").to_json()
    del record["withdrawn"]
    old = Claim.from_json(record)
    assert old == claim("belief_geometry")
    assert withdraw("state-machine", [old])[0].withdrawn == WITHDRAWN["state-machine"]["belief_geometry"]
    assert withdraw("a study of your own", [old]) == [old]


def test_runs_of_before_are_shown_so_and_the_page_says_of_which_commit(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    for study, id, other in (
        ("modular-addition", "clock_or_pizza", "learned"),
        ("regex-language", "classifies", "predicts_tokens"),
    ):
        run = Run.create(
            tmp_path / "runs" / study, {"kind": "study", "study": study, "seed": 0, "pattern": "a+"}
        )
        run.save_claims([claim(id), claim(other)])  # as they were before any was withdrawn
        run.finish({"test_accuracy": 1.0, "steps": 10, "train_seconds": 1.0})
        assert main(["runs", "show", str(run.path)]) == 0
        assert f"WITHDRAWN {id}" in (shown := capsys.readouterr().out)
        assert f"HOLDS    {other}" in shown
        page = tmp_path / "RESULTS.md"
        page.write_text("# Results\n\n## state-machine\n\nWritten at commit `abc`.\n\nkept\n")
        results.main(str(tmp_path / "runs"), str(page))
        section = page.read_text().split(f"\n## {study}\n")[1].split("\n## ")[0]
        assert section.strip().startswith(results.written_at())
        assert WITHDRAWN[study][id] in section
        assert section.lower().count("**withdrawn**") == 1
        assert "holds" in section
        assert "Written at commit `abc`.\n\nkept" in page.read_text()


@pytest.mark.parametrize(("verdict", "reason"), [("withdrawn", ""), ("withdrawn", " "), ("holds", "Why.")])
def test_no_claim_is_withdrawn_without_a_reason(verdict, reason):
    with pytest.raises(ValueError, match="expected a reason"):
        Claim(id="x", statement="y", value=1.0, verdict=verdict, withdrawn=reason)


@pytest.mark.parametrize("pattern", ["a+", "(a|b)+", "ab"])
def test_repeating_the_class_of_the_last_trained_position_passes_for_generalising(pattern):
    task = tasks.RegexLanguage(pattern=pattern)
    batch = longer_words(task, 100)
    kinds = batch.variables["class"]
    frozen = kinds.clone()
    frozen[:, task.max_len :] = kinds[:, task.max_len, None]
    right = float((frozen == kinds)[batch.mask].double().mean())
    assert right >= 0.99
    assert 1 - right <= (1 - task.most_frequent(batch)) / 2


def test_three_tokens_tell_the_state_of_the_machine_with_shared_tokens():
    task = tasks.StateMachine(emission="shared", n_test=10)
    by_position = task.machine.optimum(3).accuracy  # the last of all later positions too
    later = (task.length - len(by_position)) * by_position[-1]
    assert float(by_position.sum() + later) / task.length >= 0.999 * task.ceiling


def test_a_lookup_of_pairs_passes_for_a_clock():
    p, generator = 23, torch.Generator().manual_seed(0)
    a, b = torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij")
    table = torch.nn.functional.one_hot((a + b) % p) + 0.1 * torch.randn(p, p, p, generator=generator)
    numbers = torch.eye(p) + 0.05 * torch.randn(p, p, generator=generator)

    def outputs_of(vectors):
        pairs = (vectors[:, 0, :, None] + vectors[:, 1, None] - 1).relu()  # a neuron a pair
        return torch.einsum("nab, abc -> nc", pairs, table)

    assert distance_irrelevance(table, (a + b) % p) > 0.6
    assert gradient_symmetricity(outputs_of, numbers).mean() < 0.9
