"""Probes: what can be read from activations, and what that is worth.

``probe`` reads a variable at every hook and position and returns a Result with its controls;
``online_code`` measures the same in bits. Settings are in ``Ridge``, ``Fourier``, ``Periods``,
``Simplex``, ``Logistic``, ``MLP`` and ``MLPRegression``; ``fit_ridge`` is the linear algebra alone.
"""

from mechinterp.analysis.probes.classifiers import MLP, Logistic, MLPRegression
from mechinterp.analysis.probes.kinds import Fourier, Periods, Probe, Ridge, Simplex
from mechinterp.analysis.probes.online import code_length, online_code
from mechinterp.analysis.probes.probing import probe
from mechinterp.analysis.probes.ridge import fit_ridge
from mechinterp.analysis.probes.simplex import project_to_simplex

__all__ = [
    "MLP",
    "Fourier",
    "Logistic",
    "MLPRegression",
    "Periods",
    "Probe",
    "Ridge",
    "Simplex",
    "code_length",
    "fit_ridge",
    "online_code",
    "probe",
    "project_to_simplex",
]
