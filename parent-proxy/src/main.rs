//! `parent-proxy`: AWS's `vsock-proxy` command line over [`parent_proxy`].

use std::process::ExitCode;

use clap::Parser;
use parent_proxy::{Destination, Error, Event, Limits, ListenAddress, Listener, serve};
use tokio::signal::unix::{SignalKind, signal};

/// Carries connections from an enclave to one TCP destination.
///
/// The enclave dials CID 3 and LOCAL_PORT. Bytes pass untouched, so TLS stays between the enclave and the destination.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  parent-proxy 8000 kms.eu-central-1.example.test 443
  parent-proxy unix:/run/enclave/ID/vsock.sock:8000 127.0.0.1 4443"
)]
struct Arguments {
    /// Vsock port, `vsock:PORT`, or `unix:PATH:PORT` for the enclave whose vsock path is PATH
    local_port: String,
    /// Host name or IP address
    remote_addr: String,
    /// TCP port
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    remote_port: u16,
    /// Connections at once
    #[arg(short = 'w', long = "num_workers", visible_alias = "connections", default_value_t = 1024,
          value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("parent-proxy: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                text.push_str(&format!(": {source}"));
                cause = source.source();
            }
            eprintln!("{text}");
            if let Some(hint) = error.hint() {
                eprintln!("  {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(arguments: &Arguments) -> Result<(), Error> {
    let address: ListenAddress = arguments.local_port.parse()?;
    let destination = Destination::new(&arguments.remote_addr, arguments.remote_port)?;
    let listener = Listener::bind(&address)?;
    eprintln!("parent-proxy: {address} to {destination}");
    let limits = Limits { connections: usize::from(arguments.connections), ..Limits::default() };
    let name = destination.to_string();
    let forever = serve(listener, destination, limits, move |peer, event| match event {
        Event::Closed { out, back } => {
            eprintln!("parent-proxy: {peer} to {name}: closed, {out} bytes out, {back} back");
        }
        Event::Failed(error) => eprintln!("parent-proxy: {peer} to {name}: {error}"),
        Event::Refused { limit } => {
            eprintln!(
                "parent-proxy: {peer}: refused, {limit} connections are open (--num_workers)"
            );
        }
        Event::AcceptFailed(error) => eprintln!("parent-proxy: cannot accept: {error}"),
        _ => {}
    });
    let stop = |kind| async move {
        match signal(kind) {
            Ok(mut stream) => {
                stream.recv().await;
            }
            // Without a handler the signal's default action ends the process, which is what is wanted.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = forever => {}
        () = stop(SignalKind::interrupt()) => {}
        () = stop(SignalKind::terminate()) => {}
    }
    Ok(())
}
