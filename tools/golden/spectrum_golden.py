"""Goldens of spectra: plan/spectrum.json, singular values by numpy.linalg.svd in float64.

Matrices are made from the integer generator of quant_golden.py (test/quant/inputs.ts has the same one).
"""
import json

import numpy as np

from quant_golden import bell
from record import ROOT, numbers, versions

ADAPTERS = [  # outputs, rank, inputs, scale
    (40, 6, 25, 1.0), (200, 8, 160, 2.0), (5, 8, 30, 0.5), (30, 8, 5, 1.0), (64, 1, 64, 16.0), (300, 32, 100, 0.25),
]
MATRICES = [  # rows, cols, rank planted (0: none), noise
    (30, 50, 0, 1.0), (50, 30, 0, 1.0), (1, 7, 0, 1.0), (7, 1, 0, 1.0), (140, 200, 0, 1.0), (200, 150, 5, 0.0),
    (40, 60, 5, 0.0), (160, 130, 5, 1e-3), (260, 300, 12, 1e-2),
]


def matrix(rows, cols, rank, noise, seed):
    """Planted directions fall by 0.8 each; the noise is added in float64, the sum rounded once."""
    values = noise * bell(rows * cols, seed).astype(np.float64).reshape(rows, cols)
    left = bell(rows * rank, seed + 1).astype(np.float64).reshape(rows, rank)
    right = bell(rank * cols, seed + 2).astype(np.float64).reshape(rank, cols)
    return (values + (left * 0.8 ** np.arange(rank)) @ right).astype(np.float32)


def main():
    adapters = []
    for i, (outputs, rank, inputs, scale) in enumerate(ADAPTERS):
        seed = 100 + 10 * i
        b = bell(outputs * rank, seed).reshape(outputs, rank).astype(np.float64)
        a = bell(rank * inputs, seed + 1).reshape(rank, inputs).astype(np.float64)
        values = np.linalg.svd(scale * (b @ a), compute_uv=False)
        adapters.append({"outputs": outputs, "rank": rank, "inputs": inputs, "scale": scale, "seed": seed,
                         "singularValues": numbers(values[:rank], 12)})
    matrices = []
    for i, (rows, cols, rank, noise) in enumerate(MATRICES):
        seed = 500 + 10 * i
        made = matrix(rows, cols, rank, noise, seed)
        values = np.linalg.svd(made.astype(np.float64), compute_uv=False)
        held = np.cumsum(values**2) / np.sum(values**2)
        shares = values / values.sum()
        entropy = -np.sum(shares[shares > 0] * np.log(shares[shares > 0]))
        matrices.append({"rows": rows, "cols": cols, "planted": rank, "noise": noise, "seed": seed,
                         "singularValues": numbers(values, 9),
                         "ranks": [int(np.searchsorted(held, share) + 1) for share in (0.9, 0.95, 0.99)],
                         "numericalRank": int(np.linalg.matrix_rank(made)), "effectiveRank": float(np.exp(entropy))})
    target = ROOT / "plan" / "spectrum.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = [",\n".join(json.dumps(case) for case in part) for part in (adapters, matrices)]
    head = json.dumps(versions("numpy"))
    target.write_text(f'{{"versions": {head},\n"adapters": [\n{rows[0]}\n],\n"matrices": [\n{rows[1]}\n]}}\n')


if __name__ == "__main__":
    main()
