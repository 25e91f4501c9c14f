//! A real S3 server on loopback (S3Proxy over a folder): fetched once, started, awaited, and gone when dropped. Of many
//! conditional writes of one object it lets exactly one through, and what it has answered for survives its end.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::guard::{self, Guarded};
use crate::ports::free_addresses;
use crate::skip::{Skip, prepared};

/// The bucket that every server has.
pub const BUCKET: &str = "lakes";
/// Who may use it.
pub const ACCESS_KEY_ID: &str = "meterline-tests";
/// That one's secret, which must never be told.
pub const SECRET_ACCESS_KEY: &str = "a-secret-that-nothing-may-tell";

const START_LIMIT: Duration = Duration::from_secs(60);

/// One S3 server with a folder of its own and the bucket [`BUCKET`].
#[derive(Debug)]
pub struct S3 {
    jars: PathBuf,
    home: TempDir,
    port: u16,
    process: Option<Guarded>,
}

impl S3 {
    /// Fetches the server if this is the first time, starts it and waits until it answers.
    ///
    /// [`Skip`] says what the machine lacks. A server that does not start is a fault, and panics with its log.
    pub fn start() -> Result<S3, Skip> {
        let jars = jars()?;
        // Another process may take the port between our choice and the server's start: choose again.
        for _ in 0..2 {
            if let Ok(server) = S3::try_start(&jars) {
                return Ok(server);
            }
        }
        S3::try_start(&jars).map_err(|log| panic!("the S3 server did not start; its log ends with\n{log}"))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The folder in which it keeps the objects of [`BUCKET`] as files, for looking at them behind its back.
    pub fn folder(&self) -> PathBuf {
        self.home.path().join("data").join(BUCKET)
    }

    /// A file with the credentials, in the form of `~/.aws/credentials`.
    pub fn credentials_file(&self) -> PathBuf {
        self.home.path().join("credentials")
    }

    /// Whether it is there.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// Ends it at once; [`S3::restart`] brings it back.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again with the same data and port.
    pub fn restart(&mut self) {
        self.process = None;
        self.run().unwrap_or_else(|log| panic!("the S3 server did not start again; its log ends with\n{log}"));
    }

    fn try_start(jars: &Path) -> Result<S3, String> {
        let port = free_addresses(1)[0].port();
        let home = tempfile::Builder::new().prefix("meterline-s3-").tempdir().expect("make a data folder");
        guard::remove_at_exit(home.path());
        let properties = include_str!("../s3/server.properties")
            .replace("@PORT@", &port.to_string())
            .replace("@IDENTITY@", ACCESS_KEY_ID)
            .replace("@CREDENTIAL@", SECRET_ACCESS_KEY)
            .replace("@DATA@", &home.path().join("data").display().to_string());
        let credentials =
            format!("[default]\naws_access_key_id = {ACCESS_KEY_ID}\naws_secret_access_key = {SECRET_ACCESS_KEY}\n");
        let mut server = S3 { jars: jars.to_owned(), home, port, process: None };
        for (name, text) in [
            ("server.properties", properties.as_str()),
            ("logback.xml", include_str!("../s3/logback.xml")),
            ("credentials", &credentials),
        ] {
            fs::write(server.home.path().join(name), text).expect("write the server's files");
        }
        // A bucket is a folder.
        fs::create_dir_all(server.folder()).expect("make the bucket");
        server.run()?;
        Ok(server)
    }

    fn run(&mut self) -> Result<(), String> {
        let log = self.home.path().join("server.log");
        let output = fs::File::options().create(true).append(true).open(&log).expect("open the server's log");
        let errors = output.try_clone().expect("share the server's log");
        let mut command = Command::new("java");
        command
            .args(["-Xmx512m", "-XX:+UseSerialGC", "-Dlogback.configurationFile=logback.xml", "-cp"])
            .arg(self.jars.join("*"))
            .args(["org.gaul.s3proxy.Main", "--properties", "server.properties"])
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let mut process = Guarded::spawn(&mut command).map_err(|e| format!("java: {e}"))?;
        let until = Instant::now() + START_LIMIT;
        while !answers(self.address()) {
            if process.ended().is_some() || Instant::now() > until {
                drop(process);
                return Err(fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.process = Some(process);
        Ok(())
    }
}

/// Whether an HTTP server answers anything.
fn answers(address: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut first = [0; 5];
        stream.read_exact(&mut first)?;
        std::io::Result::Ok(&first == b"HTTP/")
    };
    ask().unwrap_or(false)
}

/// The folder of the server's jars, fetched by `s3/fetch` the first time.
fn jars() -> Result<PathBuf, Skip> {
    static JARS: OnceLock<Result<PathBuf, Skip>> = OnceLock::new();
    JARS.get_or_init(|| prepared("s3/fetch")).clone()
}
