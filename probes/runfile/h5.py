"""Typed access to HDF5: h5py says a name may be a group, a dataset or a type; the layout says which."""

from __future__ import annotations

import h5py
import numpy as np


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """The dataset of a name."""
    found = group[name]
    assert isinstance(found, h5py.Dataset), f"{group.name}/{name} is no dataset"
    return found


def subgroup(group: h5py.Group, name: str) -> h5py.Group:
    """The group of a name."""
    found = group[name]
    assert isinstance(found, h5py.Group), f"{group.name}/{name} is no group"
    return found


def members(group: h5py.Group, name: str) -> tuple[str, ...]:
    """Names inside a group; none where the group is not there."""
    return tuple(subgroup(group, name)) if name in group else ()


def array(group: h5py.Group, name: str) -> np.ndarray:
    """All values of a numeric dataset."""
    return np.asarray(dataset(group, name)[()])


def texts(group: h5py.Group, name: str) -> tuple[str, ...]:
    """All values of a text dataset."""
    return tuple(str(value) for value in dataset(group, name).asstr()[()])
