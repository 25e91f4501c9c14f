//! What others reached, as data. Two kinds: figures that the benchmark's own description lists, written down here with
//! their source; and result files of public benchmarks, read from the data folder where they lie.
//!
//! Traps of the result files:
//!
//! * fev-bench (`published/fev`): LightGBM and CatBoost have an SQL that is their MASE to the last digit, as point
//!   forecasts have whose value stands for every quantile: no probabilistic figure; files differ in their columns;
//!   fingerprints of the data differ between rows of one task, so not every row is from the same copy;
//!   `trained_on_this_dataset` marks models that have seen the data;
//! * GIFT-Eval (`published/gift_eval`): some files are empty; sMAPE is a fraction, not percent; MSIS is not read, because
//!   the files do not say which interval it scores;
//! * M4 (`m4_hourly/m4_*.csv`): two lines of header, the second of which calls the method `User ID`; footnotes below
//!   the table; ACD is the distance of the coverage from .95, not the coverage.

use std::path::{Path, PathBuf};

use super::table::{Row, Table};
use super::{Metric, PeerRow};

const LOAD_SOURCE: &str = "measured on two cores, 2026-11-24, same origins";

/// ND, wQL, MASE and coverage of one model on P1, P2, P3 and P4.
type LoadRow = (&'static str, [[f64; 4]; 4]);

#[expect(clippy::approx_constant, reason = "a MASE of 0.318 has nothing to do with π")]
const LOAD: [LoadRow; 6] = [
    (
        "seasonal naive, day",
        [
            [0.115608, 0.0927, 1.067, 0.777],
            [0.582266, 0.4724, 1.049, 0.738],
            [0.074443, 0.0600, 0.872, 0.860],
            [0.198708, 0.1591, 1.603, 0.757],
        ],
    ),
    (
        "seasonal naive, week",
        [
            [0.103105, 0.0829, 0.884, 0.833],
            [0.599132, 0.4806, 1.123, 0.792],
            [0.072563, 0.0584, 0.850, 0.801],
            [0.162570, 0.1343, 1.311, 0.849],
        ],
    ),
    (
        "MSTL + AutoETS",
        [
            [0.0908, 0.0735, 0.786, 0.775],
            [0.5208, 0.4331, 0.964, 0.891],
            [0.0530, 0.0438, 0.620, 0.713],
            [0.1690, 0.1323, 1.363, 0.772],
        ],
    ),
    (
        "ridge",
        [
            [0.0851, 0.0675, 0.785, 0.764],
            [0.4728, 0.3804, 0.907, 0.666],
            [0.0272, 0.0218, 0.318, 0.770],
            [0.0423, 0.0349, 0.341, 0.885],
        ],
    ),
    (
        "LightGBM",
        [
            [0.0831, 0.0661, 0.711, 0.788],
            [0.4177, 0.3269, 0.781, 0.652],
            [0.0249, 0.0200, 0.291, 0.726],
            [0.0503, 0.0402, 0.406, 0.766],
        ],
    ),
    (
        "mean of ridge and LightGBM",
        [
            [0.0811, 0.0642, 0.711, 0.818],
            [0.4152, 0.3244, 0.784, 0.711],
            [0.0234, 0.0188, 0.274, 0.796],
            [0.0431, 0.0349, 0.348, 0.867],
        ],
    ),
];

/// Peers of the load protocol `P1`, `P2`, `P3` or `P4`: ND, wQL, MASE and coverage. No row for any other name.
///
/// "Seasonal naive": the value, and the empirical quantiles of its past errors per series and step. MSTL: statsforecast
/// with an AutoETS trend, refitted at each origin. Ridge: one per series and hour, quantiles from out-of-fold residuals,
/// fitted in 0.2 to 2 s. LightGBM: one global direct model a quantile, the level of the last 7 days removed, lags of 1,
/// 2, 3, 7 … 28 days, rolling means, calendar and covariates, 300 rounds of 31 leaves, untuned, fitted in 10 to 68 s.
///
/// Ratios between learned models carry ± 0.03 to 0.12 of sampling noise: compare pairwise on the same origins.
pub fn load_peers(protocol: &str) -> Vec<PeerRow> {
    let Some(of) = ["P1", "P2", "P3", "P4"].iter().position(|p| *p == protocol) else { return vec![] };
    let metrics = [Metric::Nd, Metric::Wql, Metric::Mase, Metric::Coverage];
    let row = |(model, figures): &LoadRow| {
        let figures: Vec<(Metric, f64)> = metrics.into_iter().zip(figures[of]).collect();
        PeerRow::new(model, &figures, LOAD_SOURCE)
    };
    LOAD.iter().map(row).collect()
}

/// UCI LD2011_2014, hourly, a day ahead in the week of 2014-09-01, all 370 clients, context 168 hours: ND of the median
/// and P90 risk. They do not compare with figures of the ten clients that are here.
pub fn uci_week() -> Vec<PeerRow> {
    let source = "published, 370 clients, context 168 h";
    let row = |model, figures: &[(Metric, f64)]| PeerRow::new(model, figures, source).of_other_series();
    let both = |model, nd, p90| row(model, &[(Metric::Nd, nd), (Metric::P90Risk, p90)]);
    let one = |model, nd| row(model, &[(Metric::Nd, nd)]);
    vec![
        both("TFT", 0.055, 0.027),
        both("ConvTrans", 0.059, 0.034),
        one("N-BEATS-G", 0.064),
        one("seasonal naive, day", 0.0693),
        // 0.07 in its own paper.
        both("DeepAR", 0.075, 0.040),
        one("ETS", 0.102),
        one("ARIMA", 0.154),
    ]
}

/// M4 Hourly, h = 48: sMAPE in percent, MASE (m = 24), OWA against Naive2, MSIS at 95 %.
pub fn m4_hourly() -> Vec<PeerRow> {
    use Metric::{Mase, Msis, Nd, Owa, Smape};
    let official = "M4 competition, official tables";
    let point = |model, smape, mase, owa| PeerRow::new(model, &[(Smape, smape), (Mase, mase), (Owa, owa)], official);
    let mut best = point("entry 238, the best at this frequency", 8.913, 0.801, 0.410);
    best.figures.push((Msis, 6.139));
    vec![
        best,
        point("ES-RNN, entry 118, the winner", 9.328, 0.893, 0.440),
        point("seasonal naive, day", 13.912, 1.193, 0.627),
        point("Naive2", 18.383, 2.395, 1.0),
        PeerRow::new("Theta", &[(Owa, 1.006)], official),
        PeerRow::new("ARIMA", &[(Msis, 7.538)], official),
        PeerRow::new("ETS", &[(Msis, 17.487)], official),
        PeerRow::new("TiRex, zero-shot", &[(Mase, 0.722)], "GIFT-Eval"),
        PeerRow::new("Chronos-2, zero-shot", &[(Mase, 0.788)], "GIFT-Eval"),
        PeerRow::new("N-BEATS-G", &[(Nd, 0.023)], "published"),
    ]
}

/// MSE and MAE in standardised units over all channels of `ETTm1` or `ETTh1` under the long-horizon protocol, at
/// horizon 96, 192, 336 or 720. No row for anything else.
pub fn ett(name: &str, horizon: usize) -> Vec<PeerRow> {
    use Metric::{Mae, Mse};
    let source = "published, look-back 336 or 512";
    let row = |model, mse, mae| PeerRow::new(model, &[(Mse, mse), (Mae, mae)], source);
    let dlinear = |mse, mae| PeerRow::new("DLinear", &[(Mse, mse), (Mae, mae)], "Zeng et al. 2023, look-back 336");
    match (name, horizon) {
        ("ETTm1", 96) => vec![
            row("PatchTST", 0.290, 0.342),
            dlinear(0.299, 0.343),
            PeerRow::new("N-HiTS family", &[(Mse, 0.30)], "published, to two digits"),
            row("FEDformer", 0.326, 0.390),
            row("seasonal naive, day", 0.423, 0.387),
            row("Informer", 0.626, 0.560),
            row("repeat last", 1.214, 0.665),
        ],
        ("ETTm1", 192) => vec![row("PatchTST", 0.332, 0.369), dlinear(0.335, 0.365)],
        ("ETTm1", 336) => vec![row("PatchTST", 0.366, 0.392), dlinear(0.369, 0.386)],
        ("ETTm1", 720) => vec![row("PatchTST", 0.416, 0.420), dlinear(0.425, 0.421)],
        ("ETTh1", 96) => vec![row("PatchTST", 0.370, 0.400), dlinear(0.375, 0.399)],
        ("ETTh1", 192) => vec![row("PatchTST", 0.413, 0.429), dlinear(0.405, 0.416)],
        ("ETTh1", 336) => vec![row("PatchTST", 0.422, 0.440), dlinear(0.439, 0.443)],
        ("ETTh1", 720) => vec![row("PatchTST", 0.447, 0.468), dlinear(0.472, 0.490)],
        _ => vec![],
    }
}

/// `ETT_15T` of fev-bench, h = 96, 20 windows: SQL, MASE and WAPE (as [`Metric::Nd`]). Of ETTm1 and ETTm2 together,
/// of which only the first is here.
pub fn fev_ett_15t() -> Vec<PeerRow> {
    use Metric::{Mase, Nd, Sql};
    let source = "fev-bench, task ETT_15T: ETTm1 and ETTm2 together";
    let row = |model, figures: &[(Metric, f64)]| PeerRow::new(model, figures, source).of_other_series();
    vec![
        row("Seasonal Naive", &[(Sql, 0.762), (Mase, 0.917), (Nd, 0.147)]),
        row("AutoTheta", &[(Sql, 1.099), (Mase, 0.802), (Nd, 0.133)]),
        row("LightGBM", &[(Sql, 0.861)]),
        row("DeepAR", &[(Sql, 0.713), (Mase, 0.870)]),
        row("TFT", &[(Sql, 0.651), (Mase, 0.826)]),
        row("PatchTST", &[(Sql, 0.580), (Mase, 0.734), (Nd, 0.119)]),
        row("Chronos-2", &[(Sql, 0.546), (Mase, 0.695), (Nd, 0.113)]),
        row("Toto-2.0-2.5B", &[(Sql, 0.534)]),
    ]
}

/// `proenfo_gfc14` of fev-bench: GEFCom2014 load as the ProEnFo collection has it, h = 168, 20 windows, temperature
/// known: SQL and MASE. Other windows than P4, so the figures do not compare with those of P4.
pub fn fev_gefcom() -> Vec<PeerRow> {
    use Metric::{Mase, Sql};
    let source = "fev-bench, task proenfo_gfc14";
    let row = |model, sql, mase| PeerRow::new(model, &[(Sql, sql), (Mase, mase)], source);
    vec![
        row("Seasonal Naive", 1.075, 1.199),
        row("DeepAR", 0.392, 0.493),
        row("TFT", 0.399, 0.489),
        row("Chronos-2", 0.430, 0.539),
    ]
}

/// All rows of one task (such as `ETT_15T`) in the result files of fev-bench, best SQL first: SQL, MASE, WAPE (as
/// [`Metric::Nd`]) and weighted quantile loss, where a file has them.
///
/// # Errors
/// A file that cannot be read, or has no such columns.
pub fn fev(data: &Path, task: &str) -> Result<Vec<PeerRow>, String> {
    let mut found = Vec::new();
    for path in csv_files(&data.join("published/fev"))? {
        let table = Table::open(&path)?;
        let [model, name] = [table.column("model_name")?, table.column("task_name")?];
        let [windows, trained] = [table.column("num_windows")?, table.column("trained_on_this_dataset")?];
        let wanted = [("SQL", Metric::Sql), ("MASE", Metric::Mase), ("WAPE", Metric::Nd), ("WQL", Metric::Wql)];
        for row in table.rows() {
            if row.text(name)? != task {
                continue;
            }
            let mut source = format!("fev-bench, task {task}, {} windows", row.text(windows)?);
            if row.text(trained)? == "True" {
                source.push_str("; trained on this data set");
            }
            let figures = figures(&table, row, &wanted)?;
            found.push(PeerRow::new(row.text(model)?, &figures, &source));
        }
    }
    let key = |row: &PeerRow| row.get(Metric::Sql).unwrap_or(f64::INFINITY);
    found.sort_by(|a, b| key(a).total_cmp(&key(b)));
    Ok(found)
}

/// All rows of one data set (such as `m4_hourly/H/short`) in the result files of GIFT-Eval, best MASE first: MASE, ND
/// and weighted quantile loss.
///
/// # Errors
/// A file that cannot be read, or has no such columns.
pub fn gift_eval(data: &Path, dataset: &str) -> Result<Vec<PeerRow>, String> {
    let mut found = Vec::new();
    for path in csv_files(&data.join("published/gift_eval"))? {
        let table = Table::open(&path)?;
        let [model, name] = [table.column("model")?, table.column("dataset")?];
        let wanted = [
            ("eval_metrics/MASE[0.5]", Metric::Mase),
            ("eval_metrics/ND[0.5]", Metric::Nd),
            ("eval_metrics/mean_weighted_sum_quantile_loss", Metric::Wql),
        ];
        for row in table.rows() {
            if row.text(name)? == dataset {
                let figures = figures(&table, row, &wanted)?;
                let source = format!("GIFT-Eval, {dataset}");
                found.push(PeerRow::new(row.text(model)?, &figures, &source));
            }
        }
    }
    let key = |row: &PeerRow| row.get(Metric::Mase).unwrap_or(f64::INFINITY);
    found.sort_by(|a, b| key(a).total_cmp(&key(b)));
    Ok(found)
}

/// The official tables of the M4 competition at the hourly frequency: every benchmark and entry with sMAPE in percent,
/// MASE and OWA, and with MSIS where it gave intervals. Entries are numbers.
///
/// # Errors
/// A file that cannot be read, or has no such columns.
pub fn m4_official(data: &Path) -> Result<Vec<PeerRow>, String> {
    let points = Table::open(&data.join("m4_hourly/m4_point_forecasts_by_frequency.csv"))?;
    let intervals = Table::open(&data.join("m4_hourly/m4_prediction_intervals_by_frequency.csv"))?;
    let mut found: Vec<PeerRow> = Vec::new();
    for (table, metrics) in [
        (&points, vec![("sMAPE", Metric::Smape), ("MASE", Metric::Mase), ("OWA", Metric::Owa)]),
        (&intervals, vec![("MSIS", Metric::Msis)]),
    ] {
        let columns: Result<Vec<(usize, Metric)>, String> =
            metrics.into_iter().map(|(group, metric)| Ok((hourly_column(table, group)?, metric))).collect();
        let columns = columns?;
        for row in table.rows().skip(1) {
            let method = row.text(0)?;
            // Footnotes have the text of the first column alone.
            let last = columns.last().map_or(0, |(column, _)| *column);
            if method.is_empty() || row.text(last).is_ok_and(str::is_empty) {
                continue;
            }
            let i = found.iter().position(|known| known.model == method).unwrap_or_else(|| {
                found.push(PeerRow::new(method, &[], "M4 competition, official tables"));
                found.len() - 1
            });
            for (column, metric) in &columns {
                found[i].figures.push((*metric, double(row, *column)?));
            }
        }
    }
    Ok(found)
}

/// The column `Hourly` of a group: the first line names the group above its first column, the second the frequencies.
fn hourly_column(table: &Table, group: &str) -> Result<usize, String> {
    let first = table.column(group)?;
    let frequencies = table.rows().next().ok_or_else(|| format!("{} has no second line", table.file()))?;
    let found = frequencies.fields().enumerate().skip(first).find(|(_, name)| *name == "Hourly");
    found.map(|(column, _)| column).ok_or_else(|| frequencies.refuse(&format!("no column `Hourly` below `{group}`")))
}

/// The named figures of a row, without those whose field is empty.
fn figures(table: &Table, row: Row<'_>, wanted: &[(&str, Metric)]) -> Result<Vec<(Metric, f64)>, String> {
    let mut found = Vec::with_capacity(wanted.len());
    for (name, metric) in wanted {
        let column = table.column(name)?;
        if !row.text(column)?.is_empty() {
            found.push((*metric, double(row, column)?));
        }
    }
    Ok(found)
}

fn double(row: Row<'_>, column: usize) -> Result<f64, String> {
    let text = row.text(column)?;
    text.trim().parse().map_err(|_| row.refuse(&format!("`{text}` is not a number")))
}

/// The files of a folder that are not empty, by name.
fn csv_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let refuse = |e: std::io::Error| {
        format!("reading {}: {e}; name the folder with the data by METERLINE_DATA", folder.display())
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let is_csv = entry.path().extension().is_some_and(|ending| ending == "csv");
        if is_csv && entry.metadata().map_err(refuse)?.len() > 0 {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_protocol_has_all_its_peers_and_no_other_name_has_any() {
        for protocol in ["P1", "P2", "P3", "P4"] {
            let rows = load_peers(protocol);
            assert_eq!(rows.len(), 6, "{protocol}");
            for row in &rows {
                let nd = row.get(Metric::Nd).unwrap();
                let wql = row.get(Metric::Wql).unwrap();
                assert!(wql < nd, "{protocol} {}: quantiles are worth something", row.model);
                assert!((0.6..0.95).contains(&row.get(Metric::Coverage).unwrap()), "{protocol} {}", row.model);
            }
        }
        assert!(load_peers("P5").is_empty());
        assert!(ett("ETTm1", 97).is_empty() && ett("ETTm2", 96).is_empty());
    }
}
