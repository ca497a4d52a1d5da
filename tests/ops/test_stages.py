"""Published lists at other depths and budgets."""

import pytest

from foveate.errors import InvalidValue
from foveate.ops.stages import layers_at, stages_at

LOW, HIGH = (0.4, 0.2, 0.1), (0.5, 0.4, 0.3)


def test_each_list_is_met():
    assert stages_at(0.1, LOW, HIGH) == LOW
    assert stages_at(0.3, HIGH, LOW) == HIGH


def test_between_lists_it_is_linear_and_beyond_them_the_ratios_stay():
    assert stages_at(0.2, LOW, HIGH) == pytest.approx((0.45, 0.3, 0.2))
    assert stages_at(0.05, LOW, HIGH) == pytest.approx((0.2, 0.1, 0.05))
    assert stages_at(0.6, LOW, HIGH) == pytest.approx((1.0, 0.8, 0.6))
    assert stages_at(1.0, LOW, HIGH) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.1])
def test_a_keep_that_is_no_fraction_is_refused(keep):
    with pytest.raises(InvalidValue, match="keep"):
        stages_at(keep, LOW)


def test_layers_follow_the_depth_and_stay_distinct():
    assert layers_at(32, 3, 7, 16) == [3, 7, 16]
    assert layers_at(28, 3, 7, 16) == [3, 6, 14]
    assert layers_at(8, 7, 9, 12) == [2, 3, 4]
    assert layers_at(8, 1) == [1]
