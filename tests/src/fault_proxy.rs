//! An HTTP proxy on loopback in front of a store, which fails requests by rule: before they arrive, after they have
//! landed, or by what a test does at that moment, such as killing the engine.
//!
//! It speaks HTTP/1.1, one request a connection, and passes everything that no rule is about as it is.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A store that does not answer for this long is as good as gone.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// Longest head of a request.
const HEAD_MAX: u64 = 64 * 1024;

/// What happens to a request.
pub enum Fault {
    /// It is answered with status 500 and never reaches the store.
    Refuse,
    /// The store carries it out, and its answer is replaced by status 500.
    LandThenRefuse,
    /// The store carries it out, and the connection is closed without an answer.
    LandThenHangUp,
    /// It is held back for this long, and then passed on.
    Delay(Duration),
    /// This is done, and the request never reaches the store: the connection is closed.
    Before(Box<dyn FnMut() + Send>),
    /// This is done; so much later the store carries the request out, and its answer is heard by nobody.
    During(Box<dyn FnMut() + Send>, Duration),
    /// The store carries it out, and then this is done before its answer is passed on.
    After(Box<dyn FnMut() + Send>),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Refuse => f.write_str("Refuse"),
            Fault::LandThenRefuse => f.write_str("LandThenRefuse"),
            Fault::LandThenHangUp => f.write_str("LandThenHangUp"),
            Fault::Delay(time) => write!(f, "Delay({time:?})"),
            Fault::Before(_) => f.write_str("Before"),
            Fault::During(_, time) => write!(f, "During({time:?})"),
            Fault::After(_) => f.write_str("After"),
        }
    }
}

#[derive(Debug)]
struct Rule {
    method: String,
    pattern: String,
    // What the body has, too.
    body: String,
    // Requests that match and still pass, and then those that do not.
    skip: u32,
    times: u32,
    fault: Fault,
    // How often rules had been forgotten when it was made.
    cleared: u32,
}

#[derive(Debug, Default)]
struct Rules {
    waiting: Vec<Rule>,
    cleared: u32,
    fired: u32,
    // Method and path of every request, in order of arrival.
    seen: Vec<(String, String)>,
}

/// A running proxy; it ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    rules: Arc<Mutex<Rules>>,
    ended: Arc<AtomicBool>,
}

impl FaultProxy {
    /// A proxy on a free loopback port that passes requests to `store`.
    pub fn start(store: SocketAddr) -> FaultProxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("find a port for the proxy");
        let address = listener.local_addr().expect("the port of the proxy");
        let (rules, ended) = (Arc::new(Mutex::new(Rules::default())), Arc::new(AtomicBool::new(false)));
        let (shared, over) = (Arc::clone(&rules), Arc::clone(&ended));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(client), rules) = (client, Arc::clone(&shared)) else { continue };
                // A client or a store that goes away ends one connection, and nothing else.
                std::thread::spawn(move || drop(serve(&client, store, &rules)));
            }
        });
        FaultProxy { address, rules, ended }
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, the `nth` PUT (from 1) whose path contains `pattern` meets `fault`. In a pattern, `*` stands for
    /// anything.
    pub fn on_put(&self, pattern: &str, nth: u32, fault: Fault) {
        self.on("PUT", pattern, nth, 1, fault);
    }

    /// From now on, `times` requests from the `nth` (from 1) of those that match meet `fault`.
    pub fn on(&self, method: &str, pattern: &str, nth: u32, times: u32, fault: Fault) {
        self.add([method, pattern, ""], nth.saturating_sub(1), times, fault);
    }

    /// From now on, the next request that matches and whose body contains `body`, a pattern too, meets `fault`.
    pub fn on_body(&self, method: &str, pattern: &str, body: &str, fault: Fault) {
        self.add([method, pattern, body], 0, 1, fault);
    }

    fn add(&self, matches: [&str; 3], skip: u32, times: u32, fault: Fault) {
        let [method, pattern, body] = matches.map(str::to_owned);
        let mut rules = self.rules();
        let cleared = rules.cleared;
        rules.waiting.push(Rule { method, pattern, body, skip, times, fault, cleared });
    }

    /// Forgets all rules. A request that has met one goes on with it.
    pub fn clear(&self) {
        let mut rules = self.rules();
        rules.waiting.clear();
        rules.cleared += 1;
    }

    /// How often a rule was applied.
    pub fn fired(&self) -> u32 {
        self.rules().fired
    }

    /// How many requests there were whose path contains `pattern`, those that met a fault included.
    pub fn seen(&self, method: &str, pattern: &str) -> usize {
        self.rules().seen.iter().filter(|(m, path)| m == method && contains(path, pattern)).count()
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        lock(&self.rules)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // The listener waits for a connection: this is the last.
        let _ = TcpStream::connect(self.address);
    }
}

