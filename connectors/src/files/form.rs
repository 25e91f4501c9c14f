//! What is in which column, decided from the first rows alone.

use std::path::Path;
use std::sync::Arc;

use meterline_schemas::config::Label;
use meterline_schemas::unit::Unit;

use super::FileOptions;
use crate::stamp::{Stamp, from_integer};

/// The form of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// Whether the first row names the columns.
    pub header: bool,
    /// Names of all columns, made up (`column 1`) where there is no header.
    pub names: Vec<String>,
    /// Column with the stamp.
    pub stamp: usize,
    /// Long or wide.
    pub shape: Shape,
    /// Unit of the values, where it is known and the same for all.
    pub unit: Option<Unit>,
    /// Which end of the interval the stamps mark.
    pub label: Label,
    /// What is beside the readings.
    pub covariates: Covariates,
}

/// The covariates that were asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Covariates {
    /// Their columns, in the order in which they were asked for; `None` where the file has none of that name.
    pub columns: Vec<Option<usize>>,
    /// Names of all columns of the file, where any was asked for.
    pub header: Vec<String>,
}

/// How readings lie in rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// One reading a row.
    Long {
        /// Column with the series identifier.
        series: usize,
        /// Column with the value.
        value: usize,
        /// Column with the unit.
        unit: Option<usize>,
        /// Column with the quality.
        quality: Option<usize>,
    },
    /// One row a stamp.
    Wide {
        /// One column a series.
        columns: Vec<Column>,
    },
}

/// One series of a wide file.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Position in the row.
    pub index: usize,
    /// Series identifier.
    pub series: Arc<str>,
    /// Unit, where known.
    pub unit: Option<Unit>,
}

// In the order of preference.
const SERIES_NAMES: &[&str] = &[
    "series_id",
    "series",
    "item_id",
    "meter_id",
    "unique_id",
    "mpid",
    "mpan",
    "meter",
    "channel_id",
    "channel",
    "sensor_id",
    "site_id",
    "customer_id",
    "client_id",
    "customer",
    "client",
    "lclid",
    "id",
    "name",
];
const VALUE_NAMES: &[&str] = &[
    "value",
    "target",
    "y",
    "reading",
    "kwh",
    "kw",
    "wh",
    "w",
    "mwh",
    "mw",
    "energy",
    "power",
    "load",
    "consumption",
    "demand",
];
const TIME_NAMES: &[&str] =
    &["timestamp", "ts", "time", "datetime", "date_time", "ds", "stamp", "epoch", "unix", "unixtime", "date"];
const INDEX_NAMES: &[&str] = &["", "index", "unnamed: 0", "__index_level_0__"];

/// Finds the form from the first rows; the first of them may be the header. Columns that are named `covariates` are
/// nothing else.
///
/// # Errors
/// The text says what is missing and what to do.
pub fn detect(
    rows: &[Vec<String>],
    header: Option<bool>,
    path: &Path,
    options: &FileOptions,
    covariates: &[String],
) -> Result<Form, String> {
    let Some(first) = rows.first() else { return Err("it has no rows".into()) };
    let header = header.unwrap_or_else(|| is_header(first));
    let names: Vec<String> = match header {
        true => first.iter().map(|cell| cell.trim().to_owned()).collect(),
        false => (1..=first.len()).map(|i| format!("column {i}")).collect(),
    };
    let mut sample = Sample { names: &names, rows: &rows[usize::from(header)..], covariates: Vec::new() };
    let covariates = sample.covariates(covariates);
    sample.covariates = covariates.columns.iter().flatten().copied().collect();
    if sample.rows.is_empty() {
        return Err("it has a header and no rows".into());
    }
    let stamp = match &options.time_column {
        Some(name) => sample.position(name)?,
        None => sample.stamp(header)?,
    };
    let published = header && is_ld2011(&names);
    let shape = match sample.long(header, stamp, options)? {
        Some(long) => long,
        None if !covariates.columns.is_empty() => {
            return Err(format!(
                "covariates are columns of long files, which have a header and columns for series, stamp and value, and this \
                 one is not: name those columns (they are {}), or leave the covariates out",
                list(&names)
            ));
        }
        None => Shape::Wide { columns: sample.wide(stamp, path, options)? },
    };
    sample.are_apart(stamp, &shape)?;
    let column_unit = match &shape {
        Shape::Long { value, .. } => unit_of_name(&names[*value]),
        Shape::Wide { columns } => {
            let first = columns.first().and_then(|c| c.unit.clone());
            first.filter(|unit| columns.iter().all(|c| c.unit.as_ref() == Some(unit)))
        }
    };
    let unit = options.unit.clone().or(column_unit).or(published.then_some(Unit::KW));
    let label = options.label.unwrap_or_else(|| label_of_name(&names[stamp]));
    Ok(Form { header, names, stamp, shape, unit, label, covariates })
}

