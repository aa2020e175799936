"""Every number that can be chosen: meaning, unit, range, source; and the presets.

``model_configs`` and ``training_configs`` are the report's final learner. A preset is a set of
overrides. Each key is also a flag of ``main.py`` (``mixup_alpha`` is ``--mixup-alpha``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Key(NamedTuple):
    """One key of a configuration."""

    default: Any
    meaning: str  # with unit and source
    low: float | None = None  # range of a number, both ends included
    high: float = math.inf
    choices: tuple[str, ...] = ()
    # The keys that must have one of these values for this one to matter; () stands for all but 0.
    needs: Mapping[str, tuple] = MappingProxyType({})


MODEL_KEYS = {
    # Report, section 4.2: three stacks of three blocks, the Keras example's ResNet-20 v1.
    "depth": Key(20, "layers, 6n + 2 for n blocks per stack (arXiv:1512.03385, 4.2)", 8, 1202),
    "width": Key(16, "channels of the first stack; the next have 2 and 4 times as many", 1, 1024),
    # Report, section 4.3, third optimization.
    "dropout_stack2": Key(0.1, "share dropped after stack 2 (report, 4.3)", 0, 0.95),
    "dropout_stack3": Key(0.2, "share dropped after stack 3 (report, 4.3)", 0, 0.95),
    "seed": Key(
        0, "seed of the initial weights, order, augmentation, dropout and split", 0, 2**31 - 1
    ),
    # Weights, statistics, loss and logits are float32 either way; so is all that is measured.
    "precision": Key(
        "auto",
        "arithmetic of the training; auto takes bfloat16 where it should be faster (docs/speed.md)",
        choices=("auto", "float32", "bfloat16"),
    ),
    "test_time_flip": Key(False, "mean of the probabilities of an image and its mirror image"),
    # The weights are those of KellerJordan/cifar10-airbench.
    "test_time_shift": Key(
        False,
        "mean of the probabilities of an image (half) and of it moved a pixel down and right, and "
        "up and left (a quarter each)",
    ),
}

TEST_TIME = ("test_time_flip", "test_time_shift")
"""The keys of how an image is looked at when it is measured or predicted."""

TRAINING_KEYS = {
    "dataset": Key(
        "cifar10",
        "data set: CIFAR-10, CIFAR-100, the embedded drawn shapes, or --data-dir/CLASS/*.png|jpg",
        choices=("cifar10", "cifar100", "shapes", "folder"),
    ),
    # Held out of the training images to watch and to choose by; the test images are for the end.
    "valid_size": Key(
        5000, "training images held out for validation; 0 trains on all", 0, 1_000_000
    ),
    # Report, section 4.3: batches of 32, 200 epochs.
    "epochs": Key(200, "passes over the training images (report, 4.3)", 1, 100_000),
    # Progressive resizing, as in fast.ai's DAWNBench entries of 2018; docs/recipe.md.
    "small_share": Key(
        0.0,
        "share of the epochs, the first ones, that train on images of three quarters of the height "
        "and width, 44 % less work",
        0,
        1,
    ),
    "batch_size": Key(32, "images per step, over all devices (report, 4.3)", 2, 65_536),
    # Report, table 3: Adam is the best of adam, rmsprop and sgd. The rate is the Keras example's.
    "optimizer": Key(
        "adam",
        "update rule (report, table 3); muon (KellerJordan/cifar10-airbench): orthogonalized "
        "momentum for the convolutions, whose kernels keep the norm sqrt(c_out), sgd for the rest",
        choices=("adam", "rmsprop", "sgd", "muon"),
    ),
    "learning_rate": Key(
        1e-3,
        "highest rate, eta_max (Keras example: 1e-3 for adam; sgd with momentum: about 0.05)",
        0,
        100,
    ),
    "momentum": Key(
        0.0,
        "momentum of sgd and muon (usually 0.9) and of rmsprop",
        0,
        0.9999,
        needs={"optimizer": ("sgd", "rmsprop", "muon")},
    ),
    "nesterov": Key(
        False, "Nesterov's momentum of sgd", needs={"optimizer": ("sgd",), "momentum": ()}
    ),
    # At batch 128 a good rate of muon is about 0.025: docs/recipe.md.
    "sgd_ratio": Key(
        4.0,
        "rate of what muon leaves to sgd (all but the convolutions), as a multiple of the rate",
        0,
        1e3,
        needs={"optimizer": ("muon",)},
    ),
    "schedule": Key(
        "cosine",
        "constant; steps: 1e-1, 1e-2, 1e-3, 5e-4 of the rate after 81, 121, 161, 181 of 200 epochs "
        "(Keras example); linear down to eta_min; cosine (arXiv:1608.03983)",
        choices=("constant", "steps", "linear", "cosine"),
    ),
    "warmup_epochs": Key(0, "epochs of linear warm-up before the schedule (arXiv:1706.02677)", 0),
    "eta_min": Key(
        0.0,
        "lowest rate of linear and cosine (arXiv:1608.03983, eq. 5)",
        0,
        100,
        needs={"schedule": ("linear", "cosine")},
    ),
    "t_0": Key(
        0,
        "epochs of the first cosine; 0 is one cosine over the whole run",
        0,
        needs={"schedule": ("cosine",)},
    ),
    "t_mult": Key(
        1,
        "factor of each cosine's length after a restart",
        1,
        100,
        needs={"schedule": ("cosine",), "t_0": ()},
    ),
    # Half of PyTorch's weight decay: the gradient of l2 * w^2 is 2 * l2 * w.
    "l2": Key(
        1e-4,
        "weight of the squared convolution kernels in the loss (Keras example), half of PyTorch's "
        "weight_decay",
        0,
        1,
    ),
    # As in arXiv:1710.09412, section 3.4, but for the draw: a false label is never the true one.
    "label_noise": Key(
        0.0, "share of the training labels replaced by another class, drawn with the seed", 0, 1
    ),
    "label_smoothing": Key(0.0, "share of the label spread over all classes", 0, 0.99),
    # The report's review calls flip + random crop the best pair; training with it is ours.
    "flip": Key(True, "mirroring of half of the images left to right"),
    "crop_pad": Key(4, "pixels of padding for the random crop; 0 for none", 0, 31),
    "crop_mode": Key(
        "zero", "padding of the random crop", choices=("zero", "reflect"), needs={"crop_pad": ()}
    ),
    # The augmentations that the report's source tried beside flip and crop; 0 is off.
    "shift": Key(0.0, "largest shift, share of the side, edge repeated (Keras example: 0.1)", 0, 1),
    "rotation": Key(0.0, "largest rotation to either side, degrees, edge repeated", 0, 180),
    "colour_jitter": Key(
        0.0, "largest change of brightness (of 0..1), contrast and saturation (shares)", 0, 1
    ),
    "pca_jitter": Key(
        0.0,
        "deviation of the share of each principal colour of CIFAR-10 (AlexNet, 4.1: 0.1)",
        0,
        10,
    ),
    "pixel_noise": Key(0.0, "deviation of Gaussian noise on values in 0..1", 0, 10),
    "cutout": Key(0, "side of the square set to the mean, pixels (arXiv:1708.04552: 16)", 0, 64),
    # The report does not say its alpha. 0.2 was chosen on the validation split: docs/recipe.md.
    "mixup_alpha": Key(
        0.2, "mixing weights are Beta(alpha, alpha); 0 for none (arXiv:1710.09412)", 0, 100
    ),
}


KEYS = {"model_configs": MODEL_KEYS, "training_configs": TRAINING_KEYS}
"""The keys of each dictionary."""


class Range(NamedTuple):
    """What ``main.py tune`` draws the values of one key from."""

    low: float = 0.0  # both ends included
    high: float = 0.0
    log: bool = False  # even over the logarithm
    choices: tuple = ()  # instead of low and high


TUNED = {
    # Wide enough for adam (about 1e-3) and for sgd (about 0.05).
    "learning_rate": Range(3e-4, 0.3, log=True),
    "momentum": Range(0.8, 0.99),
    "batch_size": Range(choices=(32, 64, 128, 256)),
    "l2": Range(1e-5, 1e-3, log=True),
    "label_smoothing": Range(0.0, 0.2),
    "mixup_alpha": Range(0.0, 1.0),
    "dropout_stack2": Range(0.0, 0.3),
    "dropout_stack3": Range(0.0, 0.4),
}
"""The keys of a search, but for those that were given and those that have no effect."""

KEY_GROUPS = {
    "network": tuple(MODEL_KEYS),
    "data": ("dataset", "valid_size", "label_noise"),
    "augmentation": (
        *("flip", "crop_pad", "crop_mode", "shift", "rotation", "colour_jitter", "pca_jitter"),
        *("pixel_noise", "cutout", "mixup_alpha"),
    ),
}
"""The keys of each group of flags; a key of no other group is one of training."""

LAYOUTS = ("auto", "planar", "interleaved", "nhwc", "nchw")
"""The layouts of a .npy of images: rows of 3,072 by channel or by pixel, or four axes."""

SPLITS = ("test", "valid", "train")
"""The images of a run: public test images, those held out for validation, those trained on."""

STRATEGIES = ("auto", "one", "mirrored", "multiworker")
"""The devices that train (machine/cluster.py). They change how fast, not what: no key of a run."""

model_configs: dict[str, Any] = {name: key.default for name, key in MODEL_KEYS.items()}
training_configs: dict[str, Any] = {name: key.default for name, key in TRAINING_KEYS.items()}

_NO_DROPOUT = {"dropout_stack2": 0.0, "dropout_stack3": 0.0}
_FAST = {
    "optimizer": "muon",
    "learning_rate": 0.025,
    "momentum": 0.9,
    "schedule": "linear",
    "batch_size": 128,
    "epochs": 32,
    "l2": 0.0,
    "crop_mode": "reflect",
    "mixup_alpha": 0.0,
    **_NO_DROPOUT,
}
# For runs that would come to fit their training images too closely (docs/recipe.md).
_REGULARIZED = {**_FAST, "valid_size": 0, "small_share": 0.5, "cutout": 8, "label_smoothing": 0.1}

PRESETS: dict[str, dict[str, Any]] = {
    # The report's final learner: the defaults above. 92.15 % of the 10,000 test images, 93.60 %
    # with flips and shifts (seed 0), after 200 epochs, 465 minutes on one core, at the end two, of
    # an Intel Xeon (model 207); python main.py train --save-dir RUN.
    "resnet20": {},
    # The report's base configuration, without mixup and dropout; its constant rate is ours.
    "baseline": {"mixup_alpha": 0.0, "schedule": "constant", **_NO_DROPOUT},
    # ResNet-20 in fewer minutes (docs/recipe.md): 91.41 % of the 10,000 test images, 92.60 %
    # with flips and shifts (mean of seeds 0 to 2), after 32 epochs, 84 minutes (seeds 1 and 2) on
    # one core of an Intel Xeon (model 207); python main.py train --preset fast --save-dir RUN.
    "fast": _FAST,
    # ResNet-20 for longer (docs/recipe.md): 93.02 % of the 10,000 test images, 94.39 % with flips
    # and shifts (seed 0), after 120 epochs of all 50,000 training images, 272 minutes on 2 cores of
    # an AMD EPYC (Zen 3); python main.py train --preset best20 --save-dir RUN.
    "best20": {**_REGULARIZED, "epochs": 120},
    # ResNet of depth 20 and 32 channels (docs/recipe.md): 93.14 % of the 10,000 test images,
    # 94.04 % with flips and shifts (seed 0), after 20 epochs of all 50,000 training images, 131
    # minutes on 2 cores of an AMD EPYC (Zen 3); python main.py train --preset wide --save-dir RUN.
    "wide": {**_REGULARIZED, "width": 32, "epochs": 20},
    # The embedded set: 98.30 % of its 2,000 test images (seed 0) after 1.5 minutes on 2 cores of an
    # AMD EPYC (Zen 1, AVX2); python main.py train --preset quickstart. Says nothing about CIFAR-10.
    "quickstart": {
        "dataset": "shapes",
        "depth": 8,
        "valid_size": 1000,
        "optimizer": "muon",
        "learning_rate": 0.03,
        "momentum": 0.9,
        "schedule": "linear",
        "batch_size": 64,
        "epochs": 6,
        "l2": 0.0,
        "mixup_alpha": 0.0,
        **_NO_DROPOUT,
    },
}


class Row(NamedTuple):
    """One configuration of a study."""

    name: str  # of its runs' folders
    text: str  # what it is, and what in it is not from the report
    # In place of the preset's values; a function gives a value from the others.
    overrides: Mapping[str, Any] = MappingProxyType({})
    against: str | None = None  # name of the row that it is compared with
    question: str | None = None  # answered "yes" where this row is higher (``lower``: lower)
    reported: float | None = None  # public test accuracy in the report, %
    claim: str | None = None  # what the report concludes
    lower: bool = False
    measure: str = "accuracy"  # of the question; or "memorized", a share of the false labels
    leak: bool = False  # trained on the test images too


class Study(NamedTuple):
    """A grid of runs: every row with every seed."""

    text: str
    rows: tuple[Row, ...]
    preset: str = "resnet20"
    epochs: int = 200
    seeds: int = 3


_PLAIN = {"flip": False, "crop_pad": 0, "mixup_alpha": 0.0}
_FLIP_CROP = {"mixup_alpha": 0.0}
_AUGMENTATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "flip": ("flip", {"flip": True}),
    "crop": ("crop out of 4 pixels of padding", {"crop_pad": 4}),
    "shift": ("shift up to 10 %", {"shift": 0.1}),
    "rotation": ("rotation up to 15 degrees", {"rotation": 15.0}),
    "colour": ("colour jitter 0.2", {"colour_jitter": 0.2}),
    "pca": ("PCA jitter 0.1", {"pca_jitter": 0.1}),
    "noise": ("Gaussian noise 0.05", {"pixel_noise": 0.05}),
}
_SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "constant": ("constant rate", {"schedule": "constant"}),
    "steps": ("the Keras example's steps", {"schedule": "steps"}),
    "cosine": ("one cosine", {}),
    # A third of the run, then two thirds.
    "restart": (
        "two cosines, t_mult 2",
        {"t_0": lambda c: -(-(c["epochs"] - c.get("warmup_epochs", 0)) // 3), "t_mult": 2},
    ),
}


def _row_of_schedules(kind: str, warm: bool) -> Row:
    text, overrides = _SCHEDULES[kind]
    if warm:
        claim = "warm-up keeps deep networks stable"
        overrides = {**overrides, "warmup_epochs": 5}
        question = "does warm-up of 5 epochs help?"
        return Row(f"{kind}_warm", f"{text}, warm-up", overrides, kind, question, claim=claim)
    if kind == "constant":
        return Row(kind, text, overrides)
    claim = None if kind == "steps" else "its success is not often seen in practice"
    return Row(kind, text, overrides, "constant", "does it help?", claim=claim)


def _row_of_noise(percent: int, alpha: float) -> Row:
    text = f"{percent} % false labels, {f'mixup {alpha:g}' if alpha else 'no mixup'}"
    overrides = {"label_noise": percent / 100, "mixup_alpha": alpha}
    name, plain = f"noise{percent}_mixup{alpha:g}", f"noise{percent}_mixup0"
    if not alpha:
        return Row(name, text, overrides)
    if not percent:
        return Row(name, text, overrides, plain, "does mixup help?")
    question, claim = "does mixup memorize fewer false labels?", "it does"
    return Row(
        *(name, text, overrides, plain, question),
        claim=claim,
        lower=True,
        measure="memorized",
    )


STUDIES: dict[str, Study] = {
    "tables": Study(
        "The report's tables 1 to 3: its base, then one optimization on top of the other.",
        (
            Row(
                "base",
                "Adam, a constant rate, flip and crop, all of them ours",
                PRESETS["baseline"],
                reported=88.21,
            ),
            Row(
                "mixup",
                "base + mixup; alpha 0.2 is ours",
                {**_NO_DROPOUT, "schedule": "constant"},
                *("base", "does mixup help?", 89.54, "mixup helps the model generalize better"),
            ),
            Row(
                "cosine",
                "+ cosine decay; without restarts is ours",
                _NO_DROPOUT,
                *("mixup", "does the cosine help?", 89.62, "89.62 with it, 89.54 without"),
            ),
            Row(
                "adam",
                "+ dropout, Adam: the final learner",
                {},
                *("cosine", "does dropout help?", 97.47, "part of the best learner"),
            ),
            Row(
                "rmsprop",
                "final learner with RMSprop; its rate of 1e-3 is ours",
                {"optimizer": "rmsprop"},
                *("adam", "is RMSprop worse than Adam?", 96.84, "Adam is better", True),
            ),
            Row(
                "sgd",
                "final learner with SGD; 1e-3 and no momentum are ours",
                {"optimizer": "sgd"},
                *("rmsprop", "is SGD worse than RMSprop?", 67.92, "RMSprop is better", True),
            ),
            Row(
                "sgd_tuned",
                "final learner with SGD, Nesterov 0.9; rate 0.05 is ours",
                {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "nesterov": True},
                *("adam", "is tuned SGD worse than Adam?"),
                lower=True,
            ),
        ),
    ),
    "leak": Study(
        "Where could 97.47 come from? The final learner, and one trained on the test images too.",
        (
            Row("honest", "final learner", reported=97.47),
            Row(
                "leak",
                "final learner, TRAINED ON THE TEST IMAGES TOO",
                against="honest",
                question="does training on the test images raise their accuracy?",
                leak=True,
            ),
        ),
        seeds=1,
    ),
    "augmentation": Study(
        "The augmentations of the report's source [3] (Jia et al. 2017), in the final learner "
        "without mixup.",
        (
            Row("none", "no augmentation", _PLAIN),
            *(
                Row(name, text, {**_PLAIN, **overrides}, "none", "does it help?")
                for name, (text, overrides) in _AUGMENTATIONS.items()
            ),
            Row(
                "flip_crop",
                "flip + crop",
                _FLIP_CROP,
                *("flip", "is it better than flip alone?"),
                claim="its source [3] found flip and crop the best pair",
            ),
            *(
                Row(
                    f"flip_crop_{name}",
                    f"flip + crop + {text}",
                    {**_FLIP_CROP, **overrides},
                    *("flip_crop", "does it help on top of flip + crop?"),
                )
                for name, (text, overrides) in _AUGMENTATIONS.items()
                if name not in ("flip", "crop")
            ),
        ),
    ),
    "schedules": Study(
        "Schedules and warm-up, after the report's source [4] (arXiv:1810.13243).",
        tuple(_row_of_schedules(kind, warm) for warm in (False, True) for kind in _SCHEDULES),
    ),
    "noise": Study(
        "False labels and mixup, after the report's source [5] (arXiv:1710.09412, section 3.4).",
        tuple(
            _row_of_noise(percent, alpha) for percent in (0, 20, 40) for alpha in (0.0, 0.2, 1.0)
        ),
    ),
}
"""The grids of ``main.py study``."""


def study_overrides(study: Study, row: Row, seed: int, overrides: dict[str, Any]) -> dict[str, Any]:
    """What one run of a study has in place of its preset's values.

    Args:
        study: of ``STUDIES``.
        row: one of its rows.
        seed: of the run.
        overrides: values by key, in place of the row's.

    Returns:
        Values by key, for ``configure`` to check.
    """
    chosen = {"epochs": study.epochs, **row.overrides, **overrides, "seed": seed}
    return {k: v(chosen) if callable(v) else v for k, v in chosen.items()}


def configure(
    preset: str, overrides: dict[str, Any], base: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compose the two dictionaries of a run: defaults, then the preset, then the overrides.

    Args:
        preset: a key of ``PRESETS``.
        overrides: values by key.
        base: values by key that take the place of the preset's, such as those of a run.json.

    Returns:
        ``model_configs`` and ``training_configs``, complete and checked.

    Raises:
        ValueError: an unknown key, a value of the wrong type or outside its range.
    """
    chosen = {**(PRESETS[preset] if base is None else base), **overrides}
    unknown = sorted(set(chosen) - set(MODEL_KEYS) - set(TRAINING_KEYS))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; see python main.py train --help")
    configs = tuple(
        {name: check(name, key, chosen.get(name, key.default)) for name, key in keys.items()}
        for keys in KEYS.values()
    )
    check_depth(configs[0]["depth"])
    check_schedule(configs[1])
    return configs


