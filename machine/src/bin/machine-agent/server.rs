//! One thread a port, each serving one session after another for ever.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use machine::channel::frame::{Decoder, Kind};
use machine::channel::request::{MAX_REQUEST, Request};
use machine::channel::{PORTS, port_name};

use crate::port::{Port, SessionEnd};
use crate::{power, put, run};

/// How long the ports' devices get to appear.
const DEVICE_WAIT: Duration = Duration::from_secs(10);

/// Serves all ports. Returns only when they cannot be opened or a thread failed.
pub(crate) fn serve() -> io::Result<Infallible> {
    let mut threads = Vec::new();
    for index in 0..PORTS {
        let device = find_device(&port_name(index))?;
        let port = Port::open(&device)?;
        threads.push(
            thread::Builder::new()
                .name(format!("port-{index}"))
                .stack_size(256 * 1024)
                .spawn(move || serve_port(port))?,
        );
    }
    while threads.iter().all(|thread| !thread.is_finished()) {
        thread::sleep(Duration::from_secs(1));
    }
    Err(io::Error::other("a port's thread ended"))
}

/// Looks through sysfs for the port of that name.
fn find_device(name: &str) -> io::Result<PathBuf> {
    let started = Instant::now();
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten() {
            let entry = entry?;
            let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if found.trim_end() == name {
                return Ok(PathBuf::from("/dev").join(entry.file_name()));
            }
        }
        if started.elapsed() > DEVICE_WAIT {
            return Err(io::Error::other(format!("no virtio-serial port named {name}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn serve_port(mut port: Port) -> io::Error {
    port.disown_earlier_session();
    let mut rest = Vec::new();
    loop {
        let mut decoder = match port.await_opening(&rest) {
            Ok(decoder) => decoder,
            Err(error) => return error,
        };
        // A broken session is the host's business: it has gone, or starts again.
        let _ = serve_session(&mut port, &mut decoder);
        port.end_session();
        rest = decoder.into_rest();
    }
}

fn serve_session(port: &mut Port, decoder: &mut Decoder) -> Result<(), SessionEnd> {
    let request = match Request::decode(&receive_request(port, decoder)?) {
        Ok(request) => request,
        Err(error) => return port.fail(&error.to_string()),
    };
    match request {
        Request::Run(command) => run::run(port, decoder, &command),
        Request::Put(file) => put::put(port, decoder, &file),
        Request::PowerOff => {
            port.send(Kind::Stored, &[])?;
            power::end_everything()
        }
    }
}

fn receive_request(port: &mut Port, decoder: &mut Decoder) -> Result<Vec<u8>, SessionEnd> {
    let mut request = Vec::new();
    loop {
        match port.receive(decoder)? {
            (Kind::Request, payload) => {
                if request.len() + payload.len() > MAX_REQUEST {
                    port.fail(&format!("a request of more than {MAX_REQUEST} bytes"))?;
                    return Err(SessionEnd::Over);
                }
                request.extend_from_slice(payload);
            }
            (Kind::RequestEnd, _) => return Ok(request),
            _ => return Err(SessionEnd::Broken),
        }
    }
}