fn lock(rules: &Mutex<Rules>) -> MutexGuard<'_, Rules> {
    rules.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the parts of `pattern` between `*` are in `text`, in their order.
fn contains(text: &str, pattern: &str) -> bool {
    let mut rest = Some(text);
    for part in pattern.split('*') {
        rest = rest.and_then(|rest| rest.split_once(part)).map(|(_, behind)| behind);
    }
    rest.is_some()
}

impl Rule {
    fn concerns(&self, request: &Request) -> bool {
        let body = || String::from_utf8_lossy(&request.body);
        self.method == request.method
            && contains(&request.path, &self.pattern)
            && (self.body.is_empty() || contains(&body(), &self.body))
    }
}

impl Rules {
    /// Notes a request; the rule that it meets is taken out, to be put back by [`Rules::done`].
    fn meet(&mut self, request: &Request) -> Option<Rule> {
        self.seen.push((request.method.clone(), request.path.clone()));
        let mut met = None;
        for (index, rule) in self.waiting.iter_mut().enumerate() {
            if !rule.concerns(request) {
                continue;
            }
            match rule.skip {
                0 => met = met.or(Some(index)),
                _ => rule.skip -= 1,
            }
        }
        self.fired += u32::from(met.is_some());
        met.map(|index| self.waiting.remove(index))
    }

    fn done(&mut self, mut rule: Rule) {
        rule.times -= 1;
        if rule.times > 0 && rule.cleared == self.cleared {
            self.waiting.push(rule);
        }
    }
}

/// One request of one connection.
fn serve(client: &TcpStream, store: SocketAddr, rules: &Mutex<Rules>) -> io::Result<()> {
    let mut input = BufReader::new(client);
    let Some(request) = Request::read(&mut input, client)? else { return Ok(()) };
    let met = lock(rules).meet(&request);
    let Some(mut rule) = met else { return pass(&request, store, client) };
    let result = match &mut rule.fault {
        Fault::Refuse => refuse(client),
        Fault::LandThenRefuse => ask(&request, store).and_then(|_| refuse(client)),
        Fault::LandThenHangUp => ask(&request, store).and_then(|_| client.shutdown(Shutdown::Both)),
        Fault::Delay(time) => {
            std::thread::sleep(*time);
            pass(&request, store, client)
        }
        Fault::Before(act) => {
            act();
            client.shutdown(Shutdown::Both)
        }
        Fault::During(act, time) => {
            act();
            std::thread::sleep(*time);
            ask(&request, store).and_then(|_| client.shutdown(Shutdown::Both))
        }
        Fault::After(act) => ask(&request, store).and_then(|answer| {
            act();
            answer_with(client, &answer)
        }),
    };
    lock(rules).done(rule);
    result
}

