"""Configure.py: complete dictionaries, presets on top, nothing wrong accepted."""

import pytest

import Configure

ALL_KEYS = {**Configure.MODEL_KEYS, **Configure.TRAINING_KEYS}


def test_the_defaults_are_the_reports_final_learner():
    model, training = Configure.configure("resnet20", {})
    assert (model, training) == (Configure.model_configs, Configure.training_configs)
    assert (model["depth"], model["dropout_stack2"], model["dropout_stack3"]) == (20, 0.1, 0.2)
    assert (training["batch_size"], training["epochs"]) == (32, 200)
    assert (training["optimizer"], training["learning_rate"]) == ("adam", 1e-3)
    assert (training["schedule"], training["flip"], training["crop_pad"]) == ("cosine", True, 4)
    assert training["mixup_alpha"] > 0


def test_the_baseline_has_neither_mixup_nor_cosine_nor_dropout():
    model, training = Configure.configure("baseline", {})
    assert (model["dropout_stack2"], model["dropout_stack3"]) == (0, 0)
    assert (training["mixup_alpha"], training["schedule"]) == (0, "constant")


@pytest.mark.parametrize("preset", Configure.PRESETS)
def test_a_preset_is_complete_and_overrides_go_on_top(preset):
    model, training = Configure.configure(preset, {"depth": 14, "epochs": 3})
    assert set(model) == set(Configure.MODEL_KEYS)
    assert set(training) == set(Configure.TRAINING_KEYS)
    assert (model["depth"], training["epochs"]) == (14, 3)


@pytest.mark.parametrize("name", [name for name, key in ALL_KEYS.items() if key.low is not None])
def test_a_number_below_its_range_is_refused(name):
    key = ALL_KEYS[name]
    below = type(key.default)(key.low - 1)
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, found {below}"):
        Configure.check(name, key, below)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epochs": 1.5}, "epochs: expected int, found 1.5"),
        ({"epochs": "many"}, "epochs: expected int, found 'many'"),
        ({"epochs": True}, "epochs: expected int, found True"),
        ({"flip": 1}, "flip: expected bool, found 1"),
        ({"learning_rate": float("nan")}, "learning_rate: expected 0..100, found nan"),
        ({"learning_rate": float("inf")}, "learning_rate: expected 0..100, found inf"),
        ({"optimizer": "lion"}, "optimizer: expected one of adam, rmsprop, sgd, muon, found"),
        ({"depth": 21}, "depth: expected 6n + 2 (8, 14, 20, 26, 32, ...), found 21; the nearest"),
        ({"frob": 1}, "unknown key 'frob'"),
        ({"epochs": 2, "warmup_epochs": 2}, "warmup_epochs: expected fewer than epochs (2)"),
        ({"eta_min": 0.1}, "eta_min: expected at most learning_rate (0.001), found 0.1"),
    ],
)
def test_a_wrong_value_fails_at_once(overrides, message):
    with pytest.raises(ValueError) as caught:
        Configure.configure("resnet20", overrides)
    assert str(caught.value).startswith(message)


def test_an_integer_stands_for_a_float():
    training = Configure.configure("resnet20", {"mixup_alpha": 1})[1]
    assert training["mixup_alpha"] == 1.0
    assert type(training["mixup_alpha"]) is float