/// The published form of `LD2011_2014.txt`: an empty first header cell, then clients `MT_001` …
fn is_ld2011(names: &[String]) -> bool {
    let client =
        |n: &String| n.strip_prefix("MT_").is_some_and(|d| d.len() == 3 && d.bytes().all(|b| b.is_ascii_digit()));
    names.len() > 1 && names[0].is_empty() && names[1..].iter().all(client)
}

fn is_header(first: &[String]) -> bool {
    let words = first.iter().any(|cell| !is_missing(cell) && parse_number(cell).is_none());
    words && !first.iter().any(|cell| is_clock(cell))
}

/// A stamp that cannot be mistaken for a number.
fn is_clock(cell: &str) -> bool {
    parse_number(cell).is_none() && Stamp::parse(cell).is_some()
}

fn label_of_name(name: &str) -> Label {
    let name = name.to_lowercase();
    if ["start", "begin", "from"].iter().any(|word| name.contains(word)) { Label::Begin } else { Label::End }
}

/// The unit in a column's name: `Load [MWh]`, `Load (MW)`, `kWh`.
fn unit_of_name(name: &str) -> Option<Unit> {
    let inner = name.rsplit_once(['[', '(']).map_or(name, |(_, rest)| rest.trim_end_matches([']', ')']));
    let Ok(unit) = inner.trim().parse::<Unit>();
    match unit {
        Unit::Power(_) | Unit::Energy(_) => Some(unit),
        Unit::Other(_) => ["kW", "kWh", "MW", "MWh", "Wh", "GWh"]
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(inner.trim()))
            .and_then(|known| known.parse().ok()),
    }
}

struct Sample<'a> {
    names: &'a [String],
    rows: &'a [Vec<String>],
    covariates: Vec<usize>,
}

