"""Problems as text: every text is read back, answers are right, and what cannot be read is refused."""

import json
from dataclasses import replace

import pytest
import torch

from mechinterp import models
from mechinterp.tasks import TextModular, TextSum
from mechinterp.tasks.texts import PADDING

KINDS = {
    "sum": TextSum(max_operand=99, n_test=200),
    "right": TextSum(max_operand=99, n_test=200, padding_side="right"),
    "fixed": TextSum(max_operand=99, n_test=200, zero_padded=True, template="{y}+{x}="),
    "residue": TextModular(max_operand=99, n_test=200, k=7, frequencies=(1, 3)),
    "circle": TextModular(max_operand=99, n_test=200, k=7, frequencies=(1, 3), readout="circle"),
    "value": TextModular(max_operand=99, n_test=200, k=7, frequencies=(1, 3), readout="value"),
}


def certain(task, batch):
    """The outputs of a network that is always right."""
    if task.classes:
        return torch.nn.functional.one_hot(batch.targets, task.k).float()
    return batch.targets.float()


@pytest.mark.parametrize("name", KINDS)
def test_tokens_are_those_of_the_text(name):
    task = KINDS[name]
    batch = task.dataset("test")
    pairs = zip(batch.variables["x"].tolist(), batch.variables["y"].tolist())
    texts = [task.written(x, y) for x, y in pairs]
    tokens, mask = task.encode(texts)
    assert torch.equal(tokens, batch.inputs)
    assert (mask is None and batch.mask is None) or torch.equal(mask, batch.mask)
    assert [task.text(row) for row in tokens] == texts
    assert batch.variables["length"].tolist() == [len(text) for text in texts]


@pytest.mark.parametrize("name", KINDS)
def test_the_last_character_is_read(name):
    task = KINDS[name]
    batch = task.dataset("test")
    read = batch.read if isinstance(batch.read, torch.Tensor) else torch.full((len(batch), 1), -1)
    last = batch.inputs.gather(1, read % task.n_ctx)
    assert (last == task.characters.index(task.template[-1])).all()


@pytest.mark.parametrize("name", KINDS)
def test_right_answers_score_one_and_others_less(name):
    task = KINDS[name]
    batch = task.dataset("test")
    sure = certain(task, batch)
    assert task.score(sure, batch) == pytest.approx(1.0)
    assert task.score(sure.roll(1, 0), batch) < 0.5
    assert set(task.measures(sure, batch).values()) <= {0.0, 1.0}


def test_variables_are_those_of_the_numbers():
    task = KINDS["residue"]
    found = task.batch(torch.tensor([7, 95]), torch.tensor([5, 9])).variables
    assert found["sum"].tolist() == [12, 104]
    assert found["residue"].tolist() == [5, 6]
    assert found["x_digits"].tolist() == [[7, 0], [5, 9]]
    assert found["carries"].long().tolist() == [[1, 0], [1, 1]]
    assert found["sum_digits"].tolist() == [[2, 1, 0], [4, 0, 1]]


def test_the_most_frequent_residue_is_the_trivial_answer():
    task = KINDS["residue"]
    x, y = torch.cartesian_prod(torch.arange(100), torch.arange(100)).unbind(1)
    assert task.trivial == pytest.approx((((x + y) % 7).bincount().max() / 10_000).item())


@pytest.mark.parametrize("name", KINDS)
def test_held_out_problems_are_never_trained_on(name):
    task = KINDS[name]
    generator = torch.Generator().manual_seed(0)

    def problems(batch):
        return set(zip(batch.variables["x"].tolist(), batch.variables["y"].tolist()))

    drawn = set().union(*(problems(task.sample(500, generator)) for _ in range(20)))
    kept = {split: problems(task.dataset(split)) for split in ("train", "val", "test")}
    assert not (drawn | kept["train"]) & (kept["val"] | kept["test"])
    assert not kept["val"] & kept["test"]
    assert len(kept["test"]) == 200


def test_so_many_fixed_problems_train():
    task = TextSum(max_operand=99, n_train=30)
    batch = task.sample(500, torch.Generator().manual_seed(0))
    assert len(set(zip(batch.variables["x"].tolist(), batch.variables["y"].tolist()))) == 30