def doubts(overrides: dict[str, Any], configs: dict[str, Any]) -> list[str]:
    """Name what was asked for and changes nothing, or not what it seems to.

    Args:
        overrides: the values that a person gave, by key.
        configs: the complete ``training_configs``.

    Returns:
        A sentence for each.
    """
    lines = [line for name in overrides if (line := why_no_effect(name, configs))]
    return [*lines, line] if (line := cut_cosine(configs)) else lines


def cut_cosine(configs: dict[str, Any]) -> str:
    """A sentence if a run of these complete ``training_configs`` ends at a high rate; else ""."""
    period, ends = configs["t_0"], [0]
    if configs["schedule"] == "cosine" and period:
        epochs = configs["epochs"] - configs["warmup_epochs"]
        while ends[-1] < epochs:
            ends.append(ends[-1] + period)
            period *= configs["t_mult"]
        # At seven eighths of a cosine the rate is 4 % of the highest.
        if ends[-1] - epochs > (ends[-1] - ends[-2]) / 8:
            whole = " or ".join(str(end + configs["warmup_epochs"]) for end in ends[-2:] if end)
            return (
                f"epochs: the run ends in the middle of a cosine, at a high rate; {whole} epochs "
                "would end with one"
            )
    return ""


def small_epochs(configs: dict[str, Any]) -> int:
    """How many epochs, the first ones, train on shrunk images (``ImageUtils.shrink``)."""
    return round(configs["small_share"] * configs["epochs"])


