//! `connect`: this process's stdin and stdout joined to a port of an enclave.

use crate::arguments::ours::Connect;
use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};
use crate::pump::{self, CopyError};
use crate::route::Route;
use crate::{enclaves, guest_port};

/// Joins them until the guest closes its side.
pub(crate) fn run(arguments: &Connect, route: &Route) -> Outcome<u8> {
    if let Some(machine) = route.machine() {
        let words = ["connect", "--enclave-id", &arguments.enclave_id, &arguments.port.to_string()];
        return machine.run_with_stdin(&words);
    }
    let socket = enclaves::vsock_socket(&arguments.enclave_id)?;
    let mut stream = guest_port::dial(&socket, arguments.port)?;
    let input = stream.try_clone().map_err(|error| {
        Failure::new(ErrorNumber::SOCKET, "cannot use the connection in both directions")
            .because(error)
    })?;
    pump::send_stdin(input);
    match pump::copy(&mut stream, &mut std::io::stdout().lock()) {
        Ok(_) => Ok(0),
        Err(CopyError::Write(error)) => Err(Failure::output(error)),
        Err(CopyError::Read(error)) => Err(Failure::new(
            ErrorNumber::SOCKET,
            format!("the connection to port {} of the enclave broke off", arguments.port),
        )
        .because(error)
        .hint("the application inside closed it with data unread, or the enclave ended")),
    }
}
