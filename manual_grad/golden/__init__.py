"""Golden vectors: inputs, cotangents and float64 references for kernels written elsewhere."""
