//! An example application: a small web server that greets, and a client for it. It uses the standard library only, so that
//! anyone can see all of it; a real application would use a web framework.

mod http;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const USAGE: &str = "usage: hello serve | hello get URL | hello check URL TIMES | hello idle";
const PORT: u16 = 8080;
/// Where the ConfigMap is mounted; read at each request, so that a change shows.
const GREETING: &str = "/etc/hello/greeting";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    end_when_told();
    let outcome = match words.as_slice() {
        ["serve"] => serve(),
        ["get", url] => http::get(url).map(|body| print!("{body}")),
        ["check", url, times] => check(url, times),
        ["idle"] => idle(),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("hello: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The first process of a container gets no signal that it does not ask for: without this, each stop would take as long as
/// the pod's grace period.
fn end_when_told() {
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
        fn _exit(code: i32) -> !;
    }
    extern "C" fn end(_number: i32) {
        // SAFETY: _exit is one of the functions that a signal handler may call (signal-safety(7)).
        unsafe { _exit(0) }
    }
    const SIGTERM: i32 = 15;
    // SAFETY: the handler has the form that signal(2) asks for and lives as long as the program.
    unsafe { signal(SIGTERM, end as *const () as usize) };
}

fn host() -> String {
    let read = std::fs::read_to_string("/etc/hostname").or_else(|_| std::env::var("HOSTNAME").map_err(std::io::Error::other));
    read.unwrap_or_else(|_| "somewhere".into()).trim().to_string()
}

fn serve() -> Result<(), String> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).map_err(|e| format!("cannot listen on port {PORT}: {e}"))?;
    println!("serving on port {PORT}");
    let (host, answered) = (Arc::new(host()), Arc::new(AtomicU64::new(0)));
    for stream in listener.incoming().flatten() {
        let (host, answered) = (host.clone(), answered.clone());
        std::thread::spawn(move || answer(stream, &host, &answered));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, host: &str, answered: &AtomicU64) {
    let Ok(path) = http::requested(&mut stream) else { return };
    let (code, body) = match path.as_str() {
        "/" => {
            let greeting = std::fs::read_to_string(GREETING).unwrap_or_else(|_| "Hello".into());
            let count = answered.fetch_add(1, Ordering::Relaxed) + 1;
            println!("request {count}");
            ("200 OK", format!("{} from {host}\n", greeting.trim()))
        }
        "/healthz" => ("200 OK", "ok\n".into()),
        _ => ("404 Not Found", "nothing here\n".into()),
    };
    // A client that has gone needs no answer.
    let _ =
        write!(stream, "HTTP/1.1 {code}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}

/// Asks several times and says who answered how often.
fn check(url: &str, times: &str) -> Result<(), String> {
    let times: u32 = times.parse().map_err(|_| USAGE.to_string())?;
    let mut answers = std::collections::BTreeMap::new();
    for _ in 0..times {
        *answers.entry(http::get(url)?).or_insert(0) += 1;
    }
    for (answer, count) in answers {
        println!("{count} times: {}", answer.trim());
    }
    Ok(())
}

/// Does nothing until it is told to end.
fn idle() -> Result<(), String> {
    println!("idle; run `hello get http://hello` in here");
    loop {
        std::thread::park();
    }
}