@pytest.mark.parametrize("name", ["sum", "residue", "fixed"])
def test_a_file_is_read_as_it_was_written(name, tmp_path):
    task, path = KINDS[name], tmp_path / "problems.tsv"
    pairs = torch.randint(100, (400, 2), generator=torch.Generator().manual_seed(1))
    task.write(path, pairs)
    assert torch.equal(task.pairs_of(path), pairs)
    first = path.read_text().splitlines()[0].split("\t")
    assert first == [task.written(*pairs[0].tolist()), str(int(task.answer(pairs[:1].sum(1))))]


def test_training_and_test_problems_can_come_from_a_file(tmp_path):
    path = tmp_path / "problems.tsv"
    pairs = torch.randint(100, (400, 2), generator=torch.Generator().manual_seed(1))
    KINDS["sum"].write(path, pairs)
    task, given = TextSum(max_operand=99, file=str(path)), set(map(tuple, pairs.tolist()))
    batches = [task.sample(64, torch.Generator().manual_seed(0))]
    batches += [task.dataset(split) for split in ("train", "val", "test")]
    for batch in batches:
        assert set(zip(batch.variables["x"].tolist(), batch.variables["y"].tolist())) <= given


def test_lines_that_are_no_problems_are_named(tmp_path):
    path = tmp_path / "problems.tsv"
    path.write_text("1 + 2 = ?\t3\nnonsense\n1 + 2 = ?\t4\n100 + 2 = ?\t102\n1 + 2 = ?\n")
    with pytest.raises(
        ValueError, match=r"line 2.*line 3.*answer '4', expected 3.*line 4.*max_operand.*line 5"
    ):
        KINDS["sum"].pairs_of(path)


def test_a_number_written_otherwise_is_named_and_a_file_is_read_when_the_task_is_made(tmp_path):
    path = tmp_path / "problems.tsv"
    path.write_text("1 + 02 = ?\t3\n")
    with pytest.raises(ValueError, match=r"line 1.*written '1 [+] 2 = [?]'"):
        TextSum(max_operand=99, file=str(path))


def test_the_order_of_a_file_tells_nothing_of_its_splits(tmp_path):
    path, x = tmp_path / "problems.tsv", torch.arange(100).repeat_interleave(4)
    KINDS["sum"].write(path, torch.stack((x, torch.arange(400) % 7), 1))
    task = TextSum(max_operand=99, file=str(path), n_train=40)
    assert task.sample(500, torch.Generator()).variables["x"].max() > 80


def test_exports_with_a_mark_other_line_ends_and_blank_last_lines_are_read(tmp_path):
    path = tmp_path / "problems.tsv"
    path.write_bytes("\ufeff1 + 2 = ?\t3\r\n4 + 5 = ?\t9\r\n\r\n".encode())
    assert KINDS["sum"].pairs_of(path).tolist() == [[1, 2], [4, 5]]


def test_a_file_that_has_changed_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = torch.randint(100, (400, 2), generator=torch.Generator().manual_seed(1))
    KINDS["sum"].write("problems.tsv", pairs)
    record = TextSum(max_operand=99, file="problems.tsv").to_json()
    monkeypatch.chdir("/")
    assert TextSum.from_json(record).file == str(tmp_path / "problems.tsv")
    KINDS["sum"].write(tmp_path / "problems.tsv", pairs[:300])
    with pytest.raises(ValueError, match="other content"):
        TextSum.from_json(record)
    with pytest.raises(ValueError, match="expected a file of problems"):
        TextSum(max_operand=99, file=str(tmp_path / "none.tsv"))


def test_numbers_that_cannot_be_read_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="0 to 99"):
        KINDS["sum"].write(tmp_path / "problems.tsv", torch.tensor([[100, 7]]))


