//! The keeper: root of one enclave's process tree and the only part that outlives the command that started it. It takes the enclave's place on the machine, starts nsm and
//! vmm, carries messages between them, answers the control socket, renews certificates, and at the end puts everything back and leaves a record.

pub mod console_ring;
mod control_server;
mod ending;
mod event_loop;
mod members;
mod place;

use std::time::{Duration, Instant};

use eif_builder::eif::Eif;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nsm::Pcr;

use self::control_server::ControlServer;
use self::event_loop::{Image, Keeper};
use self::members::Members;
use self::place::Place;
use crate::authority_folder::AuthorityFolder;
use crate::channel::Channel;
use crate::description::RunDescription;
use crate::error::{Error, Failure, Result};
use crate::launch::{LaunchSpec, Report, Timing, monotonic_ns};
use crate::min_memory::ImageSizes;
use crate::nsm_process::messages::{Setup, ToNsm};
use crate::resources::Host;
use crate::sealed_image::SealedImage;
use crate::spawn;
use crate::vmm::messages::{ToVmm, VmmConfig};

use std::os::fd::AsFd;

/// How long the command may take to say what it wants.
const SPEC_PATIENCE: Duration = Duration::from_secs(10);

/// Largest metadata section shown by `describe-enclaves --metadata`, bytes.
const MAX_METADATA: usize = 1 << 20;

/// The role `enclave-vmm keeper`. Returns when the enclave is over and everything is put back.
///
/// # Errors
/// What kept the enclave from starting, or things from being put back; the command has been told if it is still there.
pub fn run() -> Result<()> {
    let launch = Channel::new(spawn::inherited(3)?, "The command");
    let image = SealedImage::from_fd(spawn::inherited(4)?)?;
    // Before anything is taken: from here on a signal is a message, not a sudden end.
    let signals = block_signals()?;
    let Some(spec) = launch.receive::<LaunchSpec>(Some(Instant::now() + SPEC_PATIENCE))? else {
        return Ok(());
    };
    let started = start(spec, &image, &launch, signals);
    // The processes below have it; its memory is free when they have read it.
    drop(image);
    match started {
        Ok(keeper) => keeper.run(launch),
        Err(error) => {
            let _ = launch.send(&Report::Failed(Failure::from(&error)));
            Err(error)
        }
    }
}

fn start(
    mut spec: LaunchSpec,
    image: &SealedImage,
    launch: &Channel,
    signals: SignalFd,
) -> Result<Keeper> {
    let mut timing = Timing { keeper_us: since(spec.began_ns), ..Timing::default() };
    let about = look_at(image, &spec)?;
    let place = Place::take(&spec, Host::this(), || hung_up(launch))?;
    timing.allocated_us = since(spec.began_ns);
    let claim = &place.claim;
    spec.memory_mib = claim.memory_mib;
    let description = RunDescription {
        enclave_name: claim.name.clone(),
        enclave_id: claim.id.clone(),
        process_id: claim.keeper,
        enclave_cid: claim.cid,
        number_of_cpus: claim.grant.cpus.len(),
        cpu_ids: claim.grant.cpus.clone(),
        memory_mib: claim.memory_mib,
    };
    match assemble(&spec, &place, image, launch, &description) {
        Ok((members, control)) => {
            timing.spawned_us = since(spec.began_ns);
            let authority = AuthorityFolder::new(&spec.state_dir.join("pki"), &place.parent_id);
            let image = Image { length: image.len(), about };
            Ok(Keeper::new(
                spec,
                place,
                members,
                control,
                signals,
                authority,
                description,
                image,
                timing,
            ))
        }
        Err(error) => {
            place.give_back(None)?;
            Err(error)
        }
    }
}

