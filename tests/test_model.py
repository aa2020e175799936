"""Model.py: train, evaluate, predict_prob."""

import numpy as np
import pytest
import tensorflow as tf
import tiny

import ImageUtils
import Model as ModelModule
from ImageUtils import normalize
from machine.errors import DivergedError
from Model import Model
from training.step import epoch_order, step_seed, training_batch


@pytest.fixture(scope="module")
def trained():
    model = Model(tiny.model_configs(dropout_stack2=0.0, dropout_stack3=0.0))
    x, y = tiny.images(400)
    configs = tiny.training_configs(epochs=12, mixup_alpha=0.0)
    history = model.train(x[:360], y[:360], configs, x[360:], y[360:]).history
    return model, history, x, y


def test_training_learns(trained):
    model, history, x, y = trained
    assert [row["epoch"] for row in history] == list(range(1, 13))
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    assert (
        model.evaluate(x[360:], y[360:]).metrics["accuracy"] == history[-1]["valid_accuracy"] > 0.25
    )


def test_probabilities_are_float32_rows_that_add_up_to_1(trained):
    model, _, x, _ = trained
    probabilities = model.predict_prob(x)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (400, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_rows_keep_their_order_with_a_ragged_last_batch(trained, monkeypatch):
    model, _, x, _ = trained
    whole = model.predict_prob(x[:30])
    monkeypatch.setattr(ModelModule, "INFERENCE_BATCH", 7)
    np.testing.assert_allclose(model.predict_prob(x[:30]), whole, atol=1e-6)
    np.testing.assert_allclose(model.predict_prob(x[:30][::-1])[::-1], whole, atol=1e-6)


def test_predictions_are_those_of_the_network_on_normalized_images(trained):
    model, _, x, _ = trained
    logits = model.network(normalize(tf.constant(x[:20]), model.mean), training=False)
    np.testing.assert_allclose(model.predict_prob(x[:20]), tf.nn.softmax(logits), atol=1e-5)


def test_no_images_give_no_rows(trained):
    assert trained[0].predict_prob(np.empty((0, 32, 32, 3), np.uint8)).shape == (0, 10)


def test_evaluate_is_the_mean_log_likelihood_and_top_1(trained):
    model, _, x, y = trained
    metrics, probabilities = model.evaluate(x, y)
    np.testing.assert_array_equal(probabilities, model.predict_prob(x))
    expected = -np.log(probabilities[np.arange(len(y)), y].astype(np.float64)).mean()
    assert metrics["loss"] == pytest.approx(expected)
    assert metrics["accuracy"] == np.mean(probabilities.argmax(axis=1) == y)
    assert metrics["n"] == len(y)


def test_a_network_that_is_broken_predicts_nothing():
    model = Model(tiny.model_configs())
    model.network.set_weights([weights * np.nan for weights in model.network.get_weights()])
    with pytest.raises(DivergedError, match="expected finite probabilities"):
        model.predict_prob(tiny.images()[0])


def test_inference_is_in_float32_unless_asked_whatever_the_training_was(trained):
    single, _, x, _ = trained
    expected = single.predict_prob(x)
    models = {
        training: Model({**single.configs, "precision": training}, inference_precision=inference)
        for training, inference in (("bfloat16", "float32"), ("float32", "bfloat16"))
    }
    assert models["bfloat16"].precision == "bfloat16"
    for model in models.values():
        model.network.set_weights(single.network.get_weights())
        model.mean = single.mean
    np.testing.assert_array_equal(models["bfloat16"].predict_prob(x), expected)
    found = models["float32"].predict_prob(x)
    assert found.dtype == np.float32
    assert 1e-5 < np.abs(found - expected).max() < 0.1


def test_the_probabilities_of_all_views_are_averaged_by_their_weights(trained):
    model, _, x, _ = trained
    flags = {"test_time_flip": True, "test_time_shift": True}
    viewing = Model({**model.configs, **flags})
    viewing.network.set_weights(model.network.get_weights())
    viewing.mean = model.mean
    expected = sum(
        weight * tf.nn.softmax(model.network(view, training=False))
        for weight, view in ImageUtils.views(normalize(tf.constant(x[:9]), model.mean), flags)
    )
    np.testing.assert_allclose(viewing.predict_prob(x[:9]), expected, atol=1e-5)


def test_mixup_leaves_no_training_accuracy():
    model = Model(tiny.model_configs())
    history = model.train(*tiny.images(), tiny.training_configs(epochs=1)).history
    assert history[0]["train_accuracy"] is None
    assert history[0]["valid_loss"] is None


def test_the_preview_is_what_the_first_step_trains_on(trained):
    model, configs = trained[0], tiny.training_configs(batch_size=8)
    x, y = tiny.images()
    images, labels = model.preview_batch(x, y, configs, count=8)
    chosen, mean = epoch_order(0, 0, len(x))[:8], ImageUtils.pixel_mean(x)
    draws = ImageUtils.draw(step_seed(0, 0), 8, x.shape[1:], configs)
    batch = tf.constant(x[chosen]), tf.constant(y[chosen])
    expected = training_batch(*batch, mean, draws, configs, 10)
    np.testing.assert_allclose(images - mean, expected[0], atol=1e-6)
    np.testing.assert_array_equal(labels, expected[1])
    small, _ = model.preview_batch(x, y, {**configs, "small_share": 1.0}, count=8)
    np.testing.assert_allclose(small, ImageUtils.shrink(images), atol=1e-6)
    part, _ = model.preview_batch(x, y, configs, count=3)
    np.testing.assert_array_equal(part, images[:3])


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), "found float32"),
        (np.zeros((2, 3072), np.uint8), "found uint8 (2, 3072)"),
        (np.zeros((2, 3, 32, 32), np.uint8), "found uint8 (2, 3, 32, 32)"),
    ],
)
def test_images_of_another_kind_are_refused_with_the_remedy(trained, x, found):
    with pytest.raises(ValueError) as caught:
        trained[0].predict_prob(x)
    assert str(caught.value).startswith("images: expected uint8 (2, 32, 32, 3), 0..255, " + found)
    assert "np.round(x * 255).astype(np.uint8)" in str(caught.value)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(43, np.int32), r"labels: expected integers \(44,\), found int32 \(43,\)"),
        (np.zeros(44, np.float32), r"labels: expected integers \(44,\), found float32"),
        (np.full(44, 10), r"labels: expected 0..9, found 10..10"),
        (np.full(44, -1), r"labels: expected 0..9, found -1..-1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(trained, y, message):
    with pytest.raises(ValueError, match=message):
        trained[0].train(tiny.images()[0], y, tiny.training_configs())
