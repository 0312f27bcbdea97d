#!/usr/bin/env bash
# scikit-learn 1.9.1, numpy 2.4.6: PCA of float32 activations that do not lie around 0
#
# Expected: PCA subtracts the mean first, so that 20,000 activations of 64 dimensions with mean 100 and standard
#     deviations 0.1 to 1 give in float32 the variances and directions that they give in float64.
# Seen: the first variance is 1.6 instead of 1.0 and its direction has a cosine of 0.4 with the right one; the
#     smallest variance is 0. With mean 1000 they are 119 and 0.005. Digits depend on the BLAS. explained_variance_ratio_ adds up to 1, and
#     nothing warns. With svd_solver="full", or in float64, all is right.
# Where: decomposition/_pca.py, `_fit_full`: with svd_solver="auto" an array of at most 1,000 columns and at least
#     ten times as many rows goes to "covariance_eigh", which computes X.T @ X in the array's own type and only
#     then subtracts n * mean @ mean.T. The documentation of svd_solver says "on centered data", and warns of data
#     with a large range of singular values only.
# What to do: center first, convert to float64, or say svd_solver="full".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
cd "$folder"
env/bin/python - <<'EOF'
import warnings

import numpy as np
from sklearn.decomposition import PCA

warnings.simplefilter("error")
rng = np.random.default_rng(0)
noise = rng.standard_normal((20_000, 64)) * np.linspace(0.1, 1, 64)
for mean, factor in ((100, 1.05), (1000, 5)):
    x = noise + mean
    right, auto = PCA().fit(x), PCA().fit(x.astype(np.float32))
    full = PCA(svd_solver="full").fit(x.astype(np.float32))
    cosine = abs(auto.components_[0] @ right.components_[0])
    print(f"mean {mean}: first variance {right.explained_variance_[0]:.3f}, in float32 {auto.explained_variance_[0]:.3f}",
          f"('full': {full.explained_variance_[0]:.3f}), last {right.explained_variance_[-1]:.4f}, in float32",
          f"{auto.explained_variance_[-1]:.4f}; cosine of the first directions {cosine:.3f}")
    assert auto._fit_svd_solver == "covariance_eigh"
    assert 0.9 < right.explained_variance_[0] < 1.1 and 0.9 < full.explained_variance_[0] < 1.1
    assert auto.explained_variance_[0] > factor * right.explained_variance_[0]
    assert mean < 1000 or (cosine < 0.5 and auto.explained_variance_[-1] == 0)
    assert abs(auto.explained_variance_ratio_.sum() - 1) < 1e-3
EOF
