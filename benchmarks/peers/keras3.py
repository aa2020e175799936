"""Stock Keras 3, whose batch norm is not fused."""

import keras

from harness import serve
from peers import fit

if __name__ == "__main__":
    serve(**fit.modes(keras))
