"""LightGBM on rows of features: one model a quantile level, how long each tree took, and what they predict.

Standard input: {"rows", "trained", "features", "levels", "every", "settings": {name: parameters of our booster}}. The
file `features` has a column after the other, `targets` and `weights` a value a row, 32 bits each; the first `trained`
rows are trained on, the others predicted.

Standard output: {"version", "settings": {name: {"seconds": [...], "cpu_s"}}}: seconds from the first look at the rows to
`every`, 2 `every`, ... trees of all levels; and a file for each setting: so many times rows x levels, 64 bits a value.
"""

import json
import os
import sys
import time

import lightgbm
import numpy as np


def translated(params, cores):
    """Our names to LightGBM's."""
    return {
        "objective": "quantile",
        "learning_rate": params["learning_rate"],
        "num_leaves": params["leaves_max"],
        "min_data_in_leaf": params["leaf_rows_min"],
        "lambda_l2": params["leaf_l2"],
        "min_gain_to_split": params["gain_min"],
        "max_bin": params["bins_max"],
        "feature_fraction": params["feature_fraction"],
        "bagging_fraction": params["bagging_fraction"],
        "bagging_freq": 1,
        "seed": params["seed"],
        "num_threads": cores,
        # Spares it the trial of both ways; with so many more rows than features this is the faster one.
        "force_col_wise": True,
        "verbosity": -1,
    }


def main():
    job = json.load(sys.stdin)
    trained, features, every = job["trained"], job["features"], job["every"]
    # A row after the other is what LightGBM takes without a copy.
    x = np.ascontiguousarray(np.fromfile("features", dtype="<f4").reshape(features, -1).T)
    y, weights = (np.fromfile(name, dtype="<f4") for name in ("targets", "weights"))
    answer = {}
    for name, params in job["settings"].items():
        translation = translated(params, len(os.sched_getaffinity(0)))
        rounds = params["rounds"]
        print(f"LightGBM {name}: {trained} rows, {len(job['levels'])} levels", file=sys.stderr)
        begun, cpu = time.perf_counter(), time.process_time()
        # The levels share the bins, which are made once.
        data = lightgbm.Dataset(x[:trained], y[:trained], weight=weights[:trained], params=translation)
        data.construct()
        seconds = np.full(rounds // every, time.perf_counter() - begun)
        boosters = []
        for level in job["levels"]:
            ends = []
            started = time.perf_counter()
            booster = lightgbm.train(
                translation | {"alpha": level},
                data,
                num_boost_round=rounds,
                callbacks=[lambda _: ends.append(time.perf_counter())],
            )
            boosters.append(booster)
            # One that finds no more split stops early.
            ends += ends[-1:] * (rounds - len(ends))
            seconds += np.array(ends[every - 1 :: every]) - started
        cpu = time.process_time() - cpu
        found = [
            # Levels that cross are sorted, as ours are.
            np.sort(np.stack([b.predict(x[trained:], num_iteration=trees) for b in boosters], axis=1), axis=1)
            for trees in range(every, rounds + 1, every)
        ]
        np.stack(found).astype("<f8").tofile(name)
        answer[name] = {"seconds": seconds.tolist(), "cpu_s": cpu}
    json.dump({"version": lightgbm.__version__, "settings": answer}, sys.stdout)


main()
