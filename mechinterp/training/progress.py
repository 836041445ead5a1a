"""A live line in the terminal, or in a notebook, while a network trains."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mechinterp.training.fit import Fit


class LiveLine:
    """A callback for ``fit`` that shows step, losses and score; use it as a context manager.

    Example: ``with LiveLine("train") as line: fit(model, task, recipe, callbacks=[line])``.
    """

    def __init__(self, label: str) -> None:
        self.bar = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self.line = self.bar.add_task(label, total=None, facts="")

    def __enter__(self) -> LiveLine:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def __call__(self, job: Fit) -> None:
        """Show where training stands."""
        history = job.history
        train = f"{history.train_loss[-1]:.2e}" if history.train_loss else "–"
        facts = (
            f"loss train {train} test {history.test_loss[-1]:.2e}  {job.task.score_name} "
            f"{history.test_score[-1]:.3f}"
        )
        self.bar.update(self.line, completed=job.step, total=job.recipe.steps, facts=facts)
