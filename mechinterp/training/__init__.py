"""From a task and a recipe to a trained network."""

from mechinterp.training.fit import Diverged, Fit, History, fit
from mechinterp.training.loading import load_network
from mechinterp.training.recipe import Recipe

__all__ = ["Diverged", "Fit", "History", "Recipe", "fit", "load_network"]
