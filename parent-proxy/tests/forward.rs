//! The proxy between a Unix socket (what the `muxer` backend dials) and real TCP servers on loopback.

#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use parent_proxy::{Destination, Event, Limits, ListenAddress, Listener, serve};

/// Starts a proxy to `port` of loopback; returns its socket and where its events arrive.
fn proxy(folder: &Path, port: u16, limits: Limits) -> (std::path::PathBuf, mpsc::Receiver<String>) {
    let address = ListenAddress::Unix { path: folder.join("vsock.sock"), port: 8000 };
    let file = address.socket_file().unwrap();
    let (events, seen) = mpsc::channel();
    let (bound, ready) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = Listener::bind(&address).unwrap();
            bound.send(()).unwrap();
            let destination = Destination::new("127.0.0.1", port).unwrap();
            serve(listener, destination, limits, move |_, event: &Event| {
                let _ = events.send(format!("{event:?}"));
            })
            .await;
        });
    });
    ready.recv().unwrap();
    (file, seen)
}

#[test]
fn carries_both_directions_and_keeps_half_close() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut question = Vec::new();
        // Returns only when the client's half-close has come through.
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(&question.iter().rev().copied().collect::<Vec<_>>()).unwrap();
    });
    let folder = tempfile::tempdir().unwrap();
    let (file, seen) = proxy(folder.path(), port, Limits::default());
    let mut client = UnixStream::connect(file).unwrap();
    let question: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    client.write_all(&question).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert!(answer.iter().rev().eq(question.iter()));
    assert_eq!(seen.recv().unwrap(), "Closed { out: 1000000, back: 1000000 }");
}

#[test]
fn a_destination_that_refuses_ends_only_its_own_connection() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = unused.local_addr().unwrap().port();
    drop(unused);
    let folder = tempfile::tempdir().unwrap();
    let (file, seen) = proxy(folder.path(), port, Limits::default());
    for _ in 0..2 {
        let mut client = UnixStream::connect(&file).unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);
        assert!(seen.recv().unwrap().contains("ConnectionRefused"));
    }
}

#[test]
fn refuses_above_the_limit_and_serves_again_below_it() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let (file, seen) = proxy(folder.path(), port, Limits { connections: 1, ..Limits::default() });
    let first = UnixStream::connect(&file).unwrap();
    let (held, _) = server.accept().unwrap();
    let mut second = UnixStream::connect(&file).unwrap();
    assert_eq!(second.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(seen.recv().unwrap(), "Refused { limit: 1 }");
    drop((first, held));
    assert!(seen.recv().unwrap().starts_with("Closed"));
    let mut third = UnixStream::connect(&file).unwrap();
    let (mut stream, _) = server.accept().unwrap();
    stream.write_all(b"x").unwrap();
    third.read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn a_socket_in_use_is_not_taken_and_a_stale_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let address = ListenAddress::Unix { path: folder.path().join("vsock.sock"), port: 1 };
    let file = address.socket_file().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let live = std::os::unix::net::UnixListener::bind(&file).unwrap();
    assert!(Listener::bind(&address).unwrap_err().to_string().contains("in use"));
    drop(live);
    let listener = Listener::bind(&address).unwrap();
    drop(listener);
    assert!(!file.exists());
}
