//! A bench for the vmm role alone: this process plays the keeper and the NSM process, prints the console and every message,
//! and ends the guest after a time. For people who work on the VMM; enclaves are started by `enclave-cli run-enclave`.
//!
//! `bare EIF [memory=256] [vcpus=1] [cpus=1,2] [cid=16] [vsock=/tmp/bare.sock] [seconds=60] [pages=huge|ordinary] [quiet]`, or
//! `bare probe`

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use enclave_vmm::channel::{Channel, pair};
use enclave_vmm::sealed_image::SealedImage;
use enclave_vmm::vmm::memory::Pages;
use enclave_vmm::vmm::messages::{FromVmm, ToVmm, VmmConfig};
use enclave_vmm::vmm::{self, Descriptors};
use nix::sys::socket::{MsgFlags, recv, send};
use nsm::device::{Claims, Environment, Unavailable};
use nsm::{Device, PcrBank};

type Anything = Result<(), Box<dyn std::error::Error>>;

fn main() -> Anything {
    let started = Instant::now();
    let mut arguments = std::env::args().skip(1);
    let eif = PathBuf::from(arguments.next().ok_or("which EIF?")?);
    if eif == Path::new("probe") {
        println!("{:?} after {:?}", enclave_vmm::probe::kvm_runs_guests(), started.elapsed());
        return Ok(());
    }
    let options: HashMap<String, String> = arguments
        .map(|argument| match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (argument, String::new()),
        })
        .collect();
    let text = |name: &str, default: &str| {
        options.get(name).cloned().unwrap_or_else(|| default.to_owned())
    };
    let vsock_path = PathBuf::from(text("vsock", "/tmp/bare.sock"));
    let _ = std::fs::remove_file(&vsock_path);
    let config = VmmConfig {
        memory_mib: text("memory", "256").parse()?,
        vcpus: text("vcpus", "1").parse()?,
        cpu_ids: text("cpus", "").split(',').filter_map(|id| id.parse().ok()).collect(),
        cid: text("cid", "16").parse()?,
        debug: true,
        vsock_path,
        parameters: Default::default(),
    };
    let limit = Instant::now() + Duration::from_secs(text("seconds", "60").parse()?);
    let pages = if text("pages", "huge") == "huge" { Pages::Huge } else { Pages::Ordinary };

    let (keeper, for_vmm) = pair()?;
    let (nsm, nsm_for_vmm) = pair()?;
    let (mut console, console_for_vmm) = std::io::pipe()?;
    let image = OwnedFd::from(image(&eif)?);
    let quiet = options.contains_key("quiet");
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = console.read(&mut buffer) {
            let _ = std::io::stdout().write_all(buffer.get(..length).unwrap_or_default());
            let _ = std::io::stdout().flush();
        }
    });
    std::thread::spawn(move || serve_nsm(&nsm));
    let descriptors = Descriptors {
        keeper: for_vmm,
        image,
        nsm: nsm_for_vmm,
        console: (!quiet).then(|| OwnedFd::from(console_for_vmm)),
        cgroup: None,
    };
    let vmm = std::thread::spawn(move || vmm::run_with(descriptors, started, pages));

    let keeper = Channel::new(keeper, "the vmm");
    keeper.send(&ToVmm::Config(config))?;
    loop {
        let message = match keeper.receive::<FromVmm>(Some(limit)) {
            Ok(Some(message)) => message,
            Ok(None) => return Err("the vmm is gone".into()),
            Err(_) if Instant::now() >= limit => {
                println!("[bare] time is up");
                keeper.send(&ToVmm::Stop)?;
                keeper.expect_value(None)?
            }
            Err(e) => return Err(e.into()),
        };
        println!("[bare {:.3}] {message:?}", started.elapsed().as_secs_f64());
        match message {
            FromVmm::Loaded => keeper.send(&ToVmm::Go)?,
            FromVmm::Started(_) => println!("[bare] {}", resident()),
            FromVmm::Stopped { .. } | FromVmm::Failed { .. } => break,
            _ => {}
        }
    }
    let code = vmm.join().map_err(|_| "the vmm panicked")?;
    println!("[bare] exit code {code}; {}", resident());
    Ok(())
}

fn image(path: &Path) -> Result<std::fs::File, Box<dyn std::error::Error>> {
    use std::os::fd::AsFd;
    let sealed = SealedImage::open(path)?;
    Ok(sealed.as_fd().try_clone_to_owned()?.into())
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .filter(|l| l.starts_with("Rss") || l.starts_with("Threads"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Every request but attestation, with registers of zeros.
fn serve_nsm(socket: &OwnedFd) {
    use std::os::fd::AsRawFd;
    struct Bare;
    impl Environment for Bare {
        fn now_ms(&mut self) -> u64 {
            0
        }
        fn random(&mut self, out: &mut [u8]) -> Result<(), Unavailable> {
            let mut source = std::fs::File::open("/dev/urandom").map_err(|_| Unavailable)?;
            source.read_exact(out).map_err(|_| Unavailable)
        }
        fn attest(&mut self, _claims: &Claims) -> Result<Vec<u8>, Unavailable> {
            Err(Unavailable)
        }
    }
    let Ok(id) = "i-0123456789abcdef0-enc0123456789abcdef".parse() else { return };
    let mut device = Device::new(id, PcrBank::default(), true);
    let mut request = [0; 0x1000];
    while let Ok(length @ 1..) = recv(socket.as_raw_fd(), &mut request, MsgFlags::empty()) {
        let reply = device.handle(request.get(..length).unwrap_or_default(), 0x3000, &mut Bare);
        if send(socket.as_raw_fd(), &reply, MsgFlags::MSG_NOSIGNAL).is_err() {
            return;
        }
    }
}