/// Starts the processes and tells them what they are for.
fn assemble(
    spec: &LaunchSpec,
    place: &Place,
    image: &SealedImage,
    launch: &Channel,
    description: &RunDescription,
) -> Result<(Members, ControlServer)> {
    launch.send(&Report::Allocated(description.clone()))?;
    let control = ControlServer::bind(&place.control_socket())?;
    let members = Members::start(place, image, spec.debug)?;
    members.nsm.channel.send(&ToNsm::Setup(Setup {
        module_id: place.claim.id.clone(),
        debug: spec.debug,
        pcr3: spec.role.as_ref().map_or(Pcr::ZERO, |role| Pcr::of(role.as_bytes())),
        pcr4: Pcr::of(place.parent_id.as_bytes()),
    }))?;
    let cpu_ids = place.claim.grant.cpus.clone();
    let vcpus = u8::try_from(cpu_ids.len())
        .map_err(|_| Error::CpuCount { wanted: cpu_ids.len(), available: usize::from(u8::MAX) })?;
    members.vmm.channel.send(&ToVmm::Config(VmmConfig {
        memory_mib: place.claim.memory_mib,
        vcpus,
        cpu_ids,
        cid: place.claim.cid,
        debug: spec.debug,
        vsock_path: place.claim.vsock_path.clone(),
        parameters: spec.parameters.clone(),
    }))?;
    Ok((members, control))
}

/// What the image says about itself; a label.
#[derive(Debug, Clone, Default)]
struct AboutImage {
    name: Option<String>,
    version: Option<String>,
    metadata: Option<serde_json::Value>,
}

/// Reads the image's outline: whether the memory asked for is enough, and its metadata. The nsm measures it, not we.
fn look_at(image: &SealedImage, spec: &LaunchSpec) -> Result<AboutImage> {
    let bytes = image.map()?;
    let eif = Eif::read(&bytes).map_err(|source| Error::Image { source: Box::new(source) })?;
    let ramdisks = eif.ramdisks().map(|ramdisk| ramdisk.len() as u64).sum();
    ImageSizes::new(eif.kernel(), ramdisks, image.len())
        .check(spec.memory_mib, spec.memory_rule)?;
    Ok(eif
        .metadata()
        .filter(|bytes| bytes.len() <= MAX_METADATA)
        .and_then(|bytes| serde_json::from_slice(bytes).ok())
        .map(about)
        .unwrap_or_default())
}

/// Sorts a metadata section into the fields that nitro-cli shows.
fn about(metadata: serde_json::Value) -> AboutImage {
    let serde_json::Value::Object(mut fields) = metadata else { return AboutImage::default() };
    let mut text =
        |key: &str| fields.remove(key).and_then(|value| value.as_str().map(str::to_owned));
    let (name, version) = (text("ImageName"), text("ImageVersion"));
    // nitro-cli shows the build's and the custom fields on one level.
    let mut shown = serde_json::Map::new();
    for nested in ["BuildMetadata", "CustomMetadata"] {
        match fields.remove(nested) {
            Some(serde_json::Value::Object(inner)) => shown.extend(inner),
            Some(serde_json::Value::Null) | None => {}
            Some(other) => {
                shown.insert(nested.to_owned(), other);
            }
        }
    }
    for (key, value) in fields {
        if !value.is_null() {
            shown.insert(key, value);
        }
    }
    AboutImage { name, version, metadata: Some(serde_json::Value::Object(shown)) }
}

fn block_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block().map_err(Error::system("block signals"))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(Error::system("watch signals"))
}

/// Whether the other end is closed.
fn hung_up(channel: &Channel) -> bool {
    let mut fds = [PollFd::new(channel.as_fd(), PollFlags::empty())];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(count) if count > 0)
}

/// µs since `began` (`CLOCK_MONOTONIC`, ns).
fn since(began: u64) -> u64 {
    monotonic_ns().saturating_sub(began) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_shown_on_one_level() {
        let metadata = serde_json::json!({
            "ImageName": "hello", "ImageVersion": "1",
            "BuildMetadata": {"BuildTime": "now"}, "DockerInfo": null, "CustomMetadata": {"team": "x"}
        });
        let about = about(metadata);
        assert_eq!(about.name.as_deref(), Some("hello"));
        assert_eq!(about.metadata.unwrap(), serde_json::json!({"BuildTime": "now", "team": "x"}));
        assert!(super::about(serde_json::json!([1])).metadata.is_none());
    }
}
