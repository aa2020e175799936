"""Stock Keras 2, whose batch norm is fused."""

import tf_keras

from harness import serve
from peers import fit

if __name__ == "__main__":
    serve(**fit.modes(tf_keras))
