"""Which formula do I need: by layer, what goes forward, what comes back, and the functions for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A layer: its formulas as LaTeX, its functions, its operation in ``manual_grad.ops`` and its tags."""

    name: str
    forward: str
    backward: tuple[str, ...]
    functions: tuple[str, ...]
    op: str
    tags: tuple[str, ...]
    group: str


LAYERS = (
    Layer(
        "Dense, a sample a row",
        r"Z = X W + \mathbf{1} b",
        (r"dX = dZ \, W^{\top}", r"dW = X^{\top} dZ", r"db = \mathbf{1}^{\top} dZ"),
        ("dense_rows_fwd", "dense_rows_bwd"),
        "dense",
        ("B-16", "D-09"),
        "Layers",
    ),
    Layer(
        "Dense, a sample a column",
        r"Z = W X + b \, \mathbf{1}^{\top}",
        (r"dX = W^{\top} dZ", r"dW = dZ \, X^{\top}", r"db = dZ \, \mathbf{1}"),
        ("dense_columns_fwd", "dense_columns_bwd"),
        "",
        ("B-15", "D-09"),
        "Layers",
    ),
    Layer(
        "Conv2D, any strides, padding, dilation, groups",
        r"Z = x \star K + b",
        (r"dx = dZ \star_{\text{full}} \operatorname{rot}_{180}(K)", r"dK = x \star dZ", r"db = \sum dZ"),
        ("conv2d_fwd", "conv2d_bwd"),
        "conv2d",
        ("C-08", "C-09", "C-10"),
        "Layers",
    ),
    Layer(
        "Cross-correlation of one channel",
        r"O_{ij} = \sum_{ab} X_{i+a, j+b} F_{ab}",
        (r"dX = dO \star_{\text{full}} \operatorname{rot}_{180}(F)", r"dF = X \star dO"),
        ("correlate2d_fwd", "correlate2d_bwd"),
        "",
        ("C-08", "C-09", "C-10", "C-11"),
        "Layers",
    ),
    Layer(
        "True convolution of one channel",
        r"Y_{ij} = \sum_{ab} X_{i-a, j-b} W_{ab}",
        (r"dX_{pq} = \sum_{ab} dY_{p+a, q+b} W_{ab}", r"dW_{ab} = \sum_{ij} dY_{ij} X_{i-a, j-b}"),
        ("convolve2d_fwd", "convolve2d_bwd"),
        "",
        ("C-07",),
        "Layers",
    ),
    Layer(
        "Flatten images into columns",
        r"X = \operatorname{reshape}(\text{images})^{\top}",
        (r"d\,\text{images} = \operatorname{reshape}(dX^{\top})",),
        ("flatten_columns_fwd", "flatten_columns_bwd"),
        "",
        ("D-01",),
        "Layers",
    ),
    Layer(
        "ReLU",
        r"a = \max(z, 0)",
        (r"dz = da \odot \mathbb{1}\{z > 0\}",),
        ("relu_fwd", "relu_bwd"),
        "relu",
        ("B-06",),
        "Activations",
    ),
    Layer(
        "Sigmoid",
        r"a = \frac{1}{1 + e^{-z}}",
        (r"dz = da \odot a (1 - a)",),
        ("sigmoid_fwd", "sigmoid_bwd"),
        "",
        ("C-02",),
        "Activations",
    ),
    Layer(
        "Tanh",
        r"a = \tanh z",
        (r"dz = da \odot (1 - a^2)",),
        ("tanh_fwd", "tanh_bwd"),
        "",
        ("C-02",),
        "Activations",
    ),
    Layer(
        "Softplus",
        r"a = \ln(1 + e^z)",
        (r"dz = da \odot \sigma(z)",),
        ("softplus_fwd", "softplus_bwd"),
        "",
        ("C-02",),
        "Activations",
    ),
    Layer(
        "Softmax",
        r"\hat{y}_k = \frac{e^{l_k}}{\sum_j e^{l_j}}",
        (r"dl_j = \hat{y}_j (d\hat{y}_j - \sum_k d\hat{y}_k \hat{y}_k)",),
        ("softmax_fwd", "softmax_bwd"),
        "softmax",
        ("A-07", "A-08"),
        "Activations",
    ),
    Layer(
        "Mean squared error",
        r"J = \frac{1}{N} \sum_i (y_i - \hat{y}_i)^2",
        (r"d\hat{y} = -\frac{2}{N} (y - \hat{y})",),
        ("mse_fwd", "mse_bwd"),
        "mse",
        ("A-04",),
        "Losses",
    ),
    Layer(
        "Cross-entropy of probabilities",
        r"J = -\frac{1}{N} \sum y \ln \hat{y}",
        (r"d\hat{y} = -\frac{1}{N} \frac{y}{\hat{y}}",),
        ("cross_entropy_fwd", "cross_entropy_bwd"),
        "",
        ("A-09", "D-04"),
        "Losses",
    ),
    Layer(
        "Softmax and cross-entropy together",
        r"J = -\frac{1}{N} \sum y \ln \operatorname{softmax}(l)",
        (r"dl = \frac{1}{N} (\hat{Y} \Sigma y - Y)",),
        ("softmax_cross_entropy_fwd", "softmax_cross_entropy_bwd"),
        "softmax_cross_entropy",
        ("A-10", "B-14", "D-06"),
        "Losses",
    ),
    Layer(
        "The same with integer labels",
        r"J = -\frac{1}{N} \sum_i \ln \hat{y}_{i, y_i}",
        (r"dl_{ik} = \frac{1}{N} (\hat{y}_{ik} - \mathbb{1}\{k = y_i\})",),
        (
            "softmax_cross_entropy_with_integer_labels_fwd",
            "softmax_cross_entropy_with_integer_labels_bwd",
        ),
        "softmax_cross_entropy_with_integer_labels",
        ("B-10", "B-14"),
        "Losses",
    ),
    Layer(
        "Last layer and loss together, without all logits at once",
        r"J = -\frac{1}{N} \sum_i \ln \operatorname{softmax}(h_i W)_{y_i}",
        (r"dh = dl \, W^{\top}", r"dW = h^{\top} dl"),
        ("linear_cross_entropy_fwd", "linear_cross_entropy_bwd"),
        "linear_cross_entropy",
        ("A-10",),
        "Losses",
    ),
    Layer(
        "Linear regression",
        r"\hat{y} = x w + b",
        (r"dw = -\frac{2}{N} x^{\top} (y - \hat{y})", r"db = -\frac{2}{N} \sum (y - \hat{y})"),
        ("linear_regression_fwd", "linear_regression_bwd"),
        "",
        ("A-05", "A-06"),
        "Whole networks",
    ),
    Layer(
        "ReLU network of two layers, a batch in rows",
        r"S = \operatorname{ReLU}(X W^{[1]} + \mathbf{1} b^{[1]}) W^{[2]} + \mathbf{1} b^{[2]}",
        (
            r"dS = \frac{1}{n} (P - Y)",
            r"dZ = dS \, W^{[2]\top} \odot \mathbb{1}\{Z > 0\}",
            r"dW^{[2]} = A^{\top} dS, \; dW^{[1]} = X^{\top} dZ",
        ),
        ("two_layer_cross_entropy_rows_fwd", "two_layer_cross_entropy_rows_bwd"),
        "",
        ("B-16",),
        "Whole networks",
    ),
    Layer(
        "Network of any depth",
        r"z^{l+1} = w^l a^l + b^l, \; a^l = f(z^l)",
        (
            r"\delta^l = (w^{l\top} \delta^{l+1}) \odot f'(z^l)",
            r"dw^l = \delta^{l+1} a^{l\top}, \; db^l = \delta^{l+1}",
        ),
        ("mlp_rows_fwd", "mlp_rows_bwd"),
        "",
        ("C-04", "C-05", "C-06"),
        "Whole networks",
    ),
    Layer(
        "Lecture A's CNN",
        r"X \rightarrow \text{Conv} \rightarrow \text{Conv} \rightarrow \text{Dense} \rightarrow "
        r"\text{Dense} \rightarrow J",
        (r"\text{each layer by its own formula, last to first}",),
        ("cnn_fwd", "cnn_bwd"),
        "",
        ("A-11",),
        "Whole networks",
    ),
    Layer(
        "A step of gradient descent",
        r"W \leftarrow W - \alpha \, dW",
        (),
        ("gradient_descent",),
        "",
        ("D-11",),
        "Whole networks",
    ),
)
