//! Connections between processes: how they begin, how they are refused, and how they are lost.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use meterline_schemas::config::Config;

use super::assemble::{gather, join};
use super::frame;
use super::handshake::{Failure, Purpose, Timed, answer, call};
use super::link::Link;
use super::membership::{BROKERS, Membership, Secret};
use super::message::{Begin, Down, Up};

const PATIENCE: Duration = Duration::from_secs(20);

/// Addresses of this machine that were free a moment ago.
pub(in crate::ingest) fn free_addresses(processes: usize) -> Vec<String> {
    meterline_tests::ports::free_addresses(processes).iter().map(ToString::to_string).collect()
}

fn member(process: usize, addresses: &[String]) -> Membership {
    let configuration = vec![("[feed.meters]".to_owned(), [7; 32])];
    Membership { process, addresses: addresses.to_vec(), workers: 2, configuration, secret: Secret::new(b"secret") }
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let calling = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (calling, listener.accept().unwrap().0)
}

/// Both sides of a handshake: what each of them makes of it.
fn handshake(
    caller: Membership,
    called: Membership,
    admitted: bool,
) -> (Result<usize, Failure>, Result<usize, Failure>) {
    let (mut calling, mut answering) = connected();
    let caller = thread::spawn(move || call(&mut calling, &caller, Purpose::Link).map(|hello| hello.process));
    let admit = |_: &_| if admitted { Ok(()) } else { Err("not today".to_owned()) };
    let answered = answer(&mut answering, &called, admit).map(|hello| hello.process);
    (caller.join().unwrap(), answered)
}

