//! Apache Flink at the same job: see `bench/flink/IngestJob.java`.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use arrow::array::AsArray;
use arrow::compute::kernels::aggregate::sum;
use arrow::datatypes::Float64Type;
use meterline_tests::checkout;
use meterline_tests::guard::Guarded;
use meterline_tests::sandbox::Sandbox;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::Failure;
use super::engine::same;
use super::process::{Usage, usage};

/// Its name in reports.
pub const NAME: &str = "Apache Flink 2.2.0";
const LIMIT: Duration = Duration::from_secs(3600);
/// As our `ingest.commit_interval`.
const CHECKPOINT_MS: u64 = 10_000;
const HEAP: &str = "4g";

/// What Flink did.
#[derive(Debug, Clone, Copy)]
pub struct Flinked {
    /// From the start of its process to the last Parquet file that a checkpoint made visible.
    pub seconds: f64,
    /// Readings per second at work: from the first record read to the last row in its file, or of the second half of
    /// the readings alone, whichever is more.
    pub steady: f64,
    /// What its process had cost by its end.
    pub usage: Usage,
    /// Files that checkpoints made visible.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// The class path of the job, made at the first call.
pub fn prepare() -> Result<String, Failure> {
    let fetch = checkout::root().join("bench/flink/fetch");
    let done = Command::new(&fetch).stderr(Stdio::inherit()).output()?;
    if !done.status.success() {
        return Err("Apache Flink cannot be prepared".into());
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// Runs the job over a topic of so many readings with so much energy (kWh), and checks what it wrote.
pub fn run(brokers: &str, topic: &str, readings: u64, energy: f64) -> Result<Flinked, Failure> {
    let classes = prepare()?;
    let place = Sandbox::new();
    let (output, checkpoints) = (place.path().join("intervals"), place.path().join("checkpoints"));
    let workers = std::thread::available_parallelism()?.get();
    let mut java = Command::new("java");
    java.arg(format!("-Xmx{HEAP}")).arg(format!("-Xms{HEAP}"));
    // As Flink's own start scripts: its serializers look into the library.
    for package in ["java.lang", "java.net", "java.io", "java.nio", "java.text", "java.time", "java.util"] {
        java.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
    }
    java.arg("-XX:+UseParallelGC")
        .arg("-Djava.io.tmpdir=.")
        .args(["-cp", &classes, "IngestJob", brokers, topic])
        .arg(format!("file://{}", output.display()))
        .arg(format!("file://{}", checkpoints.display()))
        .args([CHECKPOINT_MS.to_string(), workers.to_string(), "snappy".to_owned(), readings.to_string()])
        .current_dir(place.path())
        .stdin(Stdio::null())
        .stdout(File::create(place.path().join("out"))?)
        .stderr(File::create(place.path().join("err"))?);
    let (started, until) = (SystemTime::now(), Instant::now() + LIMIT);
    let mut process = Guarded::spawn(&mut java)?;
    let mut cost = Usage::default();
    let status = loop {
        cost = usage(process.id()).unwrap_or(cost);
        if let Some(status) = process.ended() {
            break status;
        }
        if Instant::now() > until {
            return Err(format!("{NAME} did not end within {LIMIT:?}").into());
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let errors = fs::read_to_string(place.path().join("err"))?;
    if !status.success() {
        return Err(format!("{NAME} failed ({status}):\n{errors}").into());
    }
    let marks: Value = serde_json::from_str(&fs::read_to_string(place.path().join("out"))?)?;
    let files = committed(&output)?;
    check(&files, readings, energy)?;
    let mut last = started;
    let mut bytes = 0;
    for file in &files {
        let metadata = fs::metadata(file)?;
        bytes += metadata.len();
        // The last change of its inode is its new name.
        last = last.max(SystemTime::UNIX_EPOCH + Duration::new(metadata.ctime() as u64, metadata.ctime_nsec() as u32));
    }
    Ok(Flinked {
        seconds: last.duration_since(started).unwrap_or_default().as_secs_f64(),
        steady: steady(&marks, readings).ok_or_else(|| format!("{NAME} did not say when it did what: {marks}"))?,
        usage: cost,
        files: files.len(),
        bytes,
    })
}

fn steady(marks: &Value, readings: u64) -> Option<f64> {
    let at = |name: &str| marks[name].as_f64().filter(|ms| *ms > 0.0);
    let (first, half, last) = (at("first_read_ms")?, at("half_read_ms")?, at("last_row_ms")?);
    let rate = |readings: f64, ms: f64| readings / (ms.max(1.0) / 1e3);
    Some(rate(readings as f64, last - first).max(rate(readings as f64 / 2.0, last - half)))
}

// Files under their final names; those in progress begin with a dot.
fn committed(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-")) {
            files.push(path);
        }
    }
    Ok(files)
}

fn check(files: &[PathBuf], readings: u64, energy: f64) -> Result<(), Failure> {
    let (mut rows, mut sums) = (0, 0.0);
    for file in files {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(file)?)?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), ["value"]);
        for batch in builder.with_projection(mask).with_batch_size(65_536).build()? {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            let values = batch.column(0).as_primitive_opt::<Float64Type>().ok_or("no values")?;
            sums += sum(values).unwrap_or(0.0);
        }
    }
    same(NAME, (rows, sums), (readings, energy))
}
