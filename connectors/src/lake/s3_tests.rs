//! What is particular to S3: which stores are refused, and answers that get lost on the way.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use meterline_schemas::config::S3Config;
use meterline_schemas::time::Span;
use meterline_tests::fault_proxy::{Fault, FaultProxy};
use meterline_tests::s3::{BUCKET, S3, SECRET_ACCESS_KEY};
use meterline_tests::skip::{Skip, or_skip};

use super::tests::{ODD_NAME, letters, owner, rows, txn};
use super::*;

/// The S3 server that the tests share, or `None` with a visible line where it cannot run.
pub(super) fn server(test: &str) -> Option<&'static S3> {
    static SERVER: OnceLock<Result<S3, Skip>> = OnceLock::new();
    or_skip(test, SERVER.get_or_init(S3::start).as_ref().map_err(Clone::clone))
}

/// A lake of its own at an endpoint.
pub(super) async fn lake(endpoint: &str) -> Result<Lake, LakeError> {
    Lake::configured(&config(endpoint)).await
}

fn config(endpoint: &str) -> LakeConfig {
    let credentials = server("").map(|server| server.credentials_file().display().to_string());
    let s3 = S3Config { endpoint: Some(endpoint.to_owned()), credentials_file: credentials, ..S3Config::default() };
    LakeConfig { url: format!("s3://{BUCKET}/{}/{ODD_NAME}", uuid::Uuid::now_v7()), s3 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_got_lost_is_neither_lost_nor_repeated() {
    let Some(server) = server("lost answers") else { return };
    let proxy = FaultProxy::start(server.address());
    let lake = lake(&proxy.endpoint()).await.unwrap();
    let mut owner = owner(&lake).await;
    let fence = owner.claim("job").await.unwrap();
    let mut committed = 0;
    // The client may send a put again by itself, and is told then that somebody was first: itself.
    for fault in [Fault::LandThenRefuse, Fault::LandThenHangUp, Fault::Refuse] {
        committed += 1;
        let files = owner.write(&letters(&[committed])).await.unwrap();
        let shown = format!("{fault:?}");
        proxy.on_put("_delta_log", 1, fault);
        let version = owner.commit(&files, &txn(committed), Some(&fence)).await.unwrap();
        assert_eq!((proxy.fired() as i64, rows(&lake).await), (committed, committed as u64), "{shown}");
        assert_eq!(owner.commit(&files, &txn(committed), Some(&fence)).await.unwrap(), version, "{shown}");
    }
    assert_eq!(rows(&lake).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_answer_got_lost_still_fences_others_out() {
    let Some(server) = server("lost claims") else { return };
    let proxy = FaultProxy::start(server.address());
    let lake = lake(&proxy.endpoint()).await.unwrap();
    let (mut old, mut new) = (owner(&lake).await, owner(&lake).await);
    let old_fence = old.claim("job").await.unwrap();
    proxy.on_put("_delta_log", 1, Fault::LandThenHangUp);
    let new_fence = new.claim("job").await.unwrap();
    assert!(new_fence.value() > old_fence.value());
    let files = old.write(&letters(&[1])).await.unwrap();
    assert!(matches!(old.commit(&files, &txn(1), Some(&old_fence)).await, Err(CommitError::Fenced { .. })));
    let files = new.write(&letters(&[1, 2])).await.unwrap();
    new.commit(&files, &txn(1), Some(&new_fence)).await.unwrap();
    assert_eq!(rows(&lake).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_creation_got_lost_is_there_once() {
    let Some(server) = server("lost creation") else { return };
    let proxy = FaultProxy::start(server.address());
    let lake = lake(&proxy.endpoint()).await.unwrap();
    proxy.on_put("_delta_log", 1, Fault::LandThenRefuse);
    assert_eq!(owner(&lake).await.version(), 0);
    assert_eq!(proxy.fired(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_used_is_refused_with_the_remedy_and_without_secrets() {
    let Some(server) = server("refusals") else { return };
    let good = config(&server.endpoint());
    let wrong = tempfile::tempdir().unwrap();
    let credentials = |name: &str, text: &str| {
        let path = wrong.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path.display().to_string())
    };
    let wrong_secret = credentials(
        "secret",
        &format!("[default]\naws_access_key_id = meterline-tests\naws_secret_access_key = x{SECRET_ACCESS_KEY}\n"),
    );
    let wrong_key =
        credentials("key", &format!("[default]\naws_access_key_id = a\naws_secret_access_key = {SECRET_ACCESS_KEY}\n"));
    let with = |change: &dyn Fn(&mut LakeConfig)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let nobody = "http://127.0.0.1:1".to_owned();
    let secure_nobody = "https://127.0.0.1:1".to_owned();
    for (config, words) in [
        (with(&|c| c.url = "s3://nowhere/x".into()), &["no bucket `nowhere`", "create it"][..]),
        (with(&|c| c.url = "s3:///x".into()), &["names no bucket"]),
        (with(&|c| c.s3.credentials_file.clone_from(&wrong_secret)), &["does not accept the credentials", "secret"]),
        (with(&|c| c.s3.credentials_file.clone_from(&wrong_key)), &["credentials", "key"]),
        (with(&|c| c.s3.credentials_file = Some("/nowhere".into())), &["/nowhere", "lake.s3.credentials_file"]),
        (with(&|c| c.s3.profile = "other".into()), &["no section [other]"]),
        (with(&|c| c.s3.endpoint = Some(nobody.clone())), &["cannot be reached", "lake.s3.endpoint"]),
        (with(&|c| c.s3.endpoint = Some(secure_nobody.clone())), &["cannot be reached", "lake.s3.endpoint"]),
        (
            with(&|c| {
                c.s3.endpoint = Some(silent.clone());
                c.s3.request_timeout = Span(200_000);
            }),
            &["did not answer in time", "request_timeout"],
        ),
        (with(&|c| c.s3.endpoint = Some(forgetful())), &["does not honour If-None-Match", "overwrite"]),
    ] {
        let began = Instant::now();
        let error = Lake::configured(&config).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {error}");
        assert!(!text.contains(SECRET_ACCESS_KEY), "{text}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?} for: {error}", began.elapsed());
    }
    let lake = Lake::configured(&good).await.unwrap();
    let shown = format!("{lake:?} {:?}", lake.log_store("x").unwrap());
    assert!(shown.contains(BUCKET) && !shown.contains(SECRET_ACCESS_KEY), "{shown}");
    // The probe is gone.
    assert!(lake.list_objects("").await.unwrap().is_empty());
}

/// The endpoint of a store that writes whatever it is told, and forgets it.
fn forgetful() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut input = BufReader::new(client.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while input.read_line(&mut line).unwrap() > 2 {
                if let Some((_, n)) = line.to_ascii_lowercase().split_once("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                line.clear();
            }
            input.read_exact(&mut vec![0; length]).unwrap();
            let body = "<DeleteResult></DeleteResult>";
            let head = "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nConnection: close\r\nContent-Length: ";
            write!(client, "{head}{}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    endpoint
}
