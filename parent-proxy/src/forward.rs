//! The forwarding itself: one task a connection, a bound on how many, and no failure of one that harms another.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::listener::Connection;
use crate::{Destination, Listener};

/// Bytes of buffer a direction; two of them are all that a connection holds.
const BUFFER: usize = 16 * 1024;
/// How long accepting pauses when the process has run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of one route.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; the next one is refused.
    pub connections: usize,
    /// Time for the name look-up and the TCP connect together.
    pub connect: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, connect: Duration::from_secs(10) }
    }
}

/// What happened to a connection, for the log.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Over: bytes carried out of and into the enclave.
    Closed {
        /// From the enclave to the destination.
        out: u64,
        /// From the destination to the enclave.
        back: u64,
    },
    /// The destination could not be reached, or the connection broke.
    Failed(io::Error),
    /// More connections than [`Limits::connections`].
    Refused {
        /// The limit that was reached.
        limit: usize,
    },
    /// The listening socket would not give a connection; accepting goes on.
    AcceptFailed(io::Error),
}

/// Carries every connection of `listener` to `destination`, for ever. `report` is called with the peer and what became of it.
pub async fn serve<R>(listener: Listener, destination: Destination, limits: Limits, report: R)
where
    R: Fn(&str, &Event) + Clone + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let destination = Arc::new(destination);
    loop {
        let (connection, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                report("", &Event::AcceptFailed(error));
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            report(&peer, &Event::Refused { limit: limits.connections });
            continue;
        };
        let (destination, report) = (Arc::clone(&destination), report.clone());
        tokio::spawn(async move {
            let event = match forward(connection, &destination, limits.connect).await {
                Ok((out, back)) => Event::Closed { out, back },
                Err(error) => Event::Failed(error),
            };
            report(&peer, &event);
            drop(place);
        });
    }
}

async fn forward(
    mut enclave: Box<dyn Connection>,
    destination: &Destination,
    patience: Duration,
) -> io::Result<(u64, u64)> {
    let connect = TcpStream::connect((destination.host.as_str(), destination.port));
    let mut world = timeout(patience, connect)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))??;
    world.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut enclave, &mut world, BUFFER, BUFFER).await
}
