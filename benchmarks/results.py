"""Write RESULTS.md from the run folders of the full-size studies: no number is typed by hand."""

from __future__ import annotations

import statistics
import subprocess
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

from mechinterp.formatting import format_number
from mechinterp.result import Claim, claims_table
from mechinterp.runs import Run, list_runs
from mechinterp.studies.withdrawn import withdraw

HEAD = """# Results

Written by `make studies` from the runs themselves. A row is a claim: in how many seeds it holds, its value
(the mean over seeds, or where seeds are studies of their own, as with modular addition, the median and the
range), and that of the same measure under the control. *Untested* means that the network had not learned its
task, or that there was nothing to ask about. Where seeds are studies of their own, numbers within a sentence
are those of the first.

*Withdrawn* means that the number stays and the finding does not: something that lacks what the sentence says
passes the claim too, or an identity makes it true, or its measure is wrong. The reason stands beside it. Such
claims will be made again by other measures.

Each section names the commit at which it was written. Code that came later was not run for it.
"""


def claims_of(run: Run) -> list[Claim]:
    """The claims of a study's run; those that were withdrawn since it ran are marked."""
    return withdraw(run.config["study"], run.claims)


def written_at() -> str:
    """The line that says at which commit a section is written; it says so where there is none."""

    def git(*words: str) -> str:
        root = Path(__file__).parent.parent
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout

    try:
        commit, date = git("log", "-1", "--format=%h %cs").split()
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/mechinterp", ":/benchmarks")
    except (OSError, subprocess.CalledProcessError, ValueError):
        return "Written outside of a git repository, so that no commit is known."
    return f"Written at commit `{commit}` ({date})" + (", with changes that it has not." if changed else ".")


def table(runs: list[Run]) -> str:
    """The claims of one study's runs, one row a claim."""
    by_claim: dict[str, list[Claim]] = defaultdict(list)
    for run in runs:
        for claim in claims_of(run):
            by_claim[claim.id].append(claim)
    rows = ["| claim | verdict | value | trivial | control |", "|---|---|---|---|---|"]
    for id, claims in by_claim.items():
        verdicts = Counter(claim.verdict for claim in claims)
        said = ", ".join(f"{verdict} {count}/{len(claims)}" for verdict, count in verdicts.items())
        if claims[0].withdrawn:
            said = f"**withdrawn**: {claims[0].withdrawn}"
        control = f"{middle([c.control for c in claims])} ({claims[0].control_kind})"
        rows.append(
            f"| `{id}`: {claims[0].statement} | {said} | {spread([c.value for c in claims])} | "
            f"{middle([c.trivial for c in claims])} | {control} |"
        )
    return "\n".join(rows)


def middle(values: list[float | None]) -> str:
    """The median of what was measured."""
    known = [value for value in values if value is not None]
    return format_number(statistics.median(known)) if known else "–"