impl Sample<'_> {
    fn find(&self, name: &str) -> Option<usize> {
        let exact = self.names.iter().position(|n| n == name);
        exact.or_else(|| self.names.iter().position(|n| n.eq_ignore_ascii_case(name)))
    }

    fn position(&self, name: &str) -> Result<usize, String> {
        self.find(name).ok_or_else(|| format!("it has no column `{name}`; its columns are {}", list(self.names)))
    }

    fn covariates(&self, asked: &[String]) -> Covariates {
        let header = if asked.is_empty() { Vec::new() } else { self.names.to_vec() };
        Covariates { columns: asked.iter().map(|name| self.find(name)).collect(), header }
    }

    /// Refuses a covariate that is read as something else: it was named as that, too.
    fn are_apart(&self, stamp: usize, shape: &Shape) -> Result<(), String> {
        let (series, value) = match shape {
            Shape::Long { series, value, .. } => (*series, *value),
            Shape::Wide { .. } => return Ok(()),
        };
        for (column, what) in [(stamp, "time stamp"), (series, "series"), (value, "value")] {
            if self.covariates.contains(&column) {
                return Err(format!(
                    "its column `{}` is the {what} and cannot be a covariate, too",
                    self.names[column]
                ));
            }
        }
        Ok(())
    }

    fn cells(&self, column: usize) -> impl Iterator<Item = &str> {
        self.rows.iter().filter_map(move |row| row.get(column).map(String::as_str)).filter(|cell| !is_missing(cell))
    }

    fn all(&self, column: usize, is: impl Fn(&str) -> bool) -> bool {
        self.cells(column).all(is)
    }

    // Most rows decide, so that one bad row at the top is reported as a bad row.
    fn mostly(&self, column: usize, is: impl Fn(&str) -> bool) -> bool {
        let (mut yes, mut total) = (0, 0);
        for cell in self.cells(column) {
            total += 1;
            yes += usize::from(is(cell));
        }
        yes * 2 > total
    }

    fn by_name(&self, known: &[&str]) -> Option<usize> {
        let is = |(column, name): (usize, &String), known: &str| {
            name.eq_ignore_ascii_case(known) && !self.covariates.contains(&column)
        };
        known.iter().find_map(|known| self.names.iter().enumerate().position(|named| is(named, known)))
    }

    /// The first column of dates with a time of day, else of dates, else a column of epoch numbers with a fitting name.
    fn stamp(&self, header: bool) -> Result<usize, String> {
        let columns = 0..self.names.len();
        let clocks: Vec<usize> = columns.filter(|&c| self.mostly(c, is_clock)).collect();
        let timed = clocks.iter().copied().find(|&c| self.mostly(c, |cell| cell.contains(':')));
        if let Some(found) = timed.or(clocks.first().copied()) {
            return Ok(found);
        }
        let is_epoch =
            |cell: &str| cell.parse::<i64>().ok().is_some_and(|n| n > 100_000_000 && from_integer(n).is_some());
        let numbers = if header { self.by_name(TIME_NAMES) } else { Some(0) };
        numbers.filter(|&c| self.all(c, is_epoch)).ok_or_else(|| {
            let example = self.rows.first().map(|row| list(row)).unwrap_or_default();
            format!("no column holds time stamps like 2024-01-31 00:15:00 (a row: {example}); name the column with the option for it")
        })
    }

    fn long(&self, header: bool, stamp: usize, options: &FileOptions) -> Result<Option<Shape>, String> {
        let named = |option: &Option<String>, known: &[&str]| match option {
            Some(name) => self.position(name).map(Some),
            None => Ok(self.by_name(known).filter(|&c| c != stamp)),
        };
        if !options.columns.is_empty() {
            return Ok(None);
        }
        if !header {
            return Ok(self.long_without_header(stamp));
        }
        let series = named(&options.series_column, SERIES_NAMES)?;
        let Some(series) = series else {
            return match &options.value_column {
                Some(_) if options.series.is_none() => {
                    Err("a value column is named and no series column; name both, or the one series".into())
                }
                _ => Ok(None),
            };
        };
        let value = match named(&options.value_column, VALUE_NAMES)? {
            Some(value) => value,
            None => {
                // One other column of numbers is it, whatever its name.
                let mut numbers = (0..self.names.len())
                    .filter(|&c| c != stamp && c != series && !is_index(&self.names[c]))
                    .filter(|c| !self.covariates.contains(c))
                    .filter(|&c| self.mostly(c, |cell| parse_number(cell).is_some()));
                match (numbers.next(), numbers.next()) {
                    (Some(value), None) => value,
                    _ if options.series_column.is_none() && self.covariates.is_empty() => return Ok(None),
                    _ => {
                        let empty = if self.covariates.is_empty() { "" } else { " (of covariates alone an empty one)" };
                        return Err(format!(
                            "which column holds the value{empty}? Name it; its columns are {}",
                            list(self.names)
                        ));
                    }
                }
            }
        };
        Ok(Some(Shape::Long { series, value, unit: self.by_name(&["unit"]), quality: self.by_name(&["quality"]) }))
    }

    /// Three columns of which one is text: stamp, series and value in any order.
    fn long_without_header(&self, stamp: usize) -> Option<Shape> {
        let rest: Vec<usize> = (0..self.names.len()).filter(|&c| c != stamp).collect();
        let &[a, b] = rest.as_slice() else { return None };
        let number = |c: usize| self.mostly(c, |cell| parse_number(cell).is_some());
        let (series, value) = match (number(a), number(b)) {
            (false, true) => (a, b),
            (true, false) => (b, a),
            _ => return None,
        };
        Some(Shape::Long { series, value, unit: None, quality: None })
    }

    fn wide(&self, stamp: usize, path: &Path, options: &FileOptions) -> Result<Vec<Column>, String> {
        let mut chosen: Vec<usize> = match options.columns.as_slice() {
            [] => (0..self.names.len())
                .filter(|&c| c != stamp && !(is_index(&self.names[c]) && c < stamp))
                .filter(|&c| self.mostly(c, |cell| parse_number(cell).is_some()) || self.cells(c).next().is_none())
                .collect(),
            names => names.iter().map(|n| self.position(n)).collect::<Result<_, _>>()?,
        };
        if let Some(name) = &options.value_column
            && options.columns.is_empty()
        {
            chosen = vec![self.position(name)?];
        }
        if chosen.is_empty() {
            return Err(format!("no column beside the stamp holds numbers; its columns are {}", list(self.names)));
        }
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let generic = |c: usize| VALUE_NAMES.iter().any(|v| v.eq_ignore_ascii_case(&self.names[c]));
        let mut seen = std::collections::BTreeSet::new();
        let single = chosen.len() == 1;
        chosen
            .into_iter()
            .map(|index| {
                let name = &self.names[index];
                if !seen.insert(name) {
                    return Err(format!("two columns are called `{name}`; rename one"));
                }
                let series = match (&options.series, &stem) {
                    (Some(prefix), _) if single => prefix.clone(),
                    (Some(prefix), _) => format!("{prefix}/{name}"),
                    (None, Some(stem)) if single && generic(index) => stem.clone(),
                    (None, _) => name.clone(),
                };
                Ok(Column { index, series: series.into(), unit: options.unit.clone().or_else(|| unit_of_name(name)) })
            })
            .collect()
    }
}

