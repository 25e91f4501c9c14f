"""LightGBM on rows of features: one model a quantile level, how long training took, and what they predict.

Standard input: {"rows", "trained", "features", "levels", "every", "settings": {name: parameters of our booster}}. The
file `features` has a column after the other, `targets` and `weights` a value a row, 32 bits each; the first `trained`
rows are trained on, the others predicted.

Standard output: {"version" with the name, "settings": {name: {"seconds": [...], "cpu_s"}}}: seconds from the first look at the rows to
`every`, 2 `every`, ... trees of all levels; and a file for each setting: so many times rows x levels, 64 bits a value.

As many levels at a time as there are processors, one thread each: threads that share a tree wait for each other after
every split, and where something else runs beside them they took ten times as long. The seconds are those that the levels
took, spread evenly over the processors.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import lightgbm
import numpy as np


def translated(params):
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
        "num_threads": 1,
        # Spares it the trial of both ways; this is the faster one here.
        "force_col_wise": True,
        "verbosity": -1,
    }


def trained(data, params, level):
    """The model of a level, and seconds from its begin to the end of each of its trees."""
    rounds, ends = params["rounds"], []
    begun = time.perf_counter()
    booster = lightgbm.train(
        translated(params) | {"alpha": level},
        data,
        num_boost_round=rounds,
        callbacks=[lambda _: ends.append(time.perf_counter() - begun)],
    )
    # One that finds no more split stops early.
    return booster, np.array(ends + ends[-1:] * (rounds - len(ends)))


def main():
    job = json.load(sys.stdin)
    rows, features, every, levels = job["trained"], job["features"], job["every"], job["levels"]
    cores = min(len(os.sched_getaffinity(0)), len(levels))
    # A row after the other is what LightGBM takes without a copy.
    x = np.ascontiguousarray(np.fromfile("features", dtype="<f4").reshape(features, -1).T)
    y, weights = (np.fromfile(name, dtype="<f4") for name in ("targets", "weights"))
    answer = {}
    for name, params in job["settings"].items():
        print(f"LightGBM, {name}: {rows} rows, {len(levels)} levels", file=sys.stderr)
        begun, cpu = time.perf_counter(), time.process_time()
        # The levels share the bins, which are made once, by all processors.
        binning = translated(params) | {"num_threads": cores}
        data = lightgbm.Dataset(x[:rows], y[:rows], weight=weights[:rows], params=binning)
        data.construct()
        seconds = time.perf_counter() - begun
        with ThreadPoolExecutor(cores) as pool:
            models = list(pool.map(lambda level: trained(data, params, level), levels))
        cpu = time.process_time() - cpu
        seconds += sum(ends for _, ends in models)[every - 1 :: every] / cores
        found = [
            # Levels that cross are sorted, as ours are.
            np.sort(np.stack([b.predict(x[rows:], num_iteration=trees) for b, _ in models], axis=1), axis=1)
            for trees in range(every, params["rounds"] + 1, every)
        ]
        np.stack(found).astype("<f8").tofile(name)
        answer[name] = {"seconds": seconds.tolist(), "cpu_s": cpu}
    json.dump({"version": f"LightGBM {lightgbm.__version__}", "settings": answer}, sys.stdout)


main()
