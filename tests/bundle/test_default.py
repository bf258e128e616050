"""Which version is the default: the newest, until somebody promotes one."""

import json
from pathlib import Path

import pytest

from bundle import BundleError
from bundle.default import FILE, preference, promote, promotions, roll_back


def versions(model: Path, *numbers: int, proposals: tuple[int, ...] = ()) -> Path:
    for number in numbers:
        (model / str(number)).mkdir(parents=True)
        content = {"recalibration": {"parent_version": 1} if number in proposals else None}
        (model / str(number) / "manifest.json").write_text(json.dumps(content))
    return model


def test_without_a_file_the_newest_comes_first_and_proposals_last(tmp_path):
    model = versions(tmp_path / "m", 1, 2, 3, 10, proposals=(3, 10))

    assert promotions(model) == ()
    assert preference(model, [1, 2, 3, 10]) == [2, 1, 10, 3]
    assert preference(model, [10, 3]) == [10, 3]


def test_rolling_back_undoes_a_promotion_exactly(tmp_path):
    model = versions(tmp_path / "m", 1, 2, 3, proposals=(3,))

    promote(model, 3)
    promote(model, 1)
    assert preference(model, [1, 2, 3]) == [1, 3, 2]
    assert roll_back(model) == 1
    assert preference(model, [1, 2, 3]) == [3, 2, 1]
    assert roll_back(model) == 3
    assert preference(model, [1, 2, 3]) == [2, 1, 3]
    assert sorted(path.name for path in model.iterdir()) == ["1", "2", "3"]
    with pytest.raises(BundleError, match="nothing to roll back"):
        roll_back(model)


def test_a_promoted_version_that_is_gone_gives_way_to_the_one_before(tmp_path):
    model = versions(tmp_path / "m", 1, 2, 3)
    promote(model, 1)
    promote(model, 2)

    assert preference(model, [1, 3]) == [1, 3]


def test_a_version_that_is_not_there_cannot_be_promoted(tmp_path):
    model = versions(tmp_path / "m", 1)

    with pytest.raises(BundleError, match="no bundle"):
        promote(model, 2)
    assert not (model / FILE).exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"promoted": 1}', '{"promoted": ["1"]}', '{"promoted": [0]}', "é"]
)
def test_a_damaged_file_is_named(tmp_path, content):
    model = versions(tmp_path / "m", 1)
    (model / FILE).write_bytes(content.encode("latin-1"))

    with pytest.raises(BundleError, match=FILE):
        preference(model, [1])