fn is_index(name: &str) -> bool {
    INDEX_NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Names for people, in quotes; of many the first ones.
pub fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// Whether a cell says that there is no value.
pub fn is_missing(cell: &str) -> bool {
    let cell = cell.trim();
    cell.is_empty()
        || cell == "-"
        || ["nan", "na", "n/a", "null", "none", "#n/a"].iter().any(|word| cell.eq_ignore_ascii_case(word))
}

/// What a cell says of a value; nothing where it says that there is none.
///
/// # Errors
/// It is no number.
pub fn value_of(cell: &str) -> Result<Option<f64>, String> {
    match parse_number(cell) {
        Some(value) => Ok(Some(value)),
        None if is_missing(cell) => Ok(None),
        None => Err(format!("`{cell}` is no number")),
    }
}

/// A finite number with a decimal point or comma. Of two kinds of separator the last is the decimal one.
pub fn parse_number(cell: &str) -> Option<f64> {
    let cell = cell.trim();
    if let Ok(value) = cell.parse::<f64>() {
        return value.is_finite().then_some(value);
    }
    let comma = cell.rfind(',')?;
    let mut digits = [0_u8; 64];
    let mut n = 0;
    let decimal_is_point = cell.rfind('.').is_some_and(|point| point > comma);
    for b in cell.bytes() {
        let b = match (b, decimal_is_point) {
            (b',', true) | (b'.', false) => continue,
            (b',', false) => b'.',
            (b, _) => b,
        };
        *digits.get_mut(n)? = b;
        n += 1;
    }
    let value = std::str::from_utf8(&digits[..n]).ok()?.parse::<f64>().ok()?;
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_points_or_commas() {
        for (text, value) in [
            ("1.25", Some(1.25)),
            ("-0,5", Some(-0.5)),
            (" 3,0 ", Some(3.0)),
            ("5.56E-11", Some(5.56e-11)),
            ("1.234,5", Some(1234.5)),
            ("1,234.5", Some(1234.5)),
            ("144,817073170731", Some(144.817073170731)),
            ("inf", None),
            ("NaN", None),
            ("TRUE", None),
            ("1,2,3", None),
            ("", None),
        ] {
            assert_eq!(parse_number(text), value, "{text}");
        }
    }

    #[test]
    fn units_stand_in_column_names() {
        for (name, unit) in [
            ("Residuallast [MWh]", Some("MWh")),
            ("load (kW)", Some("kW")),
            ("kwh", Some("kWh")),
            ("MT_001", None),
            ("temperature [degC]", None),
        ] {
            assert_eq!(unit_of_name(name).map(|u| u.to_string()).as_deref(), unit, "{name}");
        }
    }
}