def test_sums_are_divided_by_what_their_numbers_come_to():
    assert (TextSum().unit, TextSum(max_operand=60).unit) == (2000.0, 122.0)
    assert (replace(TextSum(), max_operand=60).unit, TextSum(scale=7.0).unit) == (122.0, 7.0)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "problems.tsv").write_text("")
    with pytest.raises(ValueError, match="got none"):
        KINDS["sum"].pairs_of(tmp_path / "problems.tsv")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "at least one"),
        ("1 + 2 = ?", "in brackets"),
        ([""], "1 to 11 of the characters"),
        (["1 - 2 = ?"], "with \\['-'\\]"),
        (["100000 + 2 = ?"], "larger numbers"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        KINDS["sum"].encode(texts)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (TextSum, {"max_operand": 0}, "max_operand"),
        (TextSum, {"template": "{x} + 3"}, "template"),
        (TextSum, {"template": "{x}{y}="}, "something between"),
        (TextSum, {"padding_side": "middle"}, "padding_side"),
        (TextSum, {"held_out": 0.0}, "held_out"),
        (TextSum, {"scale": 0.0}, "scale"),
        (TextSum, {"n_train": 0}, "n_train"),
        (TextModular, {"k": 1}, "modulus"),
        (TextModular, {"readout": "tokens"}, "readout"),
        (TextModular, {"k": 7, "frequencies": (1, 4)}, "of 1 to 3"),
        (TextModular, {"k": 20, "frequencies": (2, 4)}, "no divisor in common"),
        (TextSum, {"template": "{x} + {y} {z}"}, "braces"),
        (TextSum, {"max_operand": 9, "n_train": 1000}, "lower n_train"),
    ],
)
def test_what_cannot_be_is_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


@pytest.mark.parametrize("k", [2, 3, 7, 10, 97])
def test_points_of_every_modulus_tell_all_residues_apart(k):
    task = TextModular(k=k, readout="circle")
    assert torch.equal(task.residues(task.circles[:, None])[:, 0], torch.arange(k))
    assert TextModular.from_json(json.loads(json.dumps(task.to_json()))) == task


@pytest.mark.parametrize("split", ["val", "test"])
def test_no_held_out_problem_is_there_twice_not_even_swapped(split):
    found = TextSum(max_operand=60).dataset(split).variables
    pairs = torch.stack((torch.minimum(found["x"], found["y"]), torch.maximum(found["x"], found["y"])), 1)
    assert len(pairs.unique(dim=0)) == len(pairs)


def test_nothing_to_train_on_is_refused():
    task = TextSum(max_operand=1, held_out=0.95, seed=1)
    with pytest.raises(ValueError, match="lower held_out"):
        task.sample(4, torch.Generator())


def test_r2_of_one_answer_is_undefined():
    task = KINDS["sum"]
    batch = task.batch(torch.tensor([1, 2]), torch.tensor([2, 1]))
    with pytest.raises(ValueError, match="undefined"):
        task.score(certain(task, batch), batch)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="0 to 99"):
        KINDS["sum"].batch(torch.tensor([100]), torch.tensor([1]))


@pytest.mark.parametrize("decoder_only", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_padding_changes_no_answer(name, decoder_only):
    task = KINDS[name]
    small = {"d_model": 16, "d_mlp": 32, "positional_embedding_type": "none"}
    model = models.text_arithmetic(task, decoder_only, **small).eval()
    batch = task.dataset("test")
    together = task.answers(model, batch)
    for row in range(5):
        own = batch.inputs[row : row + 1]
        alone = model(own[own != PADDING][None], read=(-1,))
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)


def test_letters_of_a_template_are_no_numbers():
    task = TextSum(max_operand=9, template="{x}x{y}=")
    tokens, mask = task.encode([task.written(3, 4)])
    assert mask is None
    assert torch.equal(task.batch(torch.tensor([3]), torch.tensor([4])).inputs, tokens)


def test_what_measures_training_was_trained_on(tmp_path):
    path = tmp_path / "problems.tsv"
    TextSum(max_operand=99).write(path, torch.cartesian_prod(torch.arange(20), torch.arange(20)))
    task = TextSum(max_operand=99, file=str(path), n_train=40)
    given = set(map(tuple, task.sample(2000, torch.Generator().manual_seed(0)).inputs.tolist()))
    measured = set(map(tuple, task.dataset("train").inputs.tolist()))
    assert len(given) == 40
    assert measured <= given
