"""The data sets against their checksums and what is known of them."""

import hashlib

import numpy as np
import pytest

from himlib import datasets

CHECKSUM = "2fa12845698c01b697f031a4a23d59967c106ccdf5e848f8e1e70ed8d977c85a"


def test_hare_lynx_is_unchanged():
    years, pelts = datasets.hare_lynx()
    # In tenths of a thousand the numbers are integers, whose bytes no rounding changes.
    tenths = np.rint(pelts * 10).astype("<i4")
    np.testing.assert_allclose(tenths / 10, pelts, rtol=1e-6)
    assert hashlib.sha256(tenths.tobytes()).hexdigest() == CHECKSUM
    np.testing.assert_array_equal(years, np.arange(1900, 1921))


def test_hare_lynx_types_and_shapes():
    years, pelts = datasets.load("hare_lynx")
    assert years.shape == (21,) and years.dtype == np.int32
    assert pelts.shape == (21, 2) and pelts.dtype == np.float32 and pelts.flags.c_contiguous
    assert np.all(pelts > 0)


def test_hare_lynx_known_values():
    data = datasets.hare_lynx()
    by_year = dict(zip(data.years.tolist(), data.pelts.tolist(), strict=True))
    # The first and last years, and the peaks: hares peak a year or two before lynxes.
    for year, pair in {1900: (30.0, 4.0), 1920: (24.7, 8.6), 1903: (77.4, 35.2), 1904: (36.3, 59.4)}.items():
        assert by_year[year] == pytest.approx(pair)
    assert data.years[data.pelts.argmax(0)].tolist() == [1903, 1904]
    np.testing.assert_allclose(data.pelts.sum(0), [715.7, 423.5], rtol=1e-5)


def test_each_call_gives_a_copy():
    datasets.hare_lynx().pelts[:] = 0
    assert datasets.hare_lynx().pelts.min() > 0


def test_load_is_the_function_of_that_name():
    for name in datasets.LOADERS:
        for first, second in zip(datasets.load(name), getattr(datasets, name)(), strict=True):
            np.testing.assert_array_equal(first, second)
        assert name in datasets.__all__ and f'"{name}"' in datasets.load.__doc__


@pytest.mark.parametrize("name", ["hares", "", None, 3])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="name: expected one of hare_lynx, got"):
        datasets.load(name)


def test_unknown_options():
    with pytest.raises(TypeError, match="split"):
        datasets.load("hare_lynx", split="train")
