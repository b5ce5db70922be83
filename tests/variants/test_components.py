"""One way to wrap a module, and to see that one is wrapped."""

import pytest
import torch
from torch import nn

from propainter import InputError
from variants.components import COMPONENTS, check_components, is_wrapped, modules_of, wrap


def test_a_wrapped_module_computes_by_its_new_forward():
    module = nn.Linear(2, 2)
    assert not is_wrapped(module)
    wrap(module, lambda x: x + 1)
    assert is_wrapped(module)
    assert torch.equal(module(torch.zeros(2)), torch.ones(2))
    wrap(module, module.forward)
    assert is_wrapped(module)


def test_a_module_compiled_in_place_is_wrapped():
    module = nn.Linear(2, 2)
    module.compile(backend="eager")
    assert is_wrapped(module)


def test_no_module_of_the_networks_is_wrapped_at_first(narrow):
    modules = [module for component in COMPONENTS for module in modules_of(narrow, component)]
    assert len({id(module) for module in modules}) == len(modules) > len(COMPONENTS)
    assert not any(is_wrapped(part) for module in modules for part in module.modules())


def test_what_is_no_component_is_named():
    assert check_components(("raft", "decoder"), "x") == ["raft", "decoder"]
    with pytest.raises(InputError, match="precision.dtypes names 'flow'; give some of raft, "):
        check_components(["raft", "flow"], "precision.dtypes")
