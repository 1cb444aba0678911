//! An enclave application to copy: a vsock server that answers one line with one line of JSON. The answer holds
//! a greeting, what the enclave has (CPUs, memory), and an attestation document whose user data is the SHA-384
//! of the request, so the caller can check that this very answer was made by this very image.

#![forbid(unsafe_code)]

mod answer;
mod machine;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use vsock::{VsockListener, VsockStream};

/// Where this application listens; the argument, if there is one, is another.
const PORT: u32 = 5000;

/// Bytes of a request line, at most.
const MAX_LINE: u64 = 4096;

/// Connections answered at once, and as many again that wait; others are turned away.
const WORKERS: usize = 8;

/// Between two reads or writes of one connection.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let port = match std::env::args().nth(1) {
        Some(text) => text.parse().map_err(|_| format!("{text:?} is not a port"))?,
        None => PORT,
    };
    let listener = VsockListener::bind_with_cid_port(vsock::VMADDR_CID_ANY, port)
        .map_err(|error| format!("cannot listen on vsock port {port}: {error}"))?;
    println!("hello: listening on vsock port {port}");

    let (queue, waiting) = sync_channel(WORKERS);
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..WORKERS {
        let waiting = Arc::clone(&waiting);
        thread::Builder::new().spawn(move || work(&waiting))?;
    }
    for connection in listener.incoming() {
        match connection {
            // Dropping a stream closes it: the caller sees the end at once instead of waiting.
            Ok(stream) => drop(queue.try_send(stream)),
            Err(error) => {
                eprintln!("hello: cannot accept a connection: {error}");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
    Ok(())
}

fn work(waiting: &Mutex<Receiver<VsockStream>>) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(stream) = next else { return };
        if let Err(error) = converse(&stream) {
            eprintln!("hello: {error}");
        }
    }
}

/// One line in, one line out.
fn converse(mut stream: &VsockStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let line = read_line(stream)?;
    let mut reply = serde_json::to_vec(&answer::to(&line))?;
    reply.push(b'\n');
    stream.write_all(&reply)?;
    stream.shutdown(Shutdown::Write)?;
    // Closing at once could take the answer with it where the caller has sent more than a line: read to its end.
    let _ = io::copy(&mut stream.take(MAX_LINE), &mut io::sink());
    Ok(())
}

/// The bytes before the newline (or before the end), at most [`MAX_LINE`].
fn read_line(stream: impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_LINE + 1)).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') | None => {}
        Some(last) => line.push(last),
    }
    if u64::try_from(line.len()).unwrap_or(u64::MAX) > MAX_LINE {
        return Err(io::Error::other(format!("a request of more than {MAX_LINE} bytes")));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_newline_or_with_the_stream() {
        assert_eq!(read_line(&b"one\ntwo\n"[..]).unwrap(), b"one");
        assert_eq!(read_line(&b"one"[..]).unwrap(), b"one");
        assert_eq!(read_line(&b"\n"[..]).unwrap(), b"");
        assert_eq!(read_line(&b""[..]).unwrap(), b"");
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let limit = usize::try_from(MAX_LINE).unwrap();
        assert_eq!(read_line(&vec![b'a'; limit][..]).unwrap().len(), limit);
        assert!(read_line(io::repeat(b'a')).is_err());
    }
}