def why_no_effect(name: str, configs: dict[str, Any]) -> str:
    """Why a key has no effect in the complete ``training_configs``, in a sentence; "" if it has."""
    for other, values in TRAINING_KEYS[name].needs.items() if name in TRAINING_KEYS else ():
        found = configs[other]
        if found not in values if values else not found:
            wanted = " or ".join(values) if values else "above 0"
            return f"{name} has no effect: it needs {other} {wanted}, found {found}"
    if name == "small_share" and configs[name] and not small_epochs(configs):
        return f"{name} has no effect: {configs[name]} of {configs['epochs']} epochs is none"
    return ""


def flags(values: dict[str, Any]) -> list[str]:
    """The flags of ``main.py train`` that set keys to these values."""
    words = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words


def check(name: str, key: Key, value: Any) -> Any:
    """``value`` if it has the type and range of ``key`` (an integer may stand for a float).

    Raises:
        ValueError: it has not.
    """
    kind = type(key.default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {kind.__name__}, found {value!r}")
    if key.choices and value not in key.choices:
        raise ValueError(f"{name}: expected one of {', '.join(key.choices)}, found {value!r}")
    if key.low is not None and not key.low <= value <= key.high:
        raise ValueError(f"{name}: expected {describe_range(key)}, found {value!r}")
    return value


def describe_range(key: Key) -> str:
    """The values that a key of choices or numbers takes, in words."""
    if key.choices:
        return " | ".join(key.choices)
    return f"{key.low}..{key.high}" if key.high < math.inf else f"{key.low} or more"


def check_depth(depth: int) -> None:
    """Raise ``ValueError`` unless ``depth`` is 6n + 2 with n >= 1."""
    if depth < 8 or (depth - 2) % 6:
        below = max(8, depth - (depth - 2) % 6)
        raise ValueError(
            f"depth: expected 6n + 2 (8, 14, 20, 26, 32, ...), found {depth}; "
            f"the nearest are {below} and {below + 6}"
        )


def check_schedule(configs: dict[str, Any]) -> None:
    """Raise ``ValueError`` if keys of the schedule contradict each other."""
    if configs["warmup_epochs"] >= configs["epochs"]:
        raise ValueError(
            f"warmup_epochs: expected fewer than epochs ({configs['epochs']}), "
            f"found {configs['warmup_epochs']}"
        )
    if configs["eta_min"] > configs["learning_rate"]:
        raise ValueError(
            f"eta_min: expected at most learning_rate ({configs['learning_rate']}), "
            f"found {configs['eta_min']}"
        )
