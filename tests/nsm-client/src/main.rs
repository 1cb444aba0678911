//! An enclave application for the conformance test: drives `/dev/nsm` through the library AWS publishes,
//! unmodified, compares every answer with what nitro.md 4.3 says, and gives the report as one line of JSON to
//! whoever connects to vsock port 5001. A workspace of its own keeps that library's dependencies out of ours.
//!
//! The report: `failures` (sentences, empty when all is well), `calls` (how often each request was made),
//! `module_id`, `document` (base64, with everything optional set).

mod attestation;
mod module;
mod registers;
mod report;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::ExitCode;
use std::time::Duration;

use aws_nitro_enclaves_nsm_api::driver::{nsm_exit, nsm_init};
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

use module::Module;
use report::Report;

/// Where the report is served.
const PORT: u32 = 5001;

fn main() -> ExitCode {
    let descriptor = nsm_init();
    let mut report = Report::default();
    if descriptor < 0 {
        report.fail("/dev/nsm cannot be opened".to_owned());
    } else {
        let mut module = Module::new(descriptor, &mut report);
        let id = module::describe(&mut module);
        registers::check(&mut module);
        module::random(&mut module);
        attestation::check(&mut module, &id);
        nsm_exit(descriptor);
    }
    let line = report.line();
    println!("nsm-client: {line}");
    match serve(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nsm-client: cannot serve the report on vsock port {PORT}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One connection after another; what goes wrong on one is its own affair.
fn serve(line: &str) -> std::io::Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT)?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        if let Err(error) = give(&mut stream, line) {
            eprintln!("nsm-client: {error}");
        }
    }
    Ok(())
}

fn give(stream: &mut VsockStream, line: &str) -> std::io::Result<()> {
    let patience = Some(Duration::from_secs(5));
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    // Closing with the caller's bytes unread would reset the connection, maybe before it has our answer.
    let _ = stream.read(&mut [0; 4096]);
    Ok(())
}