fn refuse(mut client: &TcpStream) -> io::Result<()> {
    let body = "<Error><Code>InternalError</Code><Message>a rule of the proxy</Message></Error>";
    let length = body.len();
    write!(client, "HTTP/1.1 500 Internal Server Error\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

fn pass(request: &Request, store: SocketAddr, client: &TcpStream) -> io::Result<()> {
    answer_with(client, &ask(request, store)?)
}

fn answer_with(mut client: &TcpStream, answer: &[u8]) -> io::Result<()> {
    client.write_all(answer)?;
    client.shutdown(Shutdown::Write)
}

/// The store's whole answer. It closes the connection at the end, and says so.
fn ask(request: &Request, store: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(store)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(&request.head)?;
    stream.write_all(&request.body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

struct Request {
    method: String,
    path: String,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Request {
    /// Reads a request whole; `None` if the client sends none.
    fn read(input: &mut BufReader<&TcpStream>, mut client: &TcpStream) -> io::Result<Option<Request>> {
        let mut head = Vec::new();
        let (mut first, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if input.by_ref().take(HEAD_MAX).read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            match name.as_str() {
                "" => break,
                "connection" => continue,
                "content-length" => length = value.parse().map_err(io::Error::other)?,
                "transfer-encoding" => return Err(io::Error::other("a request of unknown length")),
                // It waits for this before it sends the body.
                "expect" => {
                    client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                    continue;
                }
                _ => {}
            }
            if first.is_empty() {
                first.clone_from(&line);
            }
            head.extend_from_slice(line.as_bytes());
        }
        head.extend_from_slice(b"Connection: close\r\n\r\n");
        let mut body = vec![0; length];
        input.read_exact(&mut body)?;
        let mut words = first.split_whitespace().map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
        Ok(Some(Request { method, path, head, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every request with its own body, and counts them.
    fn echo() -> (SocketAddr, Arc<Mutex<u32>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (address, count) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(0)));
        let counted = Arc::clone(&count);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let request = Request::read(&mut BufReader::new(&client), &client).unwrap().unwrap();
                *counted.lock().unwrap() += 1;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
                answer_with(&client, &[head.into_bytes(), request.body].concat()).unwrap();
            }
        });
        (address, count)
    }

    fn put(proxy: &FaultProxy, path: &str) -> String {
        let mut stream = TcpStream::connect(proxy.address).unwrap();
        write!(stream, "PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody").unwrap();
        let mut answer = String::new();
        // A connection that is closed without an answer may be reset.
        let _ = stream.read_to_string(&mut answer);
        answer.split(' ').nth(1).unwrap_or("none").to_owned() + if answer.ends_with("body") { " body" } else { "" }
    }

    #[test]
    fn the_nth_request_that_matches_meets_the_fault_and_no_other() {
        let (store, landed) = echo();
        let proxy = FaultProxy::start(store);
        let acted = Arc::new(Mutex::new(0));
        let act = || {
            let acted = Arc::clone(&acted);
            Box::new(move || *acted.lock().unwrap() += 1)
        };
        proxy.on_put("_log/", 2, Fault::Refuse);
        proxy.on_put("_log/", 3, Fault::LandThenRefuse);
        proxy.on_put("_log/", 4, Fault::LandThenHangUp);
        proxy.on_put("/sta*e/*1", 1, Fault::Before(act()));
        proxy.on_put("/state/3", 1, Fault::During(act(), Duration::from_millis(1)));
        proxy.on("PUT", "data", 2, 2, Fault::After(act()));
        proxy.on_body("PUT", "/held/", "nobody", Fault::Before(act()));
        proxy.on_body("PUT", "/held/", "b*y", Fault::Refuse);
        for (path, answer, lands) in [
            ("/_log/1", "200 body", 1),
            ("/_log/2", "500", 0),
            ("/other", "200 body", 1),
            ("/_log/3", "500", 1),
            ("/_log/4", "none", 1),
            ("/_log/5", "200 body", 1),
            ("/state/1", "none", 0),
            ("/state/2", "200 body", 1),
            ("/state/3", "none", 1),
            ("/data/1", "200 body", 1),
            ("/data/2", "200 body", 1),
            ("/data/3", "200 body", 1),
            ("/held/1", "500", 0),
            ("/held/2", "200 body", 1),
        ] {
            let before = *landed.lock().unwrap();
            assert_eq!(put(&proxy, path), answer, "{path}");
            assert_eq!(*landed.lock().unwrap() - before, lands, "{path}");
        }
        assert_eq!((proxy.fired(), proxy.seen("PUT", "_log/"), *acted.lock().unwrap()), (8, 5, 4));
    }
}
