"""Golden vectors: inputs, cotangents and float64 truths for kernels written elsewhere."""