def spread(values: list[float | None]) -> str:
    """The median, and the range where there are several."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return middle(values)
    return f"{middle(values)} ({format_number(min(known))} to {format_number(max(known))})"


def by_language(runs: list[Run]) -> str:
    """One row a language, one column a claim: the mean over seeds, its control, and the verdict."""
    ordered = sorted(runs, key=lambda run: run.path.name)
    tables = {run.config["pattern"]: {claim.id: claim for claim in claims_of(run)} for run in ordered}
    ids = list(next(iter(tables.values())))
    head = [
        "Each cell: the verdict, in how many of the seeds that could be asked it holds, the mean over those "
        "seeds, and in brackets that of the control.\n",
        "| language | " + " | ".join(f"`{id}`" for id in ids) + " |",
        "|---" * (len(ids) + 1) + "|",
    ]
    rows = []
    for pattern, claims in tables.items():
        name = pattern.replace("|", "\\|")
        rows.append(f"| `{name}` | " + " | ".join(map(cell, claims.values())) + " |")
    sentences = [
        f"- `{id}`: {claim.statement}" + (f" **Withdrawn**: {claim.withdrawn}" if claim.withdrawn else "")
        for id, claim in next(iter(tables.values())).items()
    ]
    controls = {f"`{claim.id}`: {claim.control_kind}" for claim in next(iter(tables.values())).values()}
    said = "\nThe claims, in the words of the first language:\n\n" + "\n".join(sentences)
    return "\n".join([*head, *rows, said, f"\nControls: {'; '.join(sorted(controls))}."])


def cell(claim: Claim) -> str:
    """A claim in few characters."""
    if claim.value is None:
        return claim.verdict
    seeds = f", {claim.seeds}" if claim.seeds else ""
    return f"{claim.verdict}{seeds}: {format_number(claim.value)} ({format_number(claim.control)})"


def by_seed(runs: list[Run]) -> str:
    """One row a claim, over the seeds of one study."""
    facts = [
        f"seed {run.config['seed']}: accuracy {run.metrics['test_accuracy']:.4f} after "
        f"{run.metrics['steps']} steps, {run.metrics['train_seconds']:.1f} s"
        for run in sorted(runs, key=lambda run: run.config["seed"])
    ]
    return f"{len(runs)} seeds. " + "; ".join(facts) + ".\n\n" + table(runs)


BACKED_BY = {
    "linear, 1 layer": "one step of gradient descent (`weights_are_gradient_step`)",
    "softmax, 1 layer": "a kernel smoother (`softmax_is_kernel_smoother`)",
    "linear, 3 layers": "three steps of GD++ (`depth_is_more_steps`)",
    "linear, 6 layers": "near Bayes' optimum, by its error alone (`approaches_ols_with_depth`)",
    "softmax and MLPs, 6 layers": "near Bayes' optimum (`approaches_ols_with_depth`)",
}
"""What each network of in-context regression is taken for, and the claim that decides."""


def by_network(runs: list[Run]) -> str:
    """The table of networks, that of theory's settings, and the claims, which are over seeds already."""
    run = max(runs, key=lambda run: run.config["seeds"])
    claims = claims_of(run)
    verdicts = {claim.id: claim.verdict for claim in claims}
    course, parts = run.results["course_table"].values, []
    columns = [str(column) for column in course.column.values]
    rows = [f"| network | {' | '.join(columns)} | interpretation |", "|---" * (len(columns) + 2) + "|"]
    for name in map(str, course.network.values):
        cells = [format_number(float(f"{x:.4g}")) for x in course.sel(network=name).values]
        meaning = BACKED_BY.get(name, "–")
        verdict = next((verdicts[id] for id in verdicts if f"`{id}`" in meaning), "–")
        rows.append(f"| {name} | {' | '.join(cells)} | {meaning}: **{verdict}** |")
    parts.append(
        f"{run.config['seeds']} seeds; the first table is of the first, claims are means over seeds.\n\n"
        + "\n".join(rows)
    )
    for name in ("optimum_by_setting", "deep_by_dimension"):
        if name in run.results:
            values = run.results[name].values
            first = str(values.dims[0])
            head = f"| {first} | {' | '.join(f'seed {seed}' for seed in values.seed.values)} |"
            lines = [
                f"| {label} | {' | '.join('–' if x != x else f'{x:.4f}' for x in row)} |"
                for label, row in zip(values[first].values, values.values)
            ]
            said = f"\n{name.replace('_', ' ').capitalize()}: {values.attrs['units']}.\n"
            parts.append("\n".join([said, head, "|---" * (len(values.seed) + 1) + "|", *lines]))
    return "\n".join([*parts, "", claims_table(claims)])


def by_scores(runs: list[Run], table: str, said: str) -> str:
    """What each network of a study scores, seed by seed, and the claims, which are over seeds already.

    Args:
        table: the result with the scores, of dims ``network``; every seed has its own.
        said: what a score is.
    """
    run = max(runs, key=lambda run: run.config["seeds"])
    seeds = range(run.config["seed"], run.config["seed"] + run.config["seeds"])
    parts = [Run.open(run.path / f"seed_{seed}").results[table] for seed in seeds]
    rows = [f"| network | {' | '.join(f'seed {seed}' for seed in seeds)} |", "|---" * (len(parts) + 1) + "|"]
    for name in map(str, parts[0].values.network.values):
        rows.append(f"| {name} | {' | '.join(f'{float(p.values.sel(network=name)):.4f}' for p in parts)} |")
    head = f"{len(parts)} seeds. {said.format(n=parts[0].provenance['n'])}:\n"
    return "\n".join([head, *rows, "", claims_table(claims_of(run))])


