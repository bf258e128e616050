"""Preset, file and command line make one configuration; what is wrong is named."""

import json

import pytest

from scripts.train import main
from scripts.training.config import TrainConfig
from scripts.training.options import ConfigError, configuration


def test_seed_recipe_is_the_keras_example():
    config = configuration("seed", None, {})
    assert (config.batch_size, config.epochs, config.optimizer, config.validation_split) == (250, 25, "adam", 0.2)
    assert config.learning_rate == 1e-3
    assert config.augmentation == TrainConfig().augmentation
    assert config.distillation is None


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("epochs = 3\nbatch_size = 10\n[batchnorm]\nmomentum = 0.7\n")
    config = configuration("best", file, {".epochs": "4", "batchnorm.gamma_regularizer": '{"name": "l2", "l2": 0.01}'})
    assert (config.epochs, config.batch_size, config.optimizer) == (4, 10, "adamw")
    assert config.batchnorm.momentum == 0.7
    assert config.batchnorm.gamma_regularizer == {"name": "l2", "l2": 0.01}


def test_a_saved_configuration_reads_back_the_same(tmp_path):
    config = configuration("best", None, {"batchnorm.center": "false"})
    file = tmp_path / "config.json"
    file.write_text(config.model_dump_json())
    assert configuration("seed", file, {}) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batchnorm": {"momentun": 0.9}},
            "batchnorm.momentun: no such setting; choose one of axis, momentum, epsilon",
        ),
        ({"batchsize": 3}, "batchsize: no such setting; choose one of dataset, seed, batch_size"),
        ({"optimizer": "sgd"}, "optimizer: Input should be 'adam' or 'adamw'"),
        ({"weight_decay": 0.1}, "weight_decay: only optimizer=adamw"),
    ],
)
def test_a_wrong_setting_is_named_with_the_choices(tmp_path, settings, message):
    file = tmp_path / "run.json"
    file.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=message):
        configuration("seed", file, {})


def test_a_file_that_is_no_table_is_refused(tmp_path):
    file = tmp_path / "run.json"
    file.write_text("[1]")
    with pytest.raises(ConfigError, match="expected a table"):
        configuration("seed", file, {})
    file.write_text("{")
    with pytest.raises(ConfigError, match="not readable as JSON or TOML"):
        configuration("seed", file, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--bn-momentun", "0.9"],
            "--bn-momentun: no such option; did you mean --bn-momentum? Choose one of --bn-axis",
        ),
        (["--bn-gamma-initializer", "twos"], "'twos' is no initializer; choose one of zeros"),
        (["--data-dir", "/nowhere"], "--data-dir /nowhere: no such folder"),
    ],
)
def test_the_command_says_what_is_wrong_and_ends_with_2(arguments, message, capsys, tmp_path):
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_another_run_is_not_touched(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main(["--recipe", "quick", "--out", str(tmp_path)]) == 2
    assert "holds a run with another configuration" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "{}"
