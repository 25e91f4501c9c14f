"""Models of statsforecast, series by series, on all processors: what they forecast and what that takes.

Standard input: {"series": N, "horizon": H, "levels": [...], "models": [{"name", "series": file, "periods"}]}; a file
holds N series of equal length, 32 bits a value, each with its last H values to be forecast.

Standard output: {"models": {name: {"label", "seconds", "cpu_s"}}}, for one pass over all series; and a file for each
model: series x horizon x (mean, a quantile a level), 64 bits a value.
"""

import os

# One process a processor, each with one thread. NumPy reads that when it is loaded.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import json
import math
import multiprocessing
import sys
import time
import warnings

import numpy as np
import statsforecast
from statsforecast import models as sf
from statsforecast.utils import ConformalIntervals

# Least time that is measured, in seconds.
SECONDS_MIN = 1.0
# Series that each process forecasts before anything is measured.
WARM = 2
# Harmonics of the day and of the week: what AICc prefers for nearly all of these series, as ours finds out.
HARMONICS = (2, 17)


def fourier(steps, periods):
    """Sines and cosines of the periods, made once for all series."""
    t = np.arange(steps)
    # Those that both have are there once.
    a_step = sorted({k / period for period, most in zip(periods, HARMONICS) for k in range(1, most + 1)})
    waves = [wave(2 * np.pi * turns * t) for turns in a_step for wave in (np.cos, np.sin)]
    return np.stack(waves, axis=1)


def counterpart(name, periods, horizon):
    """The model that stands beside ours, and what it is called. None where there is none."""
    # Without a season of its own, as ours, and additive.
    rest = sf.AutoETS(model="AZN")
    # Every position of a smoother is evaluated by default; ours, and R's, do so at every tenth part of a window.
    jumps = {"seasonal_jump": 2, "trend_jump": 5, "low_pass_jump": 3}
    # These have no quantiles but from forecasts of earlier parts of the series: of as few as are allowed.
    earlier = ConformalIntervals(n_windows=2, h=horizon)
    known = {
        "seasonal_naive": lambda: (sf.SeasonalNaive(periods[0]), "SeasonalNaive"),
        "ets": lambda: (sf.AutoETS(periods[0], model="AZZ"), "AutoETS AZZ"),
        "theta": lambda: (sf.DynamicOptimizedTheta(periods[0]), "DynamicOptimizedTheta"),
        "mstl": lambda: (sf.MSTL(periods, trend_forecaster=rest, stl_kwargs=jumps), "MSTL, AutoETS AZN"),
        # By likelihood, its default: by least squares alone it takes a third of the time, and hardly sees the errors' lags.
        "harmonic": lambda: (sf.ARIMA((3, 0, 0)), "ARIMA(3,0,0), Fourier"),
        "croston": lambda: (sf.CrostonOptimized(prediction_intervals=earlier), "CrostonOptimized, conformal"),
        "sba": lambda: (sf.CrostonSBA(prediction_intervals=earlier), "CrostonSBA, conformal"),
        "tsb": lambda: (sf.TSB(0.1, 0.1, prediction_intervals=earlier), "TSB(0.1, 0.1), conformal"),
    }
    return known[name]() if name in known else None


class Run:
    """One model over the series of one file."""

    def __init__(self, job, asked):
        self.horizon, self.levels = job["horizon"], job["levels"]
        values = np.fromfile(asked["series"], dtype="<f4").astype(np.float64).reshape(job["series"], -1)
        self.known = np.ascontiguousarray(values[:, : -self.horizon])
        self.model, self.label = counterpart(asked["name"], asked["periods"], self.horizon)
        # Central intervals, in per cent; the median is the mean.
        self.central = [round(100 * abs(1 - 2 * level), 6) for level in self.levels]
        self.arguments = {"h": self.horizon, "level": sorted({central for central in self.central if central > 0})}
        if "Fourier" in self.label:
            waves = fourier(values.shape[1], asked["periods"])
            self.arguments |= {"X": waves[: -self.horizon], "X_future": waves[-self.horizon :]}

    def forecast(self, begin, end):
        return [self.model.forecast(y=series, **self.arguments) for series in self.known[begin:end]]

    def numbers(self, forecast):
        """Steps x (mean, quantiles)."""
        columns = [forecast["mean"]]
        for level, central in zip(self.levels, self.central):
            side = "lo" if level < 0.5 else "hi"
            columns.append(forecast[f"{side}-{central}"] if central > 0 else forecast["mean"])
        return np.stack(columns, axis=1).astype(np.float64)


# The processes are forks: they have what is set here.
run = None


def warm(_):
    run.forecast(0, WARM)
    # So long that every process gets one.
    time.sleep(0.2)


def part(task):
    begin, end, passes = task
    started, cpu = time.perf_counter(), time.process_time()
    for _ in range(passes):
        forecasts = run.forecast(begin, end)
    cpu, ended = time.process_time() - cpu, time.perf_counter()
    return started, ended, cpu, [run.numbers(forecast) for forecast in forecasts]


def measure(pool, series, cores, passes):
    """Seconds by the clock and of processors for one pass, and the forecasts."""
    several = max(1, series // (16 * cores))
    tasks = [(begin, min(begin + several, series), passes) for begin in range(0, series, several)]
    parts = list(pool.imap(part, tasks))
    # Nothing between the first forecast's begin and the last one's end is left out but for what a process hands over.
    seconds = max(ended for _, ended, _, _ in parts) - min(started for started, _, _, _ in parts)
    cpu = sum(cpu for _, _, cpu, _ in parts)
    return seconds / passes, cpu / passes, np.concatenate([numbers for *_, numbers in parts])


def main():
    global run
    warnings.filterwarnings("ignore")
    job = json.load(sys.stdin)
    cores, series = len(os.sched_getaffinity(0)), job["series"]
    answer = {}
    for asked in job["models"]:
        if counterpart(asked["name"], asked["periods"], job["horizon"]) is None:
            continue
        run = Run(job, asked)
        print(f"statsforecast {run.label}: {series} series", file=sys.stderr)
        with multiprocessing.get_context("fork").Pool(cores) as pool:
            pool.map(warm, range(cores), chunksize=1)
            seconds, cpu, numbers = measure(pool, series, cores, 1)
            if seconds < SECONDS_MIN:
                seconds, cpu, numbers = measure(pool, series, cores, math.ceil(SECONDS_MIN / seconds))
        numbers.astype("<f8").tofile(asked["name"])
        label = f"statsforecast {statsforecast.__version__} {run.label}"
        answer[asked["name"]] = {"label": label, "seconds": seconds, "cpu_s": cpu}
    json.dump({"models": answer}, sys.stdout)


main()