PUBLISHED = ("learned", "sinusoidal", "absent")
"""Encodings for which the homework that the study of sortedness repeats reports about half everywhere."""


def by_length(runs: list[Run]) -> str:
    """Accuracy of each network at each length, over seeds, beside what was published; and the claims."""
    run = max(runs, key=lambda run: run.config["seeds"])
    seeds = range(run.config["seed"], run.config["seed"] + run.config["seeds"])
    parts = [Run.open(run.path / f"seed_{seed}").results for seed in seeds]
    found, scores = ([part[name] for part in parts] for name in ("accuracy_by_length", "network_scores"))
    lengths = sorted(int(length) for length in found[0].values.length.values)
    longest, n = found[0].provenance["log n from"], found[0].provenance["n"]
    head = [
        f"{len(found)} seeds; accuracy on {n} sequences of each length, mean over seeds, and in brackets the "
        f"worst seed. Networks are trained at lengths of {found[0].provenance['trained at']}; how many seeds "
        f"learned is said where not all did. *log n*: the same networks, whose scores grow with log n beyond "
        f"{longest} keys.\n",
        f"| network | {' | '.join(map(str, lengths))} | {lengths[-1]}, log n |",
        "|---" * (len(lengths) + 2) + "|",
        *(f"| published: {name} | {' | '.join(['about .5'] * len(lengths))} | – |" for name in PUBLISHED),
    ]
    rows = []
    for name in map(str, found[0].values.network.values):
        learned = sum(bool(s.values.sel(network=name) >= s.extra["needed"].sel(network=name)) for s in scores)
        said = name if learned == len(scores) else f"{name} ({learned} of {len(scores)} learned)"
        cells = [[float(r.values.sel(network=name, length=length)) for r in found] for length in lengths]
        cells.append([float(r.extra["log_n"].sel(network=name, length=lengths[-1])) for r in found])
        rows.append(f"| {said} | {' | '.join(f'{statistics.mean(c):.3f} ({min(c):.3f})' for c in cells)} |")
    return "\n".join([*head, *rows, "", claims_table(claims_of(run))])


PAGES = {
    "regex-language": by_language,
    "linear-regression": by_network,
    "digit-addition": partial(
        by_scores, table="exact_matches", said="Share of {n} held-out problems written right, greedily"
    ),
    "sortedness": by_length,
    "state-machine": partial(
        by_scores, table="network_scores", said="How often the token held most likely comes, of {n} sequences"
    ),
    "text-arithmetic": partial(
        by_scores,
        table="network_scores",
        said="On {n} held-out problems, R² of networks that answer by a number, else the share right",
    ),
}
"""How a study's runs become a section; others have one row a claim over their seeds."""


def main(root: str = "runs/studies", target: str = "RESULTS.md") -> None:
    """Write the page from the finished studies below a folder; those without runs keep their sections."""
    by_study: dict[str, list[Run]] = defaultdict(list)
    for run in list_runs(root, kind="study"):
        if run.finished:
            by_study[run.config["study"]].append(run)
    if not by_study:
        raise SystemExit(f"expected finished studies below {root}, found none; run `make studies`")
    sections = kept(Path(target))
    sections |= {
        study: f"{written_at()}\n\n{PAGES.get(study, by_seed)(runs)}" for study, runs in by_study.items()
    }
    parts = [f"## {study}\n\n{text}\n" for study, text in sorted(sections.items())]
    Path(target).write_text("\n".join([HEAD, *parts]))


def kept(page: Path) -> dict[str, str]:
    """The sections of a page that is there already, by study."""
    if not page.exists():
        return {}
    parts = [part.partition("\n") for part in page.read_text().split("\n## ")[1:]]
    return {study: text.strip() for study, _, text in parts}


if __name__ == "__main__":
    main()
