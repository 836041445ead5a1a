"""Words of a language as a task: right answers, splits that share no word, scores that know the ceiling."""

import itertools
import re

import pytest
import torch

from mechinterp.automata import CLASSES
from mechinterp.tasks import RegexLanguage
from mechinterp.tasks.regex_language import SPLITS

TASK = RegexLanguage(pattern="a*b*", n_samples=600, max_len=8)


def texts(task, batch):
    return ["".join(task.dfa.alphabet[i] for i in row if i < task.end) for row in batch.inputs.tolist()]


def answering(task, batch, kinds, following):
    """Outputs that answer as told."""
    outputs = torch.zeros(*batch.inputs.shape, task.d_vocab)
    outputs[..., task.class_columns].scatter_(-1, kinds[..., None], 20.0)
    outputs[..., task.next_columns].scatter_(-1, following.clamp(max=task.end)[..., None], 20.0)
    return outputs


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_words_are_labelled_as_the_language_says(split):
    batch = TASK.dataset(split)
    for text, row in zip(texts(TASK, batch), batch.variables["class"].tolist()):
        assert (row[len(text)] == CLASSES.index("accept")) == bool(re.fullmatch("a*b*", text))


def test_no_word_is_in_two_splits_and_sizes_are_near_what_was_asked():
    words = {split: set(texts(TASK, TASK.dataset(split))) for split in ("train", "val", "test")}
    assert not (words["train"] & words["val"] | words["train"] & words["test"] | words["val"] & words["test"])
    sizes = [len(TASK.dataset(split)) for split in words]
    assert sum(sizes) == 600
    assert sizes[0] > 0.7 * 600
    assert any("600 samples" in note for note in TASK.notes)


@pytest.mark.parametrize("seed", range(5))
def test_of_a_class_with_one_word_a_length_no_neighbours_are_held_out(seed):
    task = RegexLanguage(pattern="a+", seed=seed)
    accepted = {
        split: {text for text in texts(task, task.dataset(split)) if "b" not in text} for split in SPLITS
    }
    held_out = sorted(len(text) for split in ("val", "test") for text in accepted[split])
    assert all(accepted.values())
    assert len(held_out) <= 6
    assert min(b - a for a, b in itertools.pairwise(held_out)) > 1


def test_a_single_accepted_word_trains():
    task = RegexLanguage(pattern="ab", n_samples=400, max_len=8)
    assert "ab" in texts(task, task.dataset("train"))
    assert any("accept" in note for note in task.notes)


def test_targets_are_the_symbol_to_come_and_the_class_so_far():
    batch = TASK.words("aab", "ba")
    assert batch.inputs.tolist() == [[2, 0, 0, 1], [2, 1, 0, 3]]
    assert batch.targets[..., 0].tolist() == [[0, 0, 1, 2], [1, 0, 2, 3]]
    assert [CLASSES[kind] for kind in batch.targets[1, :3, 1]] == ["accept", "accept", "reject"]
    assert batch.mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert batch.variables["state"].shape == batch.variables["symbol"].shape == (2, 4)


def test_scores_of_the_best_answers_and_of_wrong_ones():
    batch = TASK.batch(TASK.mixture.draw(4000, seed=1)[0])
    best, kinds = TASK.next_symbol(batch).argmax(-1), batch.targets[..., 1]
    measures = TASK.measures(answering(TASK, batch, kinds, best), batch)
    assert measures["class_acc"] == measures["string_acc"] == measures["token_share"] == 1.0
    assert measures["token_acc"] == pytest.approx(measures["token_ceiling"], abs=0.02)
    worst = TASK.next_symbol(batch).argmin(-1)
    wrong = TASK.measures(answering(TASK, batch, (kinds + 1) % 3, worst), batch)
    assert wrong["class_acc"] == wrong["string_acc"] == 0.0
    assert wrong["token_share"] < 0.8
    only = answering(TASK, batch, torch.full_like(kinds, int(kinds[batch.mask].mode()[0])), best)
    share = (kinds == only[..., TASK.class_columns].argmax(-1))[batch.mask].double().mean()
    assert TASK.score(only, batch) == pytest.approx(float(share))


def test_padding_counts_neither_in_loss_nor_in_score():
    batch = TASK.words("ab", "aabbab")
    outputs = torch.randn(2, 7, TASK.d_vocab, generator=torch.Generator().manual_seed(0))
    other = torch.where(batch.mask[..., None], outputs, 100.0)
    assert TASK.loss(outputs, batch) == TASK.loss(other, batch)
    assert TASK.measures(outputs, batch) == TASK.measures(other, batch)


def test_beyond_the_longest_word_only_the_end_can_come():
    odds = TASK.next_symbol(TASK.words("a" * 12))
    assert odds[0, 9:, TASK.end].tolist() == [1.0] * 4
    torch.testing.assert_close(odds.sum(-1), torch.ones(1, 13, dtype=odds.dtype))


def test_lambda_class_weighs_the_class():
    batch = TASK.dataset("val")
    outputs = torch.randn(*batch.inputs.shape, TASK.d_vocab, generator=torch.Generator().manual_seed(1))
    losses = [
        RegexLanguage(pattern="a*b*", n_samples=600, max_len=8, lambda_class=x) for x in (0.0, 1.0, 2.0)
    ]
    nothing, once, twice = (task.loss(outputs, batch).item() for task in losses)
    assert twice - once == pytest.approx(once - nothing, rel=1e-4)


def test_train_classes_leave_the_other_splits_alone():
    task = RegexLanguage(pattern="a*b*", n_samples=600, max_len=8, train_classes=("accept",))
    last = {split: texts(task, task.dataset(split)) for split in ("train", "test")}
    assert all(re.fullmatch("a*b*", text) for text in last["train"])
    assert not all(re.fullmatch("a*b*", text) for text in last["test"])
    assert task.dataset("test").inputs.equal(TASK.dataset("test").inputs)


def test_json_gives_the_same_words():
    again = RegexLanguage.from_json(TASK.to_json() | {"p_class": [1.0, 1.0, 1.0]})
    assert again == TASK
    assert again.dataset("test").inputs.equal(TASK.dataset("test").inputs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pattern": "a(?=b)"}, "lookaround"),
        ({"pattern": "a+c"}, "alphabet 'ab', got 'c'"),
        ({"pattern": "a(", }, "Python's syntax"),
        ({"alphabet": "aab"}, "different characters"),
        ({"pattern": "a[^ab]"}, "no word that is accepted"),
        ({"min_len": 9, "max_len": 3}, "min_len <= max_len"),
        ({"n_samples": 3}, "words in every split"),
        ({"n_samples": 0}, "n_samples >= 1"),
        ({"min_len": 0, "max_len": 0}, "max_len >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"pattern": "s3"}, "machine of .* mind the case"),
        ({"pattern": "a{1,99999999}"}, "at most 8192 places"),
        ({"p_class": (float("nan"), 1.0, 1.0)}, "none negative"),
        ({"lambda_class": float("nan")}, "lambda_class >= 0"),
        ({"train_classes": ()}, "at least one, got"),
        ({"max_len": 1100, "n_samples": 100}, "rarer than 1e-290"),
        ({"train_classes": ("right",)}, "train_classes among"),
        ({"split": (0.5, 0.5, 0.5)}, "add up to 1"),
        ({"lambda_class": -1.0}, "lambda_class >= 0"),
        ({"pattern": "(a|b)*a(a|b){20}"}, "at most 4096 states"),
    ],
)  # fmt: skip
def test_wrong_tasks_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RegexLanguage(**fields)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="expected a split"):
        TASK.dataset("dev")
