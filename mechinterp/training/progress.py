"""What is seen while a network trains: a line in the terminal, or a figure in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mechinterp.training.fit import Fit
from mechinterp.training.recipe import checked_number


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


class LiveFigure:
    """A callback for ``fit`` that draws a figure anew at measurements, in the output of a notebook's cell.

    Args:
        drawn: makes a plotly figure of what has been measured so far.
        every: how many measurements a drawing; the recipe's last step is always drawn.

    Raises:
        TypeError, ValueError: nothing that draws, or less than one measurement.
    """

    def __init__(self, drawn: Callable[[Fit], Any], every: int = 5) -> None:
        if not callable(drawn) or checked_number("every", every, int) < 1:
            raise ValueError(
                f"expected a function that draws and every >= 1, got {type(drawn).__name__} and {every}; "
                "change them"
            )
        self.drawn, self.every, self.count = drawn, every, 0
        self.place: Any = None
        self.job: Fit | None = None

    def __call__(self, job: Fit) -> None:
        """Draw, where it is time."""
        if job is not self.job:  # another training has a place of its own
            self.job, self.place, self.count = job, None, 0
        last = job.step >= job.recipe.steps
        if self.count % self.every == 0 or last:
            from IPython.display import display

            # As a bundle: a figure that shows itself would be a new output each time.
            bundle = self.drawn(job)._repr_mimebundle_()
            if self.place is None:
                self.place = display(bundle, raw=True, display_id=True)
            else:
                self.place.update(bundle, raw=True)
        self.count += 1
