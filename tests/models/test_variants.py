"""Parts of the model by name."""

import pytest

from pytorch_dl.models.variants import named


def test_a_name_gives_its_variant_and_an_unknown_one_the_list() -> None:
    assert named({"one": 1, "two": 2}, "two", argument="number") == 2
    with pytest.raises(ValueError, match=r"^number must be a callable or one of one, two, got 'three'$"):
        named({"one": 1, "two": 2}, "three", argument="number")