fn refusal(of: Result<usize, Failure>) -> String {
    match of {
        Err(Failure::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn both_sides_learn_who_the_other_one_is() {
    let addresses = free_addresses(2);
    let (caller, called) = handshake(member(1, &addresses), member(0, &addresses), true);
    assert_eq!((caller.unwrap(), called.unwrap()), (0, 1));
}

#[test]
fn whoever_does_not_fit_is_refused_on_both_sides_with_what_differs() {
    let addresses = free_addresses(2);
    let fits = || (member(1, &addresses), member(0, &addresses));
    type Change = fn(&mut Membership);
    let changes: [(Change, &str); 4] = [
        (|caller| caller.secret = Secret::new(b"another"), "secrets of the two processes differ"),
        (|caller| caller.workers = 3, "set ingest.workers"),
        (|caller| caller.configuration[0].1 = [8; 32], "[feed.meters]"),
        (|caller| caller.process = 0, "--process"),
    ];
    for (change, words) in changes {
        let (mut caller, called) = fits();
        change(&mut caller);
        let (caller, called) = handshake(caller, called, true);
        let (caller, called) = (refusal(caller), refusal(called));
        assert!(caller.contains(words) && called == caller, "{caller}\n{called}");
    }
    // A part that only one of them has is one that differs.
    let (mut caller, called) = fits();
    caller.configuration.push(("[rollup.grid]".to_owned(), [1; 32]));
    assert!(refusal(handshake(caller, called, true).0).starts_with("[rollup.grid] of the configuration"));
    let (caller, called) = fits();
    assert_eq!(refusal(handshake(caller, called, false).0), "not today");
    // The same broker may be reached under several addresses.
    let (mut caller, mut called) = fits();
    caller.configuration.push((BROKERS.to_owned(), [1; 32]));
    called.configuration.push((BROKERS.to_owned(), [2; 32]));
    let (caller, called) = handshake(caller, called, true);
    assert_eq!((caller.unwrap(), called.unwrap()), (0, 1));
}

#[test]
fn a_stranger_is_no_process_of_the_cluster() {
    let addresses = free_addresses(2);
    for (said, words) in [(b"GET / HT", "no meterline"), (b"MLCLSTR0", "same build")] {
        let (mut calling, mut answering) = connected();
        calling.write_all(said).unwrap();
        let answered = answer(&mut answering, &member(0, &addresses), |_| Ok(()));
        let reason = refusal(answered.map(|hello| hello.process));
        assert!(reason.contains(words), "{reason}");
    }
    // One that does not know the secret cannot play the other side either.
    let (mut calling, mut answering) = connected();
    let impostor = thread::spawn(move || {
        let other = Membership { secret: Secret::new(b"guessed"), ..member(0, &free_addresses(2)) };
        let _ = answer(&mut answering, &other, |_| Ok(()));
    });
    let reason = refusal(call(&mut calling, &member(1, &addresses), Purpose::Link).map(|hello| hello.process));
    assert!(reason.contains("secrets"), "{reason}");
    impostor.join().unwrap();
}

#[test]
fn a_peer_that_says_a_little_at_a_time_does_not_hold_a_handshake_up() {
    let (mut calling, answering) = connected();
    let dripping = thread::spawn(move || {
        // Until the other end has closed.
        while calling.write_all(b"M").is_ok() {
            thread::sleep(Duration::from_millis(30));
        }
    });
    let began = Instant::now();
    let mut timed = Timed::new(&answering, Duration::from_millis(300)).unwrap();
    let error = timed.read_exact(&mut [0; 10_000]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    drop(answering);
    dripping.join().unwrap();
}

#[test]
fn a_message_that_is_cut_is_an_error_and_never_half_a_message() {
    let mut whole = Vec::new();
    frame::write(&mut whole, &("text".to_owned(), vec![1u64, 2, 3])).unwrap();
    frame::write_still_here(&mut whole).unwrap();
    let mut reader = whole.as_slice();
    let read: Option<(String, Vec<u64>)> = frame::read(&mut reader, 100).unwrap();
    assert_eq!(read.unwrap(), ("text".to_owned(), vec![1, 2, 3]));
    assert!(frame::read::<u64>(&mut reader, 100).unwrap().is_none());
    for length in 0..whole.len() - 8 {
        let error = frame::read::<(String, Vec<u64>)>(&mut &whole[..length], 100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}: {error}");
    }
    let error = frame::read::<(String, Vec<u64>)>(&mut whole.as_slice(), 10).unwrap_err().to_string();
    assert!(error.contains("10 are the most"), "{error}");
    // What is no such value, is too long for what it says, or claims more than it has.
    for bytes in [[9, 0].as_slice(), &[1, 7, 7], &[255; 9]] {
        let framed = [&(bytes.len() as u64).to_le_bytes(), bytes].concat();
        assert!(frame::read::<String>(&mut framed.as_slice(), 100).is_err(), "{bytes:?}");
        assert!(frame::read::<bool>(&mut framed.as_slice(), 100).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_link_carries_messages_both_ways_and_tells_its_end_once() {
    let (left, right) = connected();
    let (got, received) = mpsc::channel();
    let of_left = got.clone();
    let left: Link<String> =
        Link::start(left, "left", || None, move |said: io::Result<u64>| of_left.send(format!("left {said:?}")).is_ok())
            .unwrap();
    let mut ticks = 0;
    let tick = move || {
        ticks += 1;
        (ticks == 3).then_some(3u64)
    };
    let right: Link<u64> =
        Link::start(right, "right", tick, move |said: io::Result<String>| got.send(format!("right {said:?}")).is_ok())
            .unwrap();
    left.tell("hello".to_owned());
    let mut first: Vec<String> = (0..2).map(|_| received.recv_timeout(PATIENCE).unwrap()).collect();
    first.sort();
    assert_eq!(first, ["left Ok(3)", "right Ok(\"hello\")"]);
    drop(left);
    assert!(right.await_end(PATIENCE));
    let mut ends: Vec<String> = received.iter().take(2).collect();
    ends.sort();
    assert!(ends[0].starts_with("left Err") && ends[1].starts_with("right Err"), "{ends:?}");
    assert!(ends[1].contains("has ended"), "{ends:?}");
    drop(right);
    assert!(received.recv_timeout(Duration::from_millis(100)).is_err());
}

#[test]
fn what_cannot_be_sent_ends_a_link_with_the_reason() {
    struct Unsayable;
    impl serde::Serialize for Unsayable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("there are no words for it"))
        }
    }
    let (left, _right) = connected();
    let (got, received) = mpsc::channel();
    let link: Link<Unsayable> =
        Link::start(left, "left", || None, move |said: io::Result<u64>| got.send(said).is_ok()).unwrap();
    link.tell(Unsayable);
    let error = received.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert!(error.to_string().contains("no words"), "{error}");
}

#[test]
fn a_link_that_is_cut_in_the_middle_of_a_message_hands_out_no_part_of_it() {
    let (left, mut right) = connected();
    let (got, received) = mpsc::channel();
    let link: Link<u64> =
        Link::start(left, "left", || None, move |said: io::Result<String>| got.send(said).is_ok()).unwrap();
    let mut whole = Vec::new();
    frame::write(&mut whole, &"x".repeat(100_000)).unwrap();
    right.write_all(&whole).unwrap();
    right.write_all(&whole[..whole.len() - 1]).unwrap();
    drop(right);
    assert_eq!(received.recv_timeout(PATIENCE).unwrap().unwrap().len(), 100_000);
    let error = received.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    assert!(link.await_end(PATIENCE));
}

#[test]
fn the_secret_comes_from_a_file_below_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.cluster.addresses = vec!["10.0.0.1:4700".into(), "10.0.0.2:4700".into()];
    config.cluster.secret_file = Some("secret".into());
    let of = |process| Membership::of(&config, directory.path(), process, 2);
    let file = directory.path().join("secret");
    assert!(of(0).unwrap_err().to_string().contains(&file.display().to_string()));
    std::fs::write(&file, " \n").unwrap();
    assert!(of(0).unwrap_err().to_string().contains("write a long random text into it"));
    std::fs::write(&file, "known to all\n").unwrap();
    let (caller, called) = (of(1).unwrap().unwrap(), of(0).unwrap().unwrap());
    assert_eq!((caller.crew().workers(), called.crew().workers()), (4, 4));
    assert!(!format!("{caller:?}").contains("known to all"));
    let (caller, called) = handshake(caller, called, true);
    assert_eq!((caller.unwrap(), called.unwrap()), (0, 1));
    assert!(of(2).unwrap_err().is_usage());
    assert!(Membership::of(&Config::default(), directory.path(), 0, 2).unwrap().is_none());
}

#[test]
fn processes_come_together_in_any_order() {
    let addresses = free_addresses(3);
    let joins: Vec<_> = [2, 1]
        .map(|process| {
            let me = member(process, &addresses);
            let joined = thread::spawn(move || join(&me, &AtomicBool::new(false)));
            thread::sleep(Duration::from_millis(300));
            joined
        })
        .into();
    let leader = member(0, &addresses);
    let (gathered, links) = gather(&leader, &AtomicBool::new(false)).unwrap();
    assert_eq!(links.keys().copied().collect::<Vec<_>>(), [1, 2]);
    let begin = Begin { session: gathered.session, lake: "lake".into(), fence: 5, state: vec![1, 2] };
    for mut link in links.values() {
        frame::write(&mut link, &Down::Begin(begin.clone())).unwrap();
    }
    let sockets = gathered.connect_workers(&leader, &AtomicBool::new(false)).unwrap();
    assert_eq!(sockets.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, true]);
    for (process, joined) in [2, 1].into_iter().zip(joins) {
        let (_, began, sockets) = joined.join().unwrap().unwrap();
        assert_eq!(began, begin);
        let expected: Vec<bool> = (0..3).map(|other| other != process).collect();
        assert_eq!(sockets.iter().map(Option::is_some).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_process_says_that_it_is_still_there_until_the_stream_begins() {
    let addresses = free_addresses(2);
    let joining = member(1, &addresses);
    let joined = thread::spawn(move || join(&joining, &AtomicBool::new(false)).map(|_| ()));
    let leader = member(0, &addresses);
    let (gathered, links) = gather(&leader, &AtomicBool::new(false)).unwrap();
    let mut link = &links[&1];
    link.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..3 {
        frame::write_still_here(&mut link).unwrap();
        assert!(frame::read::<Up>(&mut link, 100).unwrap().is_none());
    }
    let begin = Begin { session: gathered.session, lake: "lake".into(), fence: 5, state: vec![1, 2] };
    frame::write(&mut link, &Down::Begin(begin)).unwrap();
    gathered.connect_workers(&leader, &AtomicBool::new(false)).unwrap();
    joined.join().unwrap().unwrap();
}

#[test]
fn a_process_that_goes_before_all_are_there_may_come_again() {
    let addresses = free_addresses(2);
    let given_up = Arc::new(AtomicBool::new(false));
    let waiting = {
        let leader = member(0, &[addresses.as_slice(), &free_addresses(1)].concat());
        let given_up = Arc::clone(&given_up);
        thread::spawn(move || gather(&leader, &given_up).map(|_| ()))
    };
    let all = [addresses.as_slice(), &["127.0.0.1:1".to_owned()]].concat();
    let one = || {
        let mut stream = connect_again(&addresses[0]);
        call(&mut stream, &member(1, &all), Purpose::Link).map(|hello| (hello.process, stream))
    };
    let (_, mut first) = one().unwrap();
    frame::write_still_here(&mut first).unwrap();
    // Another one of the same number is refused as long as the first is there.
    assert!(refusal(one().map(|(process, _)| process)).contains("process 1 is there already"));
    // The last that it says is that it is still there.
    (0..2).for_each(|_| frame::write_still_here(&mut first).unwrap());
    drop(first);
    assert_eq!(one().map(|(process, _)| process).unwrap(), 0);
    // What is left of an earlier start is not let in.
    let mut stream = connect_again(&addresses[0]);
    let stale = call(&mut stream, &member(2, &all), Purpose::Workers([1; 16])).map(|hello| hello.process);
    assert!(refusal(stale).contains("earlier start"));
    given_up.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = waiting.join().unwrap().unwrap_err();
    assert!(matches!(error, super::ClusterError::GivenUp), "{error}");
}

fn connect_again(address: &str) -> TcpStream {
    for _ in 0..200 {
        if let Ok(stream) = TcpStream::connect(address) {
            return stream;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("nobody listens at {address}");
}

#[test]
fn an_address_that_is_taken_is_an_error_that_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [listener.local_addr().unwrap().to_string(), "127.0.0.1:1".to_owned()];
    let error = gather(&member(0, &addresses), &AtomicBool::new(false)).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(&addresses[0]) && error.contains("is this one running already?"), "{error}");
}
