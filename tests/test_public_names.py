"""Public names: there, explained, and brought in only when used."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import mechinterp

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(mechinterp.__path__, "mechinterp.")
    if "__main__" not in module.name
)


def test_importing_the_package_brings_in_nothing_heavy():
    heavy = ("torch", "transformer_lens", "tyro", "numpy", "xarray", "plotly", "sklearn", "scipy")
    code = f"import sys, mechinterp; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", mechinterp.__all__)
def test_every_public_name_resolves(name):
    assert getattr(mechinterp, name) is not None
    assert name in dir(mechinterp)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'transfomer'.*HookedTransformer"):
        mechinterp.transfomer  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_is_explained(name):
    module = importlib.import_module(name)
    assert module.__doc__, name
    own = [thing for key, thing in vars(module).items() if not key.startswith("_") and is_own(thing, name)]
    for thing in own:
        assert explained(thing), f"{name}.{thing.__name__}"
        members = vars(thing).items() if inspect.isclass(thing) else ()
        for key, member in members:
            if not key.startswith("_") and (inspect.isroutine(member) or isinstance(member, property)):
                assert inspect.getdoc(getattr(thing, key)) or inspect.getdoc(member), (
                    f"{name}.{thing.__name__}.{key}"
                )


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_says_it_has_is_there(name):
    module = importlib.import_module(name)
    assert all(hasattr(module, public) for public in getattr(module, "__all__", ()))


def is_own(thing, module):
    return (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__ == module


def explained(thing):
    """A docstring of its own: not the signature that a dataclass writes, nor a parent's."""
    text = thing.__doc__ or ""
    return bool(text) and not text.startswith(f"{thing.__name__}(")
