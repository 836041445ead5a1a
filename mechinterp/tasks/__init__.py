"""What is to be learned."""

from mechinterp.tasks.base import Batch, Task
from mechinterp.tasks.modular_addition import ModularAddition

__all__ = ["Batch", "ModularAddition", "Task"]
