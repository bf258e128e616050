import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from service import resources
from service.reference import settings_page
from service.settings import Settings
from tests.service.process import ROOT


def test_the_documented_settings_are_the_settings() -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), "run: python -m service.reference > docs/settings.md"


def test_every_setting_says_what_it_does() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_environment_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDSERVE_PORT", "1234")
    monkeypatch.setenv("FOLDSERVE_MODELS", "/somewhere")
    assert (Settings().port, Settings().models) == (1234, Path("/somewhere"))
    monkeypatch.setenv("FOLDSERVE_MAX_QUEUE", "0")
    with pytest.raises(ValidationError, match="max_queue"):
        Settings()


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "90000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_cores_follow_affinity_and_quota(tmp_path: Path, files: dict[str, str], cpus: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert resources.available_cpus(tmp_path) == (cpus or len(os.sched_getaffinity(0)))
